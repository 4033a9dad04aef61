"""The executor of `--executor ray`: tasks on the nodes of a Ray cluster."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch

from oodbench.engine.executors import ray_worker
from oodbench.engine.executors.executor import Ended, Executor, MakeExecutor, Result, Task
from oodbench.engine.executors.node_cache import CacheOfRun, keep_missing
from oodbench.engine.executors.remote_process import Answer, Settings
from oodbench.engine.executors.resource_shares import Share, equal_shares
from oodbench.engine.executors.sent_progress import ShownProgress
from oodbench.errors import UserError, counted
from oodbench.progress import Reporter

log = logging.getLogger(__name__)

_LOOK_AFTER = 0.5
"""Seconds after which messages are read."""
_SECONDS_TO_CONNECT = 5.0
_SECONDS_TO_STOP = 4.0
_STARTS = 3
"""Tries to start a cluster of this machine."""
ADDRESS_VARIABLE = "RAY_ADDRESS"


def ray_executor(
    address: str | None, workers: int | None, device: torch.device
) -> MakeExecutor[Any]:
    """What makes the executor on a Ray cluster.

    Args:
        address: of the cluster, HOST:PORT, or "auto" for the one that this machine belongs to;
            None: `RAY_ADDRESS`, else a cluster of this machine alone, which ends with the run.
        workers: how many tasks run at once; None: one for each GPU, or for each node.
        device: where they compute.

    Raises:
        UserError: if Ray is not installed, or cannot be reached there.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise UserError(
            "The executor 'ray' needs Ray, which is not installed.",
            "Install it with: pip install 'oodbench[ray]'.",
        ) from error
    if device.index is not None:
        raise UserError(
            f"device: Ray chooses the GPU of each worker, and '{device}' names one.",
            "Use the device cuda.",
        )
    address = address or os.environ.get(ADDRESS_VARIABLE) or None
    if address is not None:
        _check_reachable(address)
    return functools.partial(RayExecutor, address=address, workers=workers, device=device)


def _check_reachable(address: str) -> None:
    """Connect to a port, since Ray itself tries for minutes.

    Raises:
        UserError: if that is not possible.
    """
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal()) or "/" in address:
        raise UserError(
            f"address: expected HOST:PORT of the head node, or auto, not '{address}'.",
            "`ray start --head` prints it.",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"No Ray cluster can be reached at {address}: {error}.",
            "Start one with `ray start --head`, which prints its address, or leave out --address "
            "for one of this machine.",
        ) from error


class RayExecutor(Executor[Result]):
    """Runs tasks on the nodes of a Ray cluster.

    Each task has an equal share of the cores, GPUs and memory (`resource_shares`), and as many
    threads as cores. A task whose worker or node was lost is tried again, after the others that
    wait, three times at most.

    Args:
        say: progress reporter; shows the progress of all tasks.
        address: of the cluster; None: one of this machine, which ends with the run.
        workers: how many tasks run at once; None: one for each GPU, or for each node.
        device: where the tasks compute.

    Raises:
        UserError: if the cluster cannot be used.
    """

    def __init__(
        self, say: Reporter, *, address: str | None, workers: int | None, device: torch.device
    ) -> None:
        import ray

        self._shown = ShownProgress(say)
        self._tries: list[_Try[Result]] = []
        self._asked: Any = None
        self._running: dict[Any, _Try[Result]] = {}
        self._connected = _connect(address, workers)
        if self._connected:  # Ray prints pages of its logs to standard output when a node is lost
            internals = ray._private.worker
            self._printing = internals.print_to_stdstream
            internals.print_to_stdstream = lambda data, **options: log.debug("Ray: %s", data)
        try:
            share = self._share(say, address, workers, device)
            super().__init__(say, workers=share.workers, sharing=share.sharing, threads=share.cores)
            self._prepare(share)
        except BaseException:
            self._disconnect()
            raise

    @staticmethod
    def _share(
        say: Reporter, address: str | None, workers: int | None, device: torch.device
    ) -> Share:
        """The share of each task."""
        import ray

        chosen = os.environ.get("OMP_NUM_THREADS", "") if address is not None else ""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        share = equal_shares(
            machines,
            workers,
            on_gpus=device.type == "cuda",
            most_cores=int(chosen) if chosen.isdecimal() and int(chosen) else None,
        )
        gpus = sum(each.get("GPU", 0) for each in machines)
        if gpus and device.type != "cuda":
            say.warn(
                f"The cluster has {counted(int(gpus), 'GPU')}, and the tasks compute on the CPU: "
                "start the run on a node with a GPU to use them."
            )
        return share

    def _prepare(self, share: Share) -> None:
        """Prepare what all tasks have in common."""
        import ray

        cache = CacheOfRun.here()
        here = ray.get_runtime_context().get_node_id()
        self._cache = Path(cache.folder)
        self._board = (
            ray.remote(ray_worker.Board)
            .options(
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                    here, soft=False
                ),
            )
            .remote(cache.folder)
        )
        self._settings = ray.put(Settings.of_run(share.cores, cache))
        self._work = ray.remote(
            num_cpus=share.cores,
            num_gpus=share.gpus,
            memory=share.memory or None,
            max_retries=0,  # they are counted and reported here
            scheduling_strategy="SPREAD",
        )(ray_worker.work)

    def ended(self) -> Iterator[Ended[Result]]:
        """Tasks as they end."""
        import ray

        self._say.stage("")  # each task has a line of its own
        while self._waiting or self._running:
            self._start()
            ready, _ = ray.wait([*self._running], num_returns=1, timeout=_LOOK_AFTER)
            self._read_messages()
            for reference in ready:
                tried = self._running.pop(reference)
                task = tried.task
                self._shown.row(tried.row, None)
                answer, reason = _taken(reference)
                if answer is None:
                    if lost := self._try_again(task, reason):
                        yield lost
                elif answer.error is not None:
                    yield Ended(task, None, error=answer.error)
                else:
                    try:
                        keep_missing(self._cache, answer.files)
                    except UserError as error:  # ends the run of the task, not those beside it
                        yield Ended(task, None, error=error)
                    else:
                        yield Ended(task, answer.result)

    def _start(self) -> None:
        """Give waiting tasks to Ray."""
        import ray

        while self._waiting and len(self._running) < self.workers:
            tried = _Try(self._waiting.popleft())
            try:
                content = pickle.dumps(tried.task, protocol=pickle.HIGHEST_PROTOCOL)
                reference = self._work.options(name=tried.task.label).remote(
                    content, len(self._tries), self._settings, self._board
                )
            except Exception as error:
                reference = ray.put(Answer(error=error))
            self._tries.append(tried)
            self._running[reference] = tried
            self._shown.row(tried.row, f"waits for {counted(self.threads, 'free core')}")

    def _read_messages(self) -> None:
        """Show what tasks have sent. Without its actor, which may be starting again, nothing."""
        import ray

        # What an actor that is slow gives later is not lost: it is waited for again.
        self._asked = self._asked or self._board.take.remote()
        if not ray.wait([self._asked], timeout=5 * _LOOK_AFTER)[0]:
            return
        asked, self._asked = self._asked, None
        try:
            messages = ray.get(asked)
        except ray.exceptions.RayError:
            return
        running = set(map(id, self._running.values()))
        for number, kind, content in messages:
            tried = self._tries[number]
            if kind in ("result", "warn"):
                self._shown.take(tried.task.label, kind, content)
            elif id(tried) in running:
                if kind == "begun":
                    self._shown.row(tried.row, None)
                    tried.node, content = content, ""
                self._shown.row(tried.row, content)

    def _cancel(self) -> None:
        """Cancel all tasks; those in a training keep its state."""
        import ray

        try:
            left = [*self._running]
            for reference in left:
                ray.cancel(reference)
            deadline = time.monotonic() + _SECONDS_TO_STOP
            if left:
                wait = max(0.0, deadline - time.monotonic())
                _, left = ray.wait(left, num_returns=len(left), timeout=wait)
            for reference in left:
                ray.cancel(reference, force=True)
            with suppress(ray.exceptions.RayError):
                ray.kill(self._board)
        finally:
            self._disconnect()

    def _disconnect(self) -> None:
        import ray

        if self._connected:
            ray.shutdown()
            ray._private.worker.print_to_stdstream = self._printing


@dataclass(eq=False, slots=True)
class _Try(Generic[Result]):
    """One try of a task; `node` is the name of the machine once it has begun."""

    task: Task[Result]
    node: str = ""

    @property
    def row(self) -> str:
        """The name of its line."""
        return f"{self.task.label} on {self.node}" if self.node else self.task.label


def _taken(reference: Any) -> tuple[Answer | None, str]:
    """The answer of a task; None and the reason if it is lost."""
    import ray

    try:
        answer: Answer = ray.get(reference)
        return answer, ""
    except ray.exceptions.OutOfMemoryError:
        return None, "Ray ended its worker because the memory of the node ran out"
    except (ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError):
        return None, "its node was lost"
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.TaskCancelledError):
        return None, "its worker process was ended"
    except Exception as error:  # it could not be started, or its result cannot be sent
        return Answer(error=error), ""


def _connect(address: str | None, workers: int | None) -> bool:
    """Connect to a cluster; False if this program is connected already.

    Raises:
        UserError: if that is not possible.
    """
    import ray

    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"address": address or "local"}
    if options["address"] == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
        gpus = torch.cuda.device_count()
        cores = max(torch.get_num_threads(), workers or 1, gpus)
        options |= {"num_cpus": cores, "include_dashboard": False}
    debugger = os.environ.get("PYTHONBREAKPOINT")
    for start in range(1, _STARTS + 1):
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.CRITICAL)
            return True
        except Exception as error:
            ray.shutdown()
            # A busy machine may not start a node in the half minute that Ray gives it.
            if options["address"] != "local" or start == _STARTS:
                raise _unusable(options["address"], error) from error
        finally:
            _keep_debugger(debugger)
    raise AssertionError


def _keep_debugger(name: str | None) -> None:
    """Undo that Ray makes breakpoint() start its own debugger, in processes started later, too."""
    if name is None:
        os.environ.pop("PYTHONBREAKPOINT", None)
    else:
        os.environ["PYTHONBREAKPOINT"] = name


def _unusable(address: str, error: Exception) -> UserError:
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return UserError(
        f"Ray cannot be used at {address}: {said.rstrip('.')}.",
        "The process of the run must be on a node of the cluster, with the same versions of "
        "Python and Ray (docs/how-to/ray.md).",
    )
