"""Checks in another process: a file that never ends, or that ends Python, ends that process only.

`python -m oodbench.testing.isolation FILE SECONDS` checks a detector's file and writes events to
its standard output, a JSON object a line. What the detector prints goes to standard error.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from oodbench.errors import UserError
from oodbench.testing.check_results import CheckResult
from oodbench.testing.targets import broken

_STARTING = 300.0
"""Seconds that Python may take to start and to load torch; nothing of the detector runs then."""

_GRACE = 5.0
"""Seconds after the limit in which the other process may say where it is."""

_Event = Mapping[str, Any]


def isolated_results(path: Path, time_limit: float) -> Iterator[CheckResult]:
    """Check a detector's file in another process.

    Args:
        path: the file.
        time_limit: seconds that running the file, and each check, may take.

    Yields:
        The result of each check, as soon as it is made. A check that takes longer, or ends the
        process, fails, and those after it are not run.

    Raises:
        UserError: if the file does not import, ends Python, or takes longer.
    """
    with _process(path, time_limit) as events:
        waiting = _received(events, _STARTING)["checks"]  # name -> requirement
        with_limit = time_limit + _GRACE
        found = _received(events, with_limit)
        if "imported" not in found:
            raise broken(path, _import_problem(found, time_limit))
        while waiting:
            found = _received(events, with_limit)
            if "result" in found:
                result = CheckResult(**found["result"])
                del waiting[result.name]
                yield result
                continue
            name, *others = waiting
            yield _stopped(name, waiting[name], found, time_limit)
            for other in others:
                reason = f"{name} ended the checks"
                yield CheckResult(other, "not run", waiting[other], reason)
            return


def _import_problem(event: _Event, limit: float) -> str:
    if "broken" in event:
        return str(event["broken"])
    if "late" in event:
        place, line = event["late"]
        where = f" ({place}: {line})" if place else ""
        return f"running the file takes longer than {limit:g} s{where}"
    return f"running the file ends Python ({event['ended']})"


def _stopped(name: str, idea: str, event: _Event, limit: float) -> CheckResult:
    """The result of a check that did not come to its end."""
    if "late" in event:
        return CheckResult(
            name,
            "failed",
            idea,
            f"takes longer than {limit:g} s",
            "End the loop, or allow more time with --time-limit SECONDS.",
            *event["late"],
        )
    return CheckResult(
        name,
        "failed",
        idea,
        f"the detector ends Python ({event['ended']})",
        "Raise an exception instead of ending the process.",
    )


# --- this process --------------------------------------------------------------------------------


@contextmanager
def _process(path: Path, time_limit: float) -> Iterator[queue.Queue[_Event]]:
    """The other process, and the events that it has written; it is killed at the end."""
    # The other process finds modules where this one does: `-m` alone adds the working directory.
    options = [] if {"", str(Path.cwd())} & {*sys.path} else ["-P"]
    process = subprocess.Popen(
        [sys.executable, *options, "-m", __name__, str(path), str(time_limit)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # so that processes of the detector are killed, too
    )
    events: queue.Queue[_Event] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            events.put(json.loads(line))
        code = process.wait()
        events.put({"ended": f"signal {-code}" if code < 0 else f"exit code {code}"})

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield events
    finally:
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()
        reader.join(timeout=_GRACE)


def _received(events: queue.Queue[_Event], seconds: float) -> _Event:
    """The next event; if none comes in time, that the process is late."""
    try:
        return events.get(timeout=seconds)
    except queue.Empty:
        return {"late": ("", "")}


# --- the other process ---------------------------------------------------------------------------


def _main(path: Path, time_limit: float) -> None:
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)  # what the detector prints is not to be read as an event

        def send(**event: Any) -> None:
            output.write(json.dumps(event) + "\n")
            output.flush()

        from oodbench.testing.subject import subject_of
        from oodbench.testing.suite import CHECKS, results_of

        main = threading.get_ident()

        @contextmanager
        def limited() -> Iterator[None]:
            def late() -> None:
                from oodbench.engine.reasons import place_within

                send(late=place_within(sys._current_frames().get(main)))

            timer = threading.Timer(time_limit, late)
            timer.daemon = True
            timer.start()
            try:
                yield
            finally:
                timer.cancel()

        send(checks={check.name: check.idea for check in CHECKS})
        try:
            with limited():
                subject = subject_of(path)
        except UserError as error:
            send(broken=str(error).removeprefix(f"{path}: "))
            return
        send(imported=True)
        made = results_of(subject)
        for _ in CHECKS:
            with limited():
                result = next(made)
            send(result=dataclasses.asdict(result))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), float(sys.argv[2]))
