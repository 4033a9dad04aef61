"""What a program calls: the commands as functions."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodbench.catalog import Catalog, DetectorStatus
from oodbench.errors import UserError
from oodbench.plan import Method, Plan, make_plan
from oodbench.progress import Reporter, Silent
from oodbench.records import CostRecord, QualityRecord
from oodbench.rundir import RunDirectory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from oodbench.detector import Detector
    from oodbench.report import Leaderboard

RUNS = Path("runs")
"""Where runs go that are not told where, below the working directory."""


@dataclass(frozen=True)
class Run:
    """A run on disk.

    Attributes:
        folder: the run directory.
        complete: whether everything that was asked for is there.
        failures: "method (seed k): reason" of each failure.
    """

    folder: Path
    complete: bool = True
    failures: tuple[str, ...] = ()

    @cached_property
    def _read(self) -> tuple[list[QualityRecord], list[CostRecord]]:
        directory = RunDirectory(self.folder)
        directory.read_description()
        return directory.read_records()

    @property
    def records(self) -> list[QualityRecord]:
        """One record for each method, OOD set, metric and seed."""
        return self._read[0]

    @property
    def costs(self) -> list[CostRecord]:
        """One record for each method and seed."""
        return self._read[1]

    def leaderboard(self) -> Leaderboard:
        """The records, aggregated and ranked."""
        from oodbench.report import Leaderboard

        return Leaderboard.from_records(self.records, self.costs)

    def scores(self, method: str, seed: int = 0) -> dict[str, NDArray[np.float64]]:
        """Scores by data set, higher is more in-distribution; "id" are the ID test images'.

        Raises:
            UserError: if there are none of that method and seed.
        """
        return RunDirectory(self.folder).read_scores((method, seed))


def run(
    benchmark: str | Path = "digits",
    *,
    out: str | Path | None = None,
    methods: Sequence[str] | None = None,
    seeds: int = 3,
    device: str = "auto",
    plugins: Sequence[str | Path] = (),
    data_root: str | Path | None = None,
    resume: bool = False,
    progress: Reporter | None = None,
) -> Run:
    """Run a benchmark: what `oodbench run` does.

    Args:
        benchmark: a name, or the path of a YAML file.
        out: the run directory; default: `runs/<benchmark>-<time>`.
        methods: names of methods or detectors; default: all of the benchmark.
        seeds: number of seeds, 0 .. seeds - 1.
        device: "auto", "cpu", "cuda" or "cuda:i".
        plugins: folders of content besides the built-in one.
        data_root: folder of data sets that do not come built in; recorded with the run. (All
            present ones are built in.)
        resume: continue what is in `out`; without `out`, the newest run of the benchmark.
        progress: takes what there is to say; default: nothing is said.

    Raises:
        UserError: if something that was asked for is not there or not valid.
    """
    catalog = Catalog(plugins)
    # Misspelt names are found before torch is loaded, which takes seconds.
    plan_run(catalog, benchmark, catalog.detectors, seeds=seeds, methods=methods)

    from oodbench.engine.device import find_device
    from oodbench.engine.run import run as carry_out

    if data_root is not None and not Path(data_root).is_dir():
        raise UserError(
            f"--data-root: {data_root} is not a folder.", "Give the folder that the data lies in."
        )

    def refusal(method: Method) -> str | None:
        """Found before anything is trained: a parameter that the detector does not take."""
        try:
            catalog.load_detector(method.detector.name, method.parameters)
        except UserError as error:
            if method.asked_for:
                raise
            return error.message.rstrip(".")
        return None

    plan = plan_run(
        catalog,
        benchmark,
        catalog.imported_detectors(),
        seeds=seeds,
        methods=methods,
        refusal=refusal,
    )
    folder = Path(out) if out is not None else default_folder(plan.benchmark.name, resume=resume)
    outcome = carry_out(
        plan,
        catalog,
        folder,
        device=find_device(device),
        say=progress or Silent(),
        resume=resume,
        data_root=None if data_root is None else Path(data_root),
    )
    finished = Run(outcome.folder, outcome.complete, outcome.failures)
    board, directory = finished.leaderboard(), RunDirectory(outcome.folder)
    directory.write_text("leaderboard.md", board.to_markdown())
    directory.write_text("leaderboard.csv", board.to_csv())
    directory.write_text("leaderboard.json", board.to_json())
    return finished


def plan_run(
    catalog: Catalog,
    benchmark: str | Path,
    statuses: Mapping[str, DetectorStatus],
    *,
    seeds: int,
    methods: Sequence[str] | None,
    refusal: Callable[[Method], str | None] = lambda method: None,
) -> Plan:
    """The plan of a run, without doing any of it.

    Raises:
        UserError: as `oodbench.plan.make_plan`.
    """
    spec = catalog.benchmark(str(benchmark))
    return make_plan(spec, catalog, statuses, seeds=seeds, methods=methods, refusal=refusal)


def default_folder(benchmark: str, *, resume: bool) -> Path:
    """`runs/<benchmark>-<time>`; to resume, the newest one there is."""
    if resume:
        # Times sort as text; the stem guards against digits-open-set being taken for digits.
        before = sorted(RUNS.glob(f"{benchmark}-[0-9]*-[0-9]*"))
        if before:
            return before[-1]
    return RUNS / f"{benchmark}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def load_detector(name: str, /, **parameters: Any) -> Detector:
    """A detector by name.

    Args:
        name: a name of `oodbench list detectors`.
        **parameters: arguments of its constructor.

    Raises:
        UserError: if there is no such detector, it is broken, or does not take a parameter.
    """
    return Catalog().load_detector(name, parameters)
