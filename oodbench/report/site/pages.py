"""The site as frozen values: what its pages show, before it is HTML.

Values of methods are those of the leaderboards (`report.leaderboard`); nothing is computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from oodbench.report.leaderboard import Absence, LeaderboardData, Row
from oodbench.report.site.plots import Plot
from oodbench.storage.stored_run import StoredRun


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A run that the site shows: its files and its leaderboard."""

    stored: StoredRun
    board: LeaderboardData


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a detector was published.

    Attributes:
        reference: as in "ICLR 2018"; may be empty, like all others.
        url: address of the paper; not checked.
        paper: title of the paper.
        authors: its authors.
        code: address of the authors' code; not checked.
        bibtex: its entry for BibTeX.
    """

    reference: str = ""
    url: str = ""
    paper: str = ""
    authors: tuple[str, ...] = ()
    code: str = ""
    bibtex: str = ""


@dataclass(frozen=True, slots=True)
class SetMeasures:
    """The values of the seed that is drawn, on one OOD set: metric -> fraction."""

    name: str
    group: str | None
    color: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Figures of the scores of one method and seed.

    Attributes:
        seed: the seed.
        histograms: ID against each OOD set.
        curves: ROC and precision-recall curves.
        measures: the recorded values of this seed on each OOD set.
        transfer: accepted images against the wanted rate; empty without scores of ID validation
            images.
    """

    seed: int
    histograms: tuple[Plot, ...]
    curves: tuple[Plot, ...]
    measures: tuple[SetMeasures, ...]
    transfer: tuple[Plot, ...] = ()


@dataclass(frozen=True, slots=True)
class MethodPage:
    """The page of one method in one run.

    Attributes:
        address: of its file, relative to the site.
        row: its row of the leaderboard.
        citation: where its detector was published.
        drawing: figures of its scores, or the reason why there are none.
        notes: notes of the run about it.
        absences: its seeds that were skipped or failed.
    """

    address: str
    row: Row
    citation: Citation
    drawing: Drawing | str
    notes: tuple[str, ...] = ()
    absences: tuple[Absence, ...] = ()


@dataclass(frozen=True, slots=True)
class RunPages:
    """The leaderboard of one run, with a page for each method.

    Attributes:
        name: name of the run's folder.
        label: its date and revision, or its name; different for all runs of a benchmark.
        address: of the leaderboard's file, relative to the site.
        board: the leaderboard.
        status: what is missing from the run, one sentence; empty if it is complete.
        date: when it was made, ISO 8601; empty if unknown.
        revision: of oodbench; empty if unknown.
        summary: data sets, seeds and models, one sentence each.
        notes: how to read the tables.
        provenance: machine, versions, checksums: label -> text.
        methods: in the order of the leaderboard.
    """

    name: str
    label: str
    address: str
    board: LeaderboardData
    status: str
    date: str
    revision: str
    summary: tuple[str, ...]
    notes: tuple[str, ...]
    provenance: tuple[tuple[str, str], ...]
    methods: tuple[MethodPage, ...]


@dataclass(frozen=True, slots=True)
class PastValue:
    """What one run says of a method: fractions, None where the run lacks it.

    Attributes:
        run: the run.
        page: page of the method in this run; None if the run does not have the method.
        joined: whether it is comparable with the run before it.
    """

    run: RunPages
    page: MethodPage | None
    joined: bool


@dataclass(frozen=True, slots=True)
class BenchmarkPages:
    """One version of a benchmark.

    Attributes:
        name: name of the benchmark.
        version: its version.
        title: its title; its name if no run has one.
        about: one sentence about it; may be empty.
        runs: its runs, newest first. The first one has the benchmark's own address.
        history_address: of the page with its history; empty if fewer than two runs have a date.
        dated: the runs with a date, oldest first, each with the test data that it shares with the
            one before it, in words; empty if the two are not comparable.
    """

    name: str
    version: int
    title: str
    about: str
    runs: tuple[RunPages, ...]
    history_address: str = ""
    dated: tuple[tuple[RunPages, str], ...] = ()

    def history(self, method: str) -> tuple[PastValue, ...]:
        """The method in each dated run, oldest first; empty without a history page."""
        if not self.history_address:
            return ()
        return tuple(
            PastValue(
                run,
                next((page for page in run.methods if page.row.method == method), None),
                bool(shared),
            )
            for run, shared in self.dated
        )


@dataclass(frozen=True, slots=True)
class Site:
    """All pages: benchmarks by name and version."""

    benchmarks: tuple[BenchmarkPages, ...] = field(default_factory=tuple)
