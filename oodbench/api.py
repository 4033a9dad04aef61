"""What a program calls: the commands as functions."""

from __future__ import annotations

import datetime
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodbench.errors import InterruptedRun, UserError, listed
from oodbench.planning.plan import Method, Plan, make_plan, parameters_error
from oodbench.planning.suite import Change, load_suite, plan_suite
from oodbench.plugins import arguments
from oodbench.plugins.catalog import Catalog, DetectorStatus, Plugin
from oodbench.plugins.probe import probe_parameters
from oodbench.process import prepare_process
from oodbench.progress import Reporter, Silent
from oodbench.storage.holding import claim, held, held_around
from oodbench.storage.records import CostRecord, DifferenceRecord, QualityRecord, TrainingRecord
from oodbench.storage.run_description import RunDescription
from oodbench.storage.run_directory import COSTS, DIFFERENCES, RECORDS, TRAINING, RunDirectory
from oodbench.storage.suite_directory import SuiteDirectory

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from oodbench.detector import Detector
    from oodbench.report import Comparison, Leaderboard

RUNS = Path("runs")
"""Where runs go that are not told where, below the working directory."""

_NOTHING_TO_RESUME = "There is nothing to resume in {folder}: a new run begins there."


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
        description = directory.read_description()
        records, costs = directory.read_records()
        ended = description.status == "complete"
        if not records and (ended or RECORDS in directory.changed()):
            path = self.folder / RECORDS
            raise UserError(
                f"{path} is {'empty' if path.exists() else 'missing'}: the results of the run were "
                "in it.",
                "Restore the file, or measure again what is lost: `oodbench run` with --resume and "
                f"--out {self.folder}.",
            )
        return records, costs

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
        return self._leaderboard

    @cached_property
    def _leaderboard(self) -> Leaderboard:
        from oodbench.report import Leaderboard

        try:
            board = Leaderboard.from_records(
                self.records, self.costs, self.warnings, self.differences
            )
        except UserError as error:
            if not self.changed:
                raise
            changed = changed_files(self.folder, self.changed)
            raise UserError(f"{changed} {error.message}", error.hint) from error
        return replace(board, about=_about(RunDirectory(self.folder).read_description()))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of its results should know.

        Files that were changed after the run, and signs of a mistake in the data that were seen
        while it ran (`engine.mistakes`).
        """
        found = RunDirectory(self.folder).read_description().warnings
        changed = self.changed
        return (
            *([changed_files(self.folder, changed)] if changed else []),
            *(
                text if where == "data" else f"{where}: {text}"
                for where, texts in found.items()
                for text in texts
            ),
        )

    @cached_property
    def differences(self) -> list[DifferenceRecord]:
        """For each metric, column and method, how far the best method is ahead of it.

        Read from the run, or computed from the scores if they were not kept; empty if the scores
        were not either.
        """
        from oodbench.report import differences

        directory = RunDirectory(self.folder)
        found = [] if DIFFERENCES in self.changed else directory.read_differences()
        if differences.belong(found, self.records):
            return found
        resamples = directory.read_description().of_benchmark.evaluation.resamples
        try:
            return differences.from_scores(self.records, directory.read_scores, resamples)
        except UserError:  # scores are missing
            return []

    @cached_property
    def training(self) -> list[TrainingRecord]:
        """One record for each epoch of each model and seed."""
        return RunDirectory(self.folder).read_training()

    def figures(self) -> dict[str, Figure]:
        """What can be drawn of the run, by name (`oodbench.report.figures.gallery`)."""
        from oodbench.report.figures import gallery

        description = RunDirectory(self.folder).read_description()
        measured = {(cost.method, cost.seed) for cost in self.costs}
        seed = min((seed for _, seed in measured), default=0)
        methods = dict.fromkeys(cost.method for cost in self.costs)
        scores = {name: self.scores(name, seed) for name in methods if (name, seed) in measured}
        models = description.of_benchmark.models
        return gallery.of_run(models, self.leaderboard(), self.training, scores, seed)

    def write_figures(self, folder: str | Path) -> list[Path]:
        """Draw what can be drawn into a folder; the files that were written.

        Raises:
            UserError: if the folder lies in a run directory that another process holds.
        """
        with held_around(Path(folder)):
            return self._draw(Path(folder))

    def _draw(self, folder: Path) -> list[Path]:
        from oodbench.report.figures import gallery

        return gallery.save_all(self.figures(), folder)

    @property
    def changed(self) -> tuple[str, ...]:
        """Files with results that are not what the run wrote, or are not there any more.

        Empty for runs of versions that recorded no digests.
        """
        return RunDirectory(self.folder).changed()

    def report(self) -> Leaderboard:
        """What there is to report: the leaderboard."""
        return self.leaderboard()

    def scores(self, method: str, seed: int = 0) -> dict[str, NDArray[np.float64]]:
        """Scores by data set, higher is more in-distribution; "id" are the ID test images'.

        Raises:
            UserError: if there are none of that method and seed.
        """
        return RunDirectory(self.folder).read_scores((method, seed))


@dataclass(frozen=True)
class SuiteRun:
    """A run of a suite on disk.

    Attributes:
        folder: the suite's directory.
        complete: whether everything that was asked for is there.
        failures: "benchmark: reason" of each benchmark that is not complete.
    """

    folder: Path
    complete: bool = True
    failures: tuple[str, ...] = ()

    def comparison(self) -> Comparison:
        """The published tables with what was measured beside them."""
        from oodbench.engine.suite import comparison_of

        found = comparison_of(SuiteDirectory(self.folder))
        if changed := self.changed:
            said = changed_files(self.folder, changed)
            found = replace(found, deviations=(said, *found.deviations))
        return found

    @property
    def changed(self) -> tuple[str, ...]:
        """As `Run.changed`, of all members: "<member>/records.jsonl"."""
        return tuple(
            f"{run.folder.name}/{file}" for run in self.members.values() for file in run.changed
        )

    def report(self) -> Comparison:
        """What there is to report: the comparison."""
        return self.comparison()

    @property
    def members(self) -> dict[str, Run]:
        """The benchmarks that have been begun, by what they are called in the suite."""
        directory = SuiteDirectory(self.folder)
        state = directory.read()
        folders = {
            state.suite.member_name(member): directory.member_folder(state, member)
            for member in state.suite.members
        }
        return {
            name: Run(folder) for name, folder in folders.items() if RunDirectory(folder).exists()
        }

    def write_figures(self, folder: str | Path) -> list[Path]:
        """Draw what can be drawn into a folder; the files that were written.

        Raises:
            UserError: if the folder lies in a run directory that another process holds.
        """
        from oodbench.engine.suite import write_figures

        with held_around(Path(folder)):
            return write_figures(SuiteDirectory(self.folder), Path(folder))


def run(
    benchmark: str | Path = "digits",
    *,
    out: str | Path | None = None,
    methods: Sequence[str] | None = None,
    seeds: int = 3,
    device: str = "auto",
    plugins: Sequence[Plugin] = (),
    data_root: str | Path | None = None,
    resume: bool = False,
    tune: str | Sequence[str] | None = None,
    limit: int | None = None,
    epochs: int | None = None,
    progress: Reporter | None = None,
) -> Run:
    """Run a benchmark: what `oodbench run` does.

    Args:
        benchmark: a name, or the path of a YAML file.
        out: the run directory; default: `runs/<benchmark>-<time>`.
        methods: names of methods or detectors; default: all of the benchmark.
        seeds: number of seeds, 0 .. seeds - 1.
        device: "auto", "cpu", "cuda" or "cuda:i".
        plugins: folders of content besides the built-in one, and classes of detectors that are in
            no folder, such as those of a notebook.
        data_root: folder of data sets that do not come built in; recorded with the run.
        resume: continue what is in `out`; without `out`, the newest run of the benchmark.
        tune: names of the detectors whose search space is swept, whatever the benchmark says; or
            "all", or "none".
        limit: for a first try: most images of each split (`oodbench.data.selection`).
        epochs: for a first try: most epochs of a training. Results with `limit` or `epochs` are
            not the benchmark's; every report says so, and they never mix with others.
        progress: takes what there is to say; default: nothing is said.

    Raises:
        UserError: if something that was asked for is not there or not valid.
    """
    prepare_process()
    plugins, methods, seeds = _checked(
        plugins, methods, seeds, benchmark=benchmark, out=out, data_root=data_root, resume=resume
    )
    catalog, change = Catalog(plugins), Change.read(tune, limit, epochs)
    # Misspelt names are found before torch is loaded, which takes seconds.
    plan_run(catalog, benchmark, catalog.detectors, seeds=seeds, methods=methods, change=change)
    run_one = _runner(catalog, device, data_root, resume, progress)
    plan = plan_run(
        catalog,
        benchmark,
        catalog.imported_detectors(),
        seeds=seeds,
        methods=methods,
        refusal=_refusal(catalog),
        change=change,
    )
    name = change.folder_name(catalog.benchmark(str(benchmark)).name)
    with _place(out, name, resume) as folder:
        if resume and not RunDirectory(folder).exists():
            (progress or Silent()).warn(_NOTHING_TO_RESUME.format(folder=folder))
        return run_one(plan, folder)


def run_suite(
    suite: str | Path = "dismax-paper",
    *,
    out: str | Path | None = None,
    methods: Sequence[str] | None = None,
    seeds: int = 3,
    device: str = "auto",
    plugins: Sequence[Plugin] = (),
    data_root: str | Path | None = None,
    resume: bool = False,
    tune: str | Sequence[str] | None = None,
    limit: int | None = None,
    epochs: int | None = None,
    progress: Reporter | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> SuiteRun:
    """Run the benchmarks of a suite and lay what they give beside the published numbers.

    What `oodbench run` does with a suite. A benchmark that fails is reported, and the others are
    run nevertheless.

    Args:
        suite: a name, or the path of a YAML file.
        out: the suite's directory; default: `runs/<suite>-<time>`.
        methods: names of methods or detectors; default: all of every benchmark.
        seeds: number of seeds, 0 .. seeds - 1.
        device: "auto", "cpu", "cuda" or "cuda:i".
        plugins: folders of content besides the built-in one, and classes of detectors that are in
            no folder, such as those of a notebook.
        data_root: folder of data sets that do not come built in; recorded with the runs.
        resume: continue what is in `out`; without `out`, the newest run of the suite.
        tune: names of the detectors whose search space is swept, whatever the benchmark says; or
            "all", or "none".
        limit: for a first try: most images of each split (`oodbench.data.selection`).
        epochs: for a first try: most epochs of a training. Results with `limit` or `epochs` are
            not the benchmark's; every report says so, and they never mix with others.
        progress: takes what each benchmark has to say; default: nothing is said.
        say: takes a line before and after each benchmark.

    Raises:
        UserError: if something that was asked for is not there or not valid.
    """
    from oodbench.engine.suite import run_members

    prepare_process()
    plugins, methods, seeds = _checked(
        plugins, methods, seeds, suite=suite, out=out, data_root=data_root, resume=resume
    )
    catalog, change = Catalog(plugins), Change.read(tune, limit, epochs)
    whole = load_suite(catalog, str(suite))
    loaded = whole.changed(change)
    plan_suite(catalog, loaded, catalog.detectors, seeds=seeds, methods=methods)
    run_one = _runner(catalog, device, data_root, resume, progress)
    plans = plan_suite(
        catalog,
        loaded,
        catalog.imported_detectors(),
        seeds=seeds,
        methods=methods,
        refusal=_refusal(catalog),
    )
    reporter = progress or Silent()
    with _place(out, change.folder_name(whole.spec.name), resume) as folder:
        if resume and not SuiteDirectory(folder).exists():
            reporter.warn(_NOTHING_TO_RESUME.format(folder=folder))
        state = run_members(
            loaded,
            plans,
            catalog,
            SuiteDirectory(folder),
            run_one,
            resume=resume,
            request={"seeds": seeds, "methods": None if methods is None else list(methods)},
            say=say,
            progress=reporter,
            data_root=None if data_root is None else Path(data_root),
        )
    failures = tuple(
        f"{loaded.spec.member_name(member)}: {reason}" for member, reason in state.reasons.items()
    )
    return SuiteRun(folder, state.complete, failures)


def _about(description: RunDescription) -> tuple[str, ...]:
    """When and with what a run was made, in sentences."""
    versions = description.versions
    found = []
    if description.written:
        found.append(f"Run of {description.written[:16].replace('T', ' ')} UTC.")
    if version := versions.get("oodbench"):
        revision = versions.get("oodbench_revision")
        found.append(f"oodbench {version}{f', revision {revision}' if revision else ''}.")
    return tuple(found)


def open_run(folder: str | Path) -> Run | SuiteRun:
    """The run on disk in a folder, of a benchmark or of a suite.

    Warns if files with results were changed after the run (`Run.changed`).

    Raises:
        UserError: if there is none, or its description is not readable.
    """
    place = Path(folder)
    found = SuiteRun(place) if SuiteDirectory(place).exists() else Run(place)
    if changed := found.changed:
        warnings.warn(changed_files(place, changed), stacklevel=2)
    return found


def changed_files(folder: Path, names: Sequence[str]) -> str:
    """What is said of a run whose files were changed after it, or are not there any more.

    Args:
        folder: of the run, or of the suite.
        names: of the files, relative to the folder.
    """
    missing = [name for name in names if not (folder / name).exists()]
    changed = [name for name in names if name not in missing]
    found = []
    if changed:
        found.append(
            f"{listed(changed)} changed after the run: what is shown is not what was measured"
        )
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        found.append(f"{listed(missing)} {verb} missing: {_not_shown(missing)}")
    return f"{folder}: {'; '.join(found)}. `oodbench run` with --resume makes it again."


def _not_shown(missing: Sequence[str]) -> str:
    """What reports lack without some files of a run."""
    kinds = {"scores" if name.endswith(".npz") else name.rpartition("/")[2] for name in missing}
    ties = "which methods are tied is not shown" if "scores" in kinds else "ties are tested again"
    lacking = {
        RECORDS: "the results in it are not shown",
        COSTS: "costs are not shown",
        TRAINING: "training is not shown",
        DIFFERENCES: ties,
        "scores": "figures cannot be drawn of these scores; values in tables are not affected",
    }
    return ", ".join(text for kind, text in lacking.items() if kind in kinds)


def _checked(
    plugins: Any, methods: Any, seeds: Any, *, resume: Any, **places: Any
) -> tuple[list[Plugin], list[str] | None, int]:
    """Plug-ins, names of methods and number of seeds, as they are to be used.

    Raises:
        UserError: if one of them, `resume` or a place has another type.
    """
    arguments.truth("resume", resume)
    for name, place in places.items():
        if place is not None or name in ("benchmark", "suite"):
            arguments.path(name, place)
    return (
        arguments.plugins("plugins", plugins),
        None if methods is None else arguments.names("methods", methods),
        arguments.whole_number("seeds", seeds, 1, arguments.MOST_SEEDS),
    )


def _runner(
    catalog: Catalog,
    device: str,
    data_root: str | Path | None,
    resume: bool,
    progress: Reporter | None,
) -> Callable[[Plan, Path], Run]:
    """What carries out a plan in a folder and writes its reports there.

    Raises:
        UserError: if there is no such device or folder.
    """
    from oodbench.engine.benchmark import run as carry_out
    from oodbench.engine.device import find_device
    from oodbench.report.writers.run_files import RUN_FILES

    if data_root is not None and not Path(data_root).is_dir():
        raise UserError(
            f"data_root: {data_root} is not a folder.", "Give the folder that the data lies in."
        )
    place = find_device(device)

    def run_one(plan: Plan, folder: Path) -> Run:
        outcome = carry_out(
            plan,
            catalog,
            folder,
            device=place,
            say=progress or Silent(),
            resume=resume,
            data_root=None if data_root is None else Path(data_root),
        )
        done = Run(outcome.folder, outcome.complete, outcome.failures)
        board, directory = done.leaderboard(), RunDirectory(outcome.folder)
        for name, written in RUN_FILES.items():
            directory.write_text(name, written(board))
        # Drawing takes seconds, which only matters where training takes as long.
        if any(record.test_accuracy is not None for record in done.training):
            done._draw(outcome.folder / "figures")
        return done

    return run_one


def _refusal(catalog: Catalog) -> Callable[[Method], str | None]:
    """Found before anything is trained: a parameter that the detector does not take."""

    def refusal(method: Method) -> str | None:
        try:
            catalog.load_detector(method.detector.name, method.parameters)
        except UserError as error:
            if method.asked_for:
                raise
            return error.message.rstrip(".")
        return None

    return refusal


def plan_run(
    catalog: Catalog,
    benchmark: str | Path,
    statuses: Mapping[str, DetectorStatus],
    *,
    seeds: int,
    methods: Sequence[str] | None,
    refusal: Callable[[Method], str | None] = lambda method: None,
    change: Change | None = None,
) -> Plan:
    """The plan of a run, without doing any of it.

    Raises:
        UserError: as `oodbench.planning.plan.make_plan`.
    """
    spec = (change or Change()).of(catalog.benchmark(str(benchmark)))
    return make_plan(spec, catalog, statuses, seeds=seeds, methods=methods, refusal=refusal)


def check_parameters(plan: Plan, catalog: Catalog) -> None:
    """Refuse parameters that a detector does not take, without importing it in this process.

    What `run` finds when it makes the detectors, for those who only look at the plan.

    Raises:
        UserError: naming file, line and method.
    """
    wanted = [method for method in plan.methods if method.parameters]
    files = [catalog.entry("detector", method.detector.name).path for method in wanted]
    pairs = zip(files, (method.parameters for method in wanted), strict=True)
    for method, error in zip(wanted, probe_parameters(list(pairs)), strict=True):
        if error is not None:
            raise parameters_error(method, plan.benchmark, *error)


@contextmanager
def _place(out: str | Path | None, name: str, resume: bool) -> Iterator[Path]:
    """The run directory, held: the one that was given, the newest to resume, or a new one.

    Raises:
        UserError: if another process holds it, or it cannot be written.
        InterruptedRun: if the user stops what is done meanwhile.
    """
    if out is not None:
        folder = Path(out)
    else:
        folder = (_newest(name) if resume else None) or _new_folder(name)
    with held(folder):
        try:
            yield folder
        except KeyboardInterrupt:
            raise InterruptedRun(folder) from None


def _newest(name: str) -> Path | None:
    """The newest default run directory of a benchmark or a suite."""
    # Times sort as text; the stem guards against digits-open-set being taken for digits.
    before = sorted(RUNS.glob(f"{name}-[0-9]*-[0-9]*"))
    return before[-1] if before else None


def _new_folder(name: str) -> Path:
    """`runs/<name>-<time>`, made now; with a number if another run has taken that name."""
    stem = f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(RUNS / each for each in names if claim(RUNS / each))


def load_detector(name: str, /, **parameters: Any) -> Detector:
    """A detector by name.

    Args:
        name: a name of `oodbench list detectors`.
        **parameters: arguments of its constructor.

    Raises:
        UserError: if there is no such detector, it is broken, or does not take a parameter.
    """
    return Catalog().load_detector(name, parameters)
