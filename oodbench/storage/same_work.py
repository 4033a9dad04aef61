"""Whether a run directory holds the same work: the same benchmark, data, version and detectors.

Resuming a run and finding the finished benchmarks of a suite ask the same question, here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from oodbench.errors import listed
from oodbench.files import canonical_json, digest
from oodbench.specs import BenchmarkSpec
from oodbench.storage.run_description import RunDescription
from oodbench.storage.run_directory import RunDirectory
from oodbench.version import __version__

IN_NO_FILE = "a class that is in no file of a plug-in folder"
"""Stands for the checksum of such a detector. Its source is not known, so it always runs again."""


def run_id_of(
    identity: Mapping[str, Any], data: Mapping[str, Mapping[str, str]], version: str
) -> str:
    """The id of a run.

    Args:
        identity: what results depend on of a benchmark, as `BenchmarkSpec.identity`.
        data: data set -> split -> checksum.
        version: of oodbench.
    """
    return digest(canonical_json(identity), canonical_json(data), version)[:16]


@dataclass(frozen=True, slots=True)
class Work:
    """What the results of a run depend on.

    Attributes:
        benchmark: its specification.
        data: data set -> split -> checksum.
        detectors: name -> checksum of its source, or `IN_NO_FILE`.
        fitted_on: likewise `data`, of large splits that only some methods read.
    """

    benchmark: BenchmarkSpec
    data: Mapping[str, Mapping[str, str]]
    detectors: Mapping[str, str]
    fitted_on: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """Digest of benchmark, data and package version: the results of equal ids can be mixed."""
        return run_id_of(self.benchmark.identity(), self.data, __version__)

    @property
    def checksum(self) -> str:
        """Digest of all, for another process that has to have the same."""
        files = {"detectors": dict(self.detectors), "fitted_on": dict(self.fitted_on)}
        return digest(self.run_id, canonical_json(files))

    def difference(self, held: RunDescription) -> str | None:
        """How the work of a run on disk differs, as "a run ..."; None if its results can be mixed.

        Detectors are compared one by one (`changed_detectors`).
        """
        other = benchmark_difference(self.benchmark, held)
        if other is not None:
            return other
        before = held.checksums.fitted_on
        same = all(
            before.get(name, {}).get(split, checksum) == checksum
            for name, splits in self.fitted_on.items()
            for split, checksum in splits.items()
        )
        if held.run_id != self.run_id or not same:
            return f"a run with other data, or of oodbench {held.versions.get('oodbench')}"
        return None

    def changed_detectors(self, held: RunDescription) -> set[str]:
        """Detectors with another source than in the run on disk."""
        before = held.checksums.detectors
        return {
            name
            for name, checksum in self.detectors.items()
            if checksum == IN_NO_FILE or before.get(name) != checksum
        }


def benchmark_difference(benchmark: BenchmarkSpec, held: RunDescription) -> str | None:
    """As `Work.difference`, of the benchmark alone: known before any data are read."""
    if held.benchmark_identity == benchmark.identity():
        return None
    before = held.of_benchmark
    other = f"'{before.name}' version {before.version}"
    if (before.name, before.version) == (benchmark.name, benchmark.version):
        keys = listed(_different(held.benchmark_identity, benchmark.identity()), 3)
        other = f"another state of '{before.name}' ({keys})"
    return (
        f"a run of benchmark {other}, not of '{benchmark.name}' version {benchmark.version} as it "
        "is now"
    )


def is_done(
    directory: RunDirectory, work: Work, methods: Iterable[str], seeds: Iterable[int]
) -> bool:
    """Whether a run directory holds these methods and seeds of a work, complete and unchanged."""
    if not directory.exists():
        return False
    held = directory.read_description()
    return (
        held.status == "complete"
        and work.difference(held) is None
        and not work.changed_detectors(held)
        and set(seeds) <= set(held.seeds)
        and set(methods) <= {method.name for method in held.methods}
        and set(work.benchmark.metrics) <= set(held.of_benchmark.metrics)
        and not directory.changed()
    )


def _different(held: Any, now: Any, key: str = "") -> list[str]:
    """Keys whose values differ, with dots between them."""
    if not isinstance(held, dict) or not isinstance(now, dict):
        return [] if held == now else [key]
    return [
        each
        for name in {**held, **now}
        for each in _different(held.get(name), now.get(name), f"{key}.{name}".lstrip("."))
    ]


_WHICH = frozenset({"detectors", "tune"})
"""Keys of the tuning protocol that say which detectors are tuned, as the records do."""


def shared_differences(one: Any, other: Any, key: str) -> list[str]:
    """Keys of a part of two benchmarks that both have, with other values; dots between them.

    A key that one side lacks is that of another version of oodbench, or of a model of one run.

    Args:
        one: value of the part in one run.
        other: in the other one.
        key: name of the part.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return [
            found
            for name in one
            if name in other and name not in _WHICH
            for found in shared_differences(one[name], other[name], f"{key}.{name}")
        ]
    return [key] if one is not None and other is not None and one != other else []
