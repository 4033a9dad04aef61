"""Runs on disk, as a program reads them: views of run directories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from oodbench import argument_checks
from oodbench.errors import UserError
from oodbench.storage.changed_files import changed_files
from oodbench.storage.description import is_sealed
from oodbench.storage.locks import held_around
from oodbench.storage.records import CostRecord, DifferenceRecord, QualityRecord, TrainingRecord
from oodbench.storage.run_description import RunDescription
from oodbench.storage.run_directory import DIFFERENCES, RECORDS, RunDirectory
from oodbench.storage.suite_directory import SuiteDirectory

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from oodbench.progress import Reporter
    from oodbench.report import Leaderboard, PublishedComparison
    from oodbench.report.figures.gallery import StoredScores
    from oodbench.verification.outcome import Verification


@dataclass(frozen=True)
class Run:
    """A run of a benchmark on disk.

    Attributes:
        folder: the run directory.
        complete: whether everything that was asked for is there.
        failures: "method (seed k): reason" of each failure.
        computed: records that are not on disk (`with_metrics`).
    """

    folder: Path
    complete: bool = True
    failures: tuple[str, ...] = ()
    computed: tuple[QualityRecord, ...] = ()

    def with_metrics(self, metrics: str | Sequence[str]) -> Run:
        """The run with metrics on request that it did not record; nothing is written.

        They are computed from its scores and predictions.

        Args:
            metrics: names of `oodbench.metrics.OPTIONAL`, or "all".

        Raises:
            UserError: if a name is not known, or scores or predictions cannot be read.
        """
        from oodbench.engine.runs.stored_scores import computed_later
        from oodbench.planning.overrides import optional_metrics

        names = optional_metrics(metrics)
        resamples = self._directory.read_description().of_benchmark.evaluation.resamples
        found = computed_later(self._directory, self._read[0], names, resamples)
        return replace(self, computed=(*self.computed, *found))

    @property
    def _directory(self) -> RunDirectory:
        return RunDirectory(self.folder)

    @cached_property
    def _read(self) -> tuple[list[QualityRecord], list[CostRecord]]:
        ended = self._directory.read_description().status == "complete"
        records, costs = self._directory.read_records()
        if not records and (ended or RECORDS in self.changed):
            path = self.folder / RECORDS
            raise UserError(
                f"{path} is {'empty' if path.exists() else 'missing'}: it held the results of the "
                "run.",
                "Restore the file, or compute the results again: `oodbench run` with --resume and "
                f"--out {self.folder}.",
            )
        return records, costs

    @property
    def records(self) -> list[QualityRecord]:
        """One record for each method, OOD set, metric and seed."""
        return [*self._read[0], *self.computed]

    @property
    def costs(self) -> list[CostRecord]:
        """One record for each method and seed."""
        return self._read[1]

    @cached_property
    def training(self) -> list[TrainingRecord]:
        """One record for each epoch of each model and seed."""
        return self._directory.read_training()

    @cached_property
    def differences(self) -> list[DifferenceRecord]:
        """Lead of the best method over each method, for each metric and column.

        Read from the run, or computed from its scores if the file is missing; empty if the scores
        are missing too.
        """
        from oodbench.report import differences

        found = [] if DIFFERENCES in self.changed else self._directory.read_differences()
        if differences.belong(found, self.records):
            return found
        resamples = self._directory.read_description().of_benchmark.evaluation.resamples
        try:
            return differences.from_scores(self.records, self._directory.read_scores, resamples)
        except UserError:  # scores are missing
            return []

    def scores(self, method: str, seed: int = 0) -> dict[str, NDArray[np.float64]]:
        """Scores of a method: data set -> array [N], "id" for the ID set.

        Higher is more in-distribution. csID sets have arrays of their own, also where their images
        count as ID.

        Raises:
            UserError: if there are none of that method and seed.
        """
        return self._directory.read_scores((method, seed))

    def leaderboard(self) -> Leaderboard:
        """The records, aggregated and ranked."""
        return self._leaderboard

    @cached_property
    def _leaderboard(self) -> Leaderboard:
        from oodbench.report import Leaderboard
        from oodbench.report.published.average_matching import averages_of

        try:
            board = Leaderboard.from_records(
                self.records, self.costs, self.warnings, self.differences
            )
        except UserError as error:
            if not self.changed:
                raise
            changed = changed_files(self.folder, self.changed)
            raise UserError(f"{changed} {error.message}", error.hint) from error
        described = self._directory.read_description()
        return replace(
            board,
            about=_about(described),
            published=averages_of(board, described),
            left_out=tuple(described.left_out),
        )

    def report(self) -> Leaderboard:
        """The report of the run: its leaderboard."""
        return self.leaderboard()

    def figures(self) -> dict[str, Figure]:
        """The figures that can be drawn of the run, by name (`oodbench.report.figures.gallery`)."""
        from oodbench.report.figures import gallery

        described, board = self._directory.read_description(), self.leaderboard()
        return gallery.of_run(
            described.of_benchmark.models, board, self.training, self._stored_scores(board)
        )

    def _stored_scores(self, board: Leaderboard) -> StoredScores | None:
        """The scores of the first seed that has some; None if none are stored."""
        from oodbench.planning.tested_images import images_at_hand
        from oodbench.report.differences import joined
        from oodbench.report.figures.gallery import StoredScores

        keys = dict.fromkeys((r.method, r.seed) for r in self.records if r.status == "ok")
        there = [key for key in keys if self._directory.scores_path(key).exists()]
        if not there:
            return None
        seed = min(seed for _, seed in there)
        keys = dict.fromkeys(key for key in there if key[1] == seed)
        several = len({record.seed for record in self.records}) > 1
        validation = {key[0]: self._directory.read_validation(key) for key in keys}
        return StoredScores(
            validation={name: each["id"] for name, each in validation.items() if "id" in each},
            scores={key[0]: joined(self.scores(*key), board.csid) for key in keys},
            heading=board.benchmark,
            seed=seed if several else None,
            images=images_at_hand(self._directory.read_description()),
        )

    def write_figures(self, folder: str | Path) -> list[Path]:
        """Draw the figures into a folder.

        Returns:
            The files.

        Raises:
            UserError: if the folder lies in a run directory that another process uses.
        """
        return write_figures(self.figures(), folder)

    @property
    def changed(self) -> tuple[str, ...]:
        """Files with results that were changed or removed after the run.

        Empty for runs of versions that recorded no digests.
        """
        return self._directory.changed()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the results should know.

        Files that were changed after the run, and signs of a mistake in the data that the run
        found (`engine.mistakes`).
        """
        changed = self.changed
        return (
            *([changed_files(self.folder, changed)] if changed else []),
            *self._directory.read_description().warning_texts,
        )


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

    @property
    def members(self) -> dict[str, Run]:
        """The runs of the benchmarks that were started, by the benchmark's name in the suite."""
        described = SuiteDirectory(self.folder).read().members
        folders = {each.name: self.folder / each.name for each in described}
        return {
            name: Run(folder) for name, folder in folders.items() if RunDirectory(folder).exists()
        }

    def comparison(self) -> PublishedComparison:
        """The published tables, with the measured values beside the published ones."""
        from oodbench.report.writers.suite_files import comparison_of

        found = comparison_of(SuiteDirectory(self.folder))
        if changed := self.changed:
            warning = changed_files(self.folder, changed)
            found = replace(found, deviations=(warning, *found.deviations))
        return found

    def report(self) -> PublishedComparison:
        """The report of the suite: its comparison."""
        return self.comparison()

    def figures(self) -> dict[str, Figure]:
        """The figures that can be drawn of the suite, by name."""
        from oodbench.report.writers.suite_files import figures_of

        return figures_of(SuiteDirectory(self.folder))

    def write_figures(self, folder: str | Path) -> list[Path]:
        """Draw the figures into a folder.

        Returns:
            The files.

        Raises:
            UserError: if the folder lies in a run directory that another process uses.
        """
        return write_figures(self.figures(), folder)

    @property
    def changed(self) -> tuple[str, ...]:
        """As `Run.changed`, of `suite.json` and all members: "<member>/records.jsonl"."""
        path = SuiteDirectory(self.folder).description_path
        mine = [path.name] if is_sealed(path) is False else []
        files = (
            f"{run.folder.name}/{file}" for run in self.members.values() for file in run.changed
        )
        return (*mine, *files)


def write_figures(figures: Mapping[str, Figure], folder: str | Path) -> list[Path]:
    """Write figures into a folder, as `<name>.png`.

    Returns:
        The files.

    Raises:
        UserError: if the folder lies in a run directory that another process uses, or a file
            cannot be written.
    """
    from oodbench.report.figures import gallery

    with held_around(Path(folder)):
        return gallery.save_all(figures, Path(folder))


def leaderboard(*runs: str | Path | Run) -> Leaderboard:
    """The methods of several runs of one benchmark on one leaderboard, each with its run.

    Args:
        *runs: runs, run directories, or folders with committed records.

    Raises:
        UserError: if no run is given, or two runs have another benchmark, version, protocol or
            data.
    """
    from oodbench.report import Leaderboard
    from oodbench.storage.stored_run import read_stored_run

    if not runs:
        raise UserError("leaderboard: expected at least one run.")
    folders = [
        each.folder if isinstance(each, Run) else argument_checks.path("runs", each)
        for each in runs
    ]
    for folder in folders:
        if SuiteDirectory(folder).exists():
            raise _suite(folder)
    return Leaderboard.of_runs([read_stored_run(folder) for folder in folders])


def _suite(folder: Path) -> UserError:
    """The error of a function that needs the run of a benchmark."""
    return UserError(f"{folder} holds a suite.", "Give the run directory of one of its members.")


def verify(folder: str | Path, *, progress: Reporter | None = None) -> Verification:
    """Compute every metric of a run again from its scores, as `oodbench verify` does.

    Args:
        folder: a run directory, or a folder with its `records.jsonl`.
        progress: progress reporter; default: silent.

    Raises:
        UserError: if it holds no records of a run, or a file cannot be read.
    """
    from oodbench.verification.run_verification import verify_run

    place = Path(argument_checks.path("folder", folder))
    if SuiteDirectory(place).exists():
        raise _suite(place)
    return verify_run(place, progress)


def _about(description: RunDescription) -> tuple[str, ...]:
    """When and with which version a run was made, in sentences."""
    versions = description.versions
    found = []
    if description.written:
        found.append(f"Run of {description.written[:16].replace('T', ' ')} UTC.")
    if version := versions.get("oodbench"):
        revision = versions.get("oodbench_revision")
        found.append(f"oodbench {version}{f', revision {revision}' if revision else ''}.")
    return tuple(found)
