"""Options that choose an executor: where the cells of a run, or shards of them, are computed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import yaml

from oodbench import argument_checks
from oodbench.errors import UserError, shown
from oodbench.specs.yaml_file import read_value

EXECUTORS = ("local", "ray", "submitit")
MOST_WORKERS = 1000
"""Largest number of workers that is accepted; each worker is a process."""
_MOST_JOBS = 100
"""Default number of jobs at once."""


@dataclass(frozen=True, slots=True)
class ExecutorOptions:
    """The choice of an executor.

    Attributes:
        name: one of `EXECUTORS`.
        address: of a Ray cluster, or None.
        workers: how many cells are computed at once; None for the default of the executor.
        jobs: options of the jobs of submitit (`engine.executors.submitit_executor`).
        shard_images: as of `Plan`.
    """

    name: str = "local"
    address: str | None = None
    workers: int | None = None
    jobs: Mapping[str, Any] = field(default_factory=dict)
    shard_images: int | None = None

    @classmethod
    def read(
        cls,
        name: Any,
        address: Any = None,
        workers: Any = None,
        jobs: Any = None,
        shard_images: Any = None,
    ) -> Self:
        """The choice that arguments make; whether a cluster is there is seen later.

        Raises:
            UserError: if there is no such executor, or another argument is not valid.
        """
        if name not in EXECUTORS:
            known = f"{', '.join(EXECUTORS[:-1])} or {EXECUTORS[-1]}"
            raise UserError(f"executor: expected {known}, not {shown(name)}.")
        if address is not None and (not isinstance(address, str) or not address.strip()):
            raise UserError(f"address: expected HOST:PORT or auto, not {shown(address)}.")
        if address is not None and name != "ray":
            raise UserError(
                "address: only the executor 'ray' has an address.", "Give --executor ray with it."
            )
        if workers is not None:
            workers = argument_checks.whole_number("workers", workers, 1, MOST_WORKERS)
        if jobs is not None and not (isinstance(jobs, Mapping) and all(map(_is_name, jobs))):
            raise UserError(f"submitit_options: expected names with values, not {shown(jobs)}.")
        if jobs and name != "submitit":
            raise UserError(
                "submitit_options: only the executor 'submitit' has options.",
                "Give --executor submitit with them.",
            )
        if shard_images is not None:
            shard_images = argument_checks.whole_number("shard_images", shard_images, 1)
        return cls(name, address, workers, dict(jobs or {}), shard_images)

    def workers_for(self, tasks: int) -> int | None:
        """How many workers some tasks get, at least 1; None for the default of the executor."""
        most = _MOST_JOBS if self.name == "submitit" and self.workers is None else self.workers
        return None if most is None else max(1, min(most, tasks))

    @property
    def words(self) -> list[str]:
        """The options of the command that make this choice."""
        words = ["--executor", self.name] if self.name != "local" else []
        words += ["--address", self.address] if self.address is not None else []
        words += ["--workers", str(self.workers)] if self.workers is not None else []
        for name, value in self.jobs.items():
            words += ["--submitit-option", f"{name}={json.dumps(value)}"]
        shards = self.shard_images
        return words + (["--shard-images", str(shards)] if shards is not None else [])


def job_options(texts: Iterable[str]) -> dict[str, Any]:
    """Options of jobs from texts NAME=VALUE, whose values are read as YAML; dates stay texts.

    Raises:
        UserError: if a text is not of this form.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            if not (equals and _is_name(name)):
                raise ValueError
            found[name] = read_value(value)
            json.dumps(found[name])
        except TypeError:
            found[name] = value
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            problem = getattr(error, "problem", None)
            why = f" ({problem})" if problem else ""
            raise UserError(
                f"--submitit-option: expected NAME=VALUE, not {shown(text)}{why}.",
                "For example: --submitit-option slurm_partition=gpu.",
            ) from error
    return found


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier()
