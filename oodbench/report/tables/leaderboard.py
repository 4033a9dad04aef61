"""What a report says, as tables of text: the one model that every document format renders."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any, Literal

from oodbench.errors import counted
from oodbench.report.columns import Column
from oodbench.report.estimates import FEWEST_SEEDS, LEVEL, Estimate
from oodbench.report.leaderboard import (
    FPR,
    ORACLE_LABEL,
    RANKED_BY,
    SHOWN,
    Absence,
    Choice,
    Cost,
    Entry,
    Leaderboard,
    Mark,
    Row,
)
from oodbench.storage.records import REQUIREMENTS

TIED_SIGN = "="
"""Follows a value that is tied with the best; ASCII, so that it survives any terminal and font."""

UNSTEADY_SIGN = "~"
"""Follows a time whose repetitions scatter too much."""

SCATTER_LIMIT = 0.2
"""Repetitions that scatter by more than this fraction of their median are marked."""

UP_SIGN, DOWN_SIGN = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"
"""Follow the name of a metric that is better if it is higher, or lower."""

BASELINE_SIGN = "\N{MULTIPLICATION SIGN}"
SPREAD_SIGN = "\N{PLUS-MINUS SIGN}"

MOST_IMPORTANT = 9
"""Importance of columns that are left out last."""

MEBIBYTE = 2.0**20

STEP = "epsilon"
"""The parameter with the step of the input perturbation, by its name in every detector."""

TUNED_ON = {"none": "-", "fgsm": "FGSM", "ood_oracle": "OOD oracle"}

_REQUIREMENT_TITLES = {
    "input_preprocessing": "Input preprocessing",
    "feature_ensemble": "Feature ensemble",
    "ood_or_adversarial_samples": "OOD or adversarial samples",
    "post_processing_phase": "Post-processing phase",
    "ad_hoc_models": "Ad-hoc models",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: what it says; empty if there is nothing to say.
        mark: whether the value is the best of its column or tied with it; or a time that is
            "unsteady".
        spread: what follows the value and its mark.
    """

    text: str = ""
    mark: Mark | Literal["unsteady"] | None = None
    spread: str = ""

    @property
    def sign(self) -> str:
        """What follows the text because of the mark; the best value is shown by its type."""
        return {"tied": TIED_SIGN, "unsteady": UNSTEADY_SIGN}.get(self.mark or "", "")


@dataclass(frozen=True, slots=True)
class Heading:
    """The head of a column.

    Attributes:
        title: with the unit in brackets.
        short: the title where space is dear.
        text: whether the column holds words, which are aligned left and may be wrapped, and not
            numbers.
        importance: columns with the smallest number are left out first where a table is too wide;
            those with 9 never are.
        group: what stands above this column and the ones beside it with the same group; empty if
            nothing does.
    """

    title: str
    short: str
    text: bool = False
    importance: int = 9
    group: str = ""

    @property
    def full_title(self) -> str:
        """The title where nothing can stand above it."""
        return f"{self.group}: {self.title}" if self.group else self.title


@dataclass(frozen=True, slots=True)
class Section:
    """Consecutive rows of a table, with a label above them unless it is empty."""

    label: str
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table, with notes under it. Every row has one cell for each heading."""

    title: str
    headings: tuple[Heading, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()

    def column(self, index: int) -> list[Cell]:
        """The cells of a column, of all sections."""
        return [row[index] for section in self.sections for row in section.rows]

    def has_marks(self, index: int) -> bool:
        """Whether any cell of a column is marked, so that room for a sign is needed."""
        return any(cell.mark for cell in self.column(index))

    def starts_group(self, index: int) -> bool:
        """Whether a column is the first of a group."""
        group = self.headings[index].group
        return bool(group) and (index == 0 or group != self.headings[index - 1].group)

    def without(self, *titles: str) -> Table:
        """The table without the columns of these titles."""
        kept = [i for i, heading in enumerate(self.headings) if heading.title not in titles]
        return replace(
            self,
            headings=tuple(self.headings[index] for index in kept),
            sections=tuple(
                replace(part, rows=tuple(tuple(row[index] for index in kept) for row in part.rows))
                for part in self.sections
            ),
        )

    @property
    def groups(self) -> list[tuple[str, int]]:
        """What stands above the columns, and above how many; empty if nothing does."""
        if not any(heading.group for heading in self.headings):
            return []
        return [
            (group, len(list(members)))
            for group, members in groupby(self.headings, key=lambda heading: heading.group)
        ]


@dataclass(frozen=True, slots=True)
class Document:
    """A report.

    Attributes:
        title: its title.
        summary: what was compared, a sentence each.
        tables: its tables, none of them empty.
        notes: footnotes, in plain words.
        warnings: what may be wrong with what is reported, shown before the tables.
        about: when and with what it was made. Pages show it; other files are the same whenever the
            scores are.
    """

    title: str
    summary: tuple[str, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    about: tuple[str, ...] = ()


def overview(board: Leaderboard, *, best: str, split: bool = False) -> Document:
    """What a person looks at first: quality with cost, cost, requirements, chosen values, absences.

    Args:
        board: the leaderboard.
        best: how the format shows the best value of a column, in words.
        split: whether a method has two columns, what was trained and the detector, and not one.
    """
    tables = [
        _leaderboard(board, split),
        _costs(board, split),
        _requirements(board, split),
        _chosen(board, split),
        _absences(board),
    ]
    return _document(board, tables, best)


def full(board: Leaderboard, *, best: str, split: bool = False) -> Document:
    """The overview, and the tables behind it: each OOD set, each metric, each method.

    Args:
        board: the leaderboard.
        best: how the format shows the best value of a column, in words.
        split: whether a method has two columns, what was trained and the detector, and not one.
    """
    sets = [column for column in board.columns if column.kind == "set"]
    groups = {each.name: each.group for each in board.ood_sets}
    per_set = [
        (metric, column, f"{column.name} ({groups[column.name]})" if groups[column.name] else "")
        for metric in board.metrics
        for column in sets
    ]
    tables = [
        _leaderboard(board, split),
        *(
            _details(
                board,
                split,
                f"{metric_title(metric)} on each OOD set (%)",
                [
                    (metric, column, title or column.name)
                    for m, column, title in per_set
                    if m == metric
                ],
            )
            for metric in ("auroc", FPR)
            if metric in board.metrics
        ),
        _details(
            board,
            split,
            "All metrics, mean over the OOD sets (%)",
            [(metric, board.column("mean"), metric_title(metric)) for metric in board.metrics],
        ),
        _costs(board, split),
        _requirements(board, split),
        _methods(board),
        _absences(board),
    ]
    document = _document(board, tables, best)
    if {"aupr_in", "aupr_out"} & set(board.metrics):
        note = "AUPR depends on the numbers of ID and OOD images, which are given at the top."
        document = replace(document, notes=(*document.notes, note))
    return document


def compact(board: Leaderboard, *, best: str, methods: int = 10) -> Table:
    """The best methods in five columns, for a column of a paper.

    Args:
        board: the leaderboard.
        best: how the format shows the best value of a column, in words.
        methods: number of methods.
    """
    mean, worst = board.column("mean"), board.column("worst")
    ranked = [row for row in board.rows if not row.oracle and row.rank is not None]
    headings = (
        _METHOD,
        Heading("AUROC", "AUROC"),
        Heading("Worst AUROC", "Worst AUROC"),
        Heading("FPR95", "FPR95"),
        Heading("Time", "Time"),
    )
    rows = tuple(
        (
            *_named(row, board, split=False),
            value_cell(row.entries.get((RANKED_BY, mean))),
            value_cell(row.entries.get((RANKED_BY, worst))),
            value_cell(row.entries.get((FPR, mean))),
            _relative_time(row),
        )
        for row in ranked[:methods]
    )
    shown = (
        f"the {counted(len(rows), 'method')} of {len(ranked)} with the highest AUROC"
        if len(rows) < len(ranked)
        else f"all {counted(len(rows), 'method')}"
    )
    sets = counted(len(board.ood_sets), "OOD set")
    notes = (
        f"AUROC (higher is better) and FPR95 (lower is better) in %, means over {sets} and "
        f"{counted(len(board.seeds), 'seed')}; {shown}. Time: of an image in a "
        f"batch, {BASELINE_SIGN} the baseline's.",
        f"Best of its column: {best}"
        + (f"; {TIED_SIGN}: tied with the best (paired differences)." if board.tested else "."),
        *((_UNSTEADY_NOTE,) if any(map(_unsteady, ranked[:methods])) else ()),
    )
    title = f"Benchmark {board.benchmark}, version {board.version}"
    return Table(title, headings, (Section("", rows),), notes)


def cost(board: Leaderboard, *, best: str, split: bool = False) -> Document:
    """What the methods cost and require, as in the overview, and nothing else."""
    tables = [_costs(board, split), _requirements(board, split)]
    document = _document(board, tables, best)
    return replace(document, notes=(*_mark_notes(board, best), *_cost_notes(board)))


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters, broken after spaces and the signs + - _ / @ and comma.

    Numbers such as 1,000 and 1e-4 are not broken. A longer piece goes on in the next line. Nothing
    is lost: the lines put together are the text, but for spaces at their ends. A width below 1
    counts as 1.
    """
    width = max(1, width)
    lines = [""]
    for piece in _pieces(text):
        if len((lines[-1] + piece).rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip() for line in lines]


def longest_piece(text: str) -> int:
    """The smallest width at which `wrap` cuts no piece."""
    return max((len(piece.rstrip()) for piece in _pieces(text)), default=0)


def longest_number(text: str) -> int:
    """The smallest width at which `wrap` cuts no piece that has a digit in it."""
    pieces = (piece.rstrip() for piece in _pieces(text))
    return max((len(piece) for piece in pieces if re.search(r"\d", piece)), default=0)


def _pieces(text: str) -> list[str]:
    return re.split(r"(?<=[ +\-_/@,])(?<![\deE][+\-,](?=\d))(?=\S)", text)


# --- the document ------------------------------------------------------------------------------


def _document(board: Leaderboard, tables: Sequence[Table], best: str) -> Document:
    return Document(
        title=f"Benchmark {board.benchmark}, version {board.version}",
        summary=_summary(board),
        tables=tuple(table for table in tables if any(part.rows for part in table.sections)),
        notes=_notes(board, best),
        warnings=board.warnings,
        about=board.about,
    )


def _summary(board: Leaderboard) -> tuple[str, ...]:
    by_group: dict[str | None, list[str]] = defaultdict(list)
    for each in board.ood_sets:
        size = "" if each.images is None else f" ({each.images:,})"
        by_group[each.group].append(each.name + size)
    lines = [
        f"In-distribution (ID): {board.id_dataset}"
        + (f", {board.id_images:,} test images." if board.id_images is not None else ".")
    ]
    for group, names in by_group.items():
        kind = "OOD" if group is None else f"{group}-OOD"
        lines.append(f"{kind[0].upper()}{kind[1:]}: {', '.join(names)}.")
    if board.seeds:
        lines.append(f"Seeds: {_list(board.seeds)}.")
    accuracies = {row.model: row.id_accuracy for row in board.rows if row.id_accuracy is not None}
    if accuracies:
        said = (f"{name} {100 * each.mean:.1f} %" for name, each in sorted(accuracies.items()))
        lines.append(f"Test accuracy of the models: {', '.join(said)}.")
    return tuple(lines)


def _notes(board: Leaderboard, best: str) -> tuple[str, ...]:
    """Footnotes, in plain words: how each number was made, and what it does not say."""
    found: list[str] = []
    if board.rows:
        found += _quality_notes(board, best)
    if any(row.untuned for row in board.rows):
        found.append(untuned_note((row.detector, row.untuned) for row in board.rows))
    if any(row.oracle for row in board.rows):
        found.append(
            f"{ORACLE_LABEL[0].upper()}{ORACLE_LABEL[1:]}. Such methods saw what they should not "
            "have known; they have their own ranking and are never marked as best."
        )
    found += _cost_notes(board)
    return tuple(found)


def _cost_notes(board: Leaderboard) -> Iterator[str]:
    costs = [row.cost for row in board.rows if row.cost is not None]
    if not costs:
        return
    devices = sorted({device for cost in costs for device in cost.devices})
    yield (
        f"Costs were measured on {', '.join(devices)}: means over seeds (of medians "
        "over repetitions), memory the largest. A method tuned to a step of zero needs no "
        "gradient, so seeds may differ. Forwards and backwards are counted; part of a network "
        f"counts as its share. Time ({BASELINE_SIGN} baseline) is the time of an "
        "image in a batch over that of the benchmark's reference method. FLOPs count a "
        "multiply-add as 2."
        + (" Times on different devices are not comparable." if len(devices) > 1 else "")
    )
    yield (
        "Requirements are the columns of Table 1 of the DisMax paper. Where a method that perturbs "
        "its input was tuned, the steps that it chose stand beside it, one for each seed: a step "
        "of 0 is no perturbation."
    )


def untuned_note(untuned: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Which search spaces were not swept.

    Args:
        untuned: detectors, each with the parameters that were left at their defaults.
    """
    each = {f"{name} ({', '.join(names)})": None for name, names in untuned if names}
    return (
        f"Search space not tuned: {', '.join(sorted(each))}. These run with their defaults; "
        "--tune NAMES, or --tune all, chooses values."
    )


def _quality_notes(board: Leaderboard, best: str) -> list[str]:
    means = [row.entries.get((RANKED_BY, board.column("mean"))) for row in board.rows]
    seeds = {entry.estimate.seeds for entry in means if entry is not None}
    found = [
        "Higher scores mean more in-distribution; ID is the positive class unless a metric says "
        "otherwise. Methods are ranked by mean AUROC over the OOD sets, averaged over seeds."
    ]
    found.append(
        f"FPR95: the share of OOD images that are accepted where at least {LEVEL:.0%} of the ID "
        "images are (ID is the positive class): 100 % minus TNR@95TPR."
        + (
            f" {SHOWN['fpr95_ood_positive'].short_title} is another metric: the share of ID images "
            "that are rejected where at least 95% of the OOD images are."
            if "fpr95_ood_positive" in board.metrics
            else ""
        )
    )
    found += _interval_notes(seeds)
    found += _mark_notes(board, best)
    found.append("Worst set: the OOD set on which the method does worst, averaged over seeds.")
    if any(not row.complete for row in board.rows):
        found.append(
            "A method with seeds in brackets has fewer than the others: its mean is over other "
            "training runs than theirs. A method with sets missing has no mean over the sets."
        )
    return found


def _interval_notes(seeds: Set[int]) -> Iterator[str]:
    """How an interval is made with these numbers of seeds."""
    if max(seeds, default=1) >= FEWEST_SEEDS:
        yield (
            f"{SPREAD_SIGN} is the standard deviation over seeds, with seeds - 1 degrees of "
            "freedom."
        )
    if seeds - {2}:
        images = (
            f"The {LEVEL:.0%} interval is that of the mean. It combines, in quadrature and on each "
            "side, (a) the sampling of the test images: the bootstrap half-width, averaged over "
            "seeds and OOD sets, not shrunk, because all share test images; "
        )
        if seeds - {1, 2}:
            yield images + (
                "(b) the spread over seeds: Student's t interval of the mean. With few seeds (b) "
                "is wide, as it should be. Ends are clipped to 0 and 100%."
                + (" Methods with one seed have (a) alone." if 1 in seeds else "")
            )
        else:
            yield images + (
                "(b) the spread over seeds, which one seed cannot show: these intervals have (a) "
                "alone, and say nothing of what another training run would give."
            )
    if 2 in seeds:
        yield "2 seeds: no interval over seeds; the values of both stand in its place."


def _mark_notes(board: Leaderboard, best: str) -> Iterator[str]:
    """What the marks of a board say; nothing where nothing is marked."""
    ranked = [row for row in board.rows if not row.oracle]
    if len(ranked) < 2:
        return
    if not board.tested:
        yield (
            f"Best of its column: {best}. Which methods are tied with it is not known: differences "
            "cannot be tested without scores."
        )
        return
    yield f"Best of its column: {best}. {ties_note(len(ranked), len(board.seeds))}"


def ties_note(methods: int, seeds: int) -> str:
    """What a tie is, in words, and what it does not say.

    Args:
        methods: number of methods that are compared.
        seeds: number of seeds, the most of any method.
    """
    text = (
        f"{TIED_SIGN} after a value: tied with the best. The two are compared on the same images"
        f"{' and the same seeds' if seeds > 1 else ''}; they are tied if the {LEVEL:.0%} interval "
        "of their paired difference, on bootstrap resamples that all methods share and on the "
        "scale of normal quantiles (probits), reaches 0. The "
        f"intervals are corrected for {methods} methods, of which the best one is chosen by the "
        "same data (multiple comparisons with the best). A tie is no proof that two methods are "
        "equal. "
    )
    if seeds == 1:
        return text + (
            "Each model was trained once, so the sampling of the test images alone counts: another "
            "training may give another order."
        )
    text += (
        "The interval has the sampling of the test images and the spread of the difference over "
        f"seeds; {seeds} seeds say little of that spread, so it is moderated by that of the other "
        "methods' differences."
    )
    if seeds == 2:
        text += (
            f" With 2 seeds this spread is hardly known: even a large difference may be marked "
            f"{TIED_SIGN}. Run more seeds to tell such methods apart."
        )
    return text


_Show = Callable[[float | None], str]

# --- tables ------------------------------------------------------------------------------------

_METHOD = Heading("Method", "Method", text=True)
_SPLIT = (Heading("Training", "Training", text=True), Heading("Detector", "Detector", text=True))
_TUNED = Heading("Tuned on", "Tuned on", text=True, importance=7)


def _sections(
    board: Leaderboard,
    cells: Callable[[Row], tuple[Cell, ...]],
    key: Callable[[Row], Any] | None = None,
) -> tuple[Section, ...]:
    """The ranked methods, and the oracles below them; in the leaderboard's order unless sorted."""
    parts = []
    for label, oracle in (("", False), (ORACLE_LABEL, True)):
        rows = [row for row in board.rows if row.oracle is oracle]
        if key is not None:
            rows.sort(key=key)
        if rows:
            parts.append(Section(label, tuple(cells(row) for row in rows)))
    return tuple(parts)


def _who(split: bool) -> tuple[Heading, ...]:
    """Heads of the columns that name a method."""
    return _SPLIT if split else (_METHOD,)


def _named(row: Row, board: Leaderboard, split: bool) -> tuple[Cell, ...]:
    """The cells that name a method, with what is missing beside it."""
    missing = _missing(row, board)
    if not split:
        return (Cell(row.method + missing),)
    return Cell(row.model), Cell(row.method.removeprefix(f"{row.model}+") + missing)


def _leaderboard(board: Leaderboard, split: bool) -> Table:
    mean, worst = board.column("mean"), board.column("worst")
    # A group with every set in it would repeat the mean.
    groups = [column for column in board.groups if column.sets != mean.sets]
    has_cost = any(row.cost is not None for row in board.rows)
    auroc, fpr = metric_title("auroc"), metric_title(FPR)
    interval = interval_title(row.entries.get((RANKED_BY, mean)) for row in board.rows)
    headings = [
        Heading("#", "#", importance=8),
        *_who(split),
        _TUNED,
        *(
            Heading(f"{auroc} {each.name} (%)", f"{auroc} {each.name}", importance=8)
            for each in groups
        ),
        Heading(f"{auroc} mean (%)", f"{auroc} mean"),
        Heading(f"{interval} (%)", interval, importance=5),
        Heading(f"{fpr} mean (%)", f"{fpr} mean", importance=8),
        Heading(f"{auroc} worst set (%)", f"{auroc} worst", importance=6),
        Heading("Worst set", "Worst set", text=True, importance=2),
        Heading("ID accuracy (%)", "ID acc.", importance=1),
    ]
    if has_cost:
        headings += [
            Heading("Forwards/backwards per image", "Fwd/bwd per image", importance=4),
            Heading(f"Time ({BASELINE_SIGN} baseline)", f"Time {BASELINE_SIGN}base", importance=7),
        ]

    def cells(row: Row) -> tuple[Cell, ...]:
        average = row.entries.get(("auroc", mean))
        lowest = row.entries.get(("auroc", worst))
        found = [
            Cell("" if row.rank is None else str(row.rank)),
            *_named(row, board, split),
            Cell(TUNED_ON.get(row.tuned_on, row.tuned_on)),
            *(value_cell(row.entries.get(("auroc", each))) for each in groups),
            value_cell(average, spread=True),
            Cell(interval_text(average.estimate) if average else ""),
            value_cell(row.entries.get((FPR, mean))),
            value_cell(lowest),
            Cell((lowest.set_name or "") if lowest else ""),
            Cell(_percent(row.id_accuracy.mean) if row.id_accuracy else ""),
        ]
        if has_cost:
            forwards, backwards = (
                _cost_of(row, name) for name in ("forwards_per_image", "backwards_per_image")
            )
            both = forwards is not None and backwards is not None
            found += [
                Cell(f"{_short(forwards)}/{_short(backwards)}" if both else ""),
                _relative_time(row),
            ]
        return tuple(found)

    title = "Quality (%) and cost" if has_cost else "Quality (%)"
    scattering = (
        f"{UNSTEADY_SIGN} after a time: its repetitions scatter by more than {SCATTER_LIMIT:.0%} "
        "(see the table of costs)."
    )
    notes = (scattering,) if any(map(_unsteady, board.rows)) else ()
    return Table(title, tuple(headings), _sections(board, cells), notes)


def _details(
    board: Leaderboard, split: bool, title: str, columns: Sequence[tuple[str, Column, str]]
) -> Table:
    """Methods against (metric, column) pairs, each under its own title."""
    headings = (*_who(split), *(Heading(title, title) for _, _, title in columns))

    def cells(row: Row) -> tuple[Cell, ...]:
        values = (
            value_cell(row.entries.get((metric, column)), spread=True)
            for metric, column, _ in columns
        )
        return *_named(row, board, split), *values

    return Table(title, headings, _sections(board, cells))


def _costs(board: Leaderboard, split: bool) -> Table:
    mean = board.column("mean")
    costs = [row.cost for row in board.rows if row.cost is not None]

    def aligned(name: str, unit: float = 1.0) -> _Show:
        show = _aligned([None if (v := each.values[name]) is None else v / unit for each in costs])
        return lambda value: show(None if value is None else value / unit)

    def passes(value: float | None) -> str:
        return _decimal(value, 2 if fractional else 0)

    fractional = any(
        (each.values[name] or 0) % 1
        for each in costs
        for name in ("forwards_per_image", "backwards_per_image")
    )
    operations, prefix = _scale([each.values["flops_per_image"] for each in costs])
    auroc = metric_title("auroc")
    batched = "Batched (ms/image)"
    times = f"Time ({BASELINE_SIGN} baseline)"
    flops = f"{prefix}FLOPs per image"
    columns: list[tuple[str, _Show, Heading]] = [
        (
            "ms_per_image_batched",
            aligned("ms_per_image_batched"),
            Heading(batched, batched),
        ),
        (
            "relative_to_baseline",
            lambda value: _decimal(value, 1),
            Heading(times, f"Time {BASELINE_SIGN}base", importance=8),
        ),
        (
            "latency_ms_batch1",
            aligned("latency_ms_batch1"),
            Heading("Latency, batch of 1 (ms)", "Latency, batch 1 (ms)", importance=7),
        ),
        (
            "forwards_per_image",
            passes,
            Heading("Forwards per image", "Fwd per image", importance=5),
        ),
        (
            "backwards_per_image",
            passes,
            Heading("Backwards per image", "Bwd per image", importance=5),
        ),
        (
            "flops_per_image",
            aligned("flops_per_image", operations),
            Heading(flops, flops, importance=4),
        ),
        ("fit_seconds", aligned("fit_seconds"), Heading("Fit (s)", "Fit (s)", importance=3)),
        ("tune_seconds", aligned("tune_seconds"), Heading("Tune (s)", "Tune (s)", importance=3)),
        (
            "peak_memory_bytes",
            lambda value: _decimal(None if value is None else value / MEBIBYTE, 1),
            Heading("Peak memory (MiB)", "Peak mem. (MiB)", importance=2),
        ),
    ]

    def cells(row: Row) -> tuple[Cell, ...]:
        return (
            *_named(row, board, split),
            value_cell(row.entries.get(("auroc", mean))),
            *(
                Cell(
                    show(_cost_of(row, name)),
                    "unsteady" if name in _SCATTERING and _unsteady(row) else None,
                )
                for name, show, _ in columns
            ),
        )

    def key(row: Row) -> tuple[float, str]:
        time = _cost_of(row, "ms_per_image_batched")
        return math.inf if time is None else time, row.method

    headings = (
        *_who(split),
        Heading(f"{auroc} mean (%)", f"{auroc} mean (%)", importance=6),
        *(heading for _, _, heading in columns),
    )
    ordered = order_is_clear(costs)
    notes = []
    if not ordered:
        notes.append(
            "Differences of times that are within the scatter of their repetitions decide nothing."
        )
    if any(map(_unsteady, board.rows)):
        notes.append(_UNSTEADY_NOTE)
    return Table(
        "Cost, the fastest first" if ordered else "Cost, sorted by measured time",
        headings,
        _sections(board, cells, key) if costs else (),
        tuple(notes),
    )


_SCATTERING = ("ms_per_image_batched", "relative_to_baseline")
"""Costs that `time_scatter` is the scatter of."""

_UNSTEADY_NOTE = (
    f"{UNSTEADY_SIGN} after a time: its repetitions scatter by more than {SCATTER_LIMIT:.0%} (the "
    "longest less the shortest, over their median), as on a machine that has other work."
)


def _unsteady(row: Row) -> bool:
    """Whether the repetitions of a method's time scatter too much."""
    return (_cost_of(row, "time_scatter") or 0.0) > SCATTER_LIMIT


def _relative_time(row: Row) -> Cell:
    """Time over the baseline's, marked where it scatters."""
    text = _decimal(_cost_of(row, "relative_to_baseline"), 1)
    return Cell(text, "unsteady" if text and _unsteady(row) else None)


def order_is_clear(costs: Sequence[Cost]) -> bool:
    """Whether times are further apart than repetitions of their measurement scatter.

    A time stands for the interval of half its scatter to either side of it. The order is clear if
    no interval reaches the next; not if the scatter of a time is not known.
    """
    intervals = []
    for cost in costs:
        time, scatter = cost.values["ms_per_image_batched"], cost.values["time_scatter"]
        if time is None or scatter is None:
            return False
        intervals.append((time * (1 - scatter / 2), time * (1 + scatter / 2), time))
    intervals.sort(key=lambda interval: interval[2])
    return all(before[1] < after[0] for before, after in pairwise(intervals))


def _requirements(board: Leaderboard, split: bool) -> Table:
    def cells(row: Row) -> tuple[Cell, ...]:
        return *_named(row, board, split), *(Cell(_required(row, name)) for name in REQUIREMENTS)

    titles = [_REQUIREMENT_TITLES[name] for name in REQUIREMENTS]
    headings = (
        *_who(split),
        *(Heading(title, title, text=True, importance=5) for title in titles),
    )
    known = any(row.cost is not None for row in board.rows)
    return Table("What each method requires", headings, _sections(board, cells) if known else ())


def _required(row: Row, name: str) -> str:
    """Whether a method requires something; where it was tuned to a step, which step."""
    if row.cost is None:
        return ""
    if not row.cost.requires[name]:
        return "-"
    steps = {choice.values.get(STEP) for choice in row.choices}
    if name != "input_preprocessing" or row.tuned_on == "none" or steps <= {None}:
        return "Required"
    chosen = parameters_text(row.choices, (STEP,))
    return f"Required; chosen: {f'none ({chosen})' if steps == {0} else chosen}"


def _chosen(board: Leaderboard, split: bool) -> Table:
    """The parameters of the methods that were tuned."""

    def cells(row: Row) -> tuple[Cell, ...]:
        tuned_on = TUNED_ON.get(row.tuned_on, row.tuned_on)
        chosen = parameters_text(row.choices)
        return *_named(row, board, split), Cell(tuned_on), Cell(chosen), Cell(_list(row.seeds))

    titles = ("Tuned on", "Detector parameters", "Seeds")
    headings = (*_who(split), *(Heading(title, title, text=True) for title in titles))
    tuned = replace(board, rows=tuple(row for row in board.rows if row.tuned_on != "none"))
    return Table("Chosen by tuning", headings, _sections(tuned, cells))


def _methods(board: Leaderboard) -> Table:
    titles = ("Method", "Model", "Loss", "Detector", "Tuned on", "Detector parameters", "Seeds")

    def cells(row: Row) -> tuple[Cell, ...]:
        return (
            Cell(row.method),
            Cell(row.model),
            Cell(row.loss),
            Cell(row.detector),
            Cell(TUNED_ON.get(row.tuned_on, row.tuned_on)),
            Cell(parameters_text(row.choices)),
            Cell(_list(row.seeds)),
        )

    headings = tuple(Heading(title, title, text=True) for title in titles)
    return Table("Methods", headings, _sections(board, cells))


def _absences(board: Leaderboard) -> Table:
    titles = ("Method", "Status", "Seeds", "Reason")
    present = {row.method for row in board.rows}

    def seeds(each: Absence) -> str:
        whole = each.status == "skipped" and each.method not in present
        return "all" if whole else _list(each.seeds)

    rows = tuple(
        (
            Cell(each.method),
            Cell(each.status),
            Cell(seeds(each)),
            Cell(each.reason),
        )
        for each in board.absences
    )
    headings = tuple(
        Heading(title, title, text=True, importance=5 if title == "Seeds" else 9)
        for title in titles
    )
    return Table("Skipped and failed", headings, (Section("", rows),))


# --- cells -------------------------------------------------------------------------------------


def parameters_text(choices: Sequence[Choice], names: Collection[str] | None = None) -> str:
    """Detector parameters on one line: "epsilon 0, 0.0014, 0; temperature 1000".

    Several values are those of the seeds, in order; values that all seeds share are given once.
    Where the OOD sets of a seed have several, each value is followed by its set in brackets.

    Args:
        choices: the parameters of each seed.
        names: which parameters; default: all.
    """
    if names is None:
        names = {name for choice in choices for name in choice.values}
    parts = []
    for name in sorted(names):
        by_set: dict[str | None, list[str]] = {}
        sets = dict.fromkeys(each.ood_dataset for each in choices if each.ood_dataset is not None)
        for choice in choices:
            value = _parameter(choice.values.get(name))
            # A seed whose sets agree says it once, and it holds for each of them.
            for ood in sets if choice.ood_dataset is None and sets else (choice.ood_dataset,):
                by_set.setdefault(ood, []).append(value)
        texts = {ood: _once(values) for ood, values in by_set.items()}
        if len(set(texts.values())) > 1:
            parts.append(f"{name} " + ", ".join(f"{text} ({ood})" for ood, text in texts.items()))
        else:
            parts.append(f"{name} {next(iter(texts.values()))}")
    return "; ".join(parts) or "-"


def _once(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def _parameter(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_parameter, value)) + "]"
    return str(value)


def _missing(row: Row, board: Leaderboard) -> str:
    """What stands beside the name of a method that is not complete."""
    if row.complete:
        return ""
    if len(row.seeds) < len(board.seeds):
        return f" ({len(row.seeds)}/{len(board.seeds)} seeds)"
    return " (sets missing)"


def value_cell(entry: Entry | None, *, spread: bool = False) -> Cell:
    """A metric in percent, with its mark; an empty cell if there is none.

    Args:
        entry: the value.
        spread: whether its standard deviation over seeds follows, if there are three or more.
    """
    if entry is None:
        return Cell()
    std = entry.estimate.std if spread and entry.estimate.seeds >= FEWEST_SEEDS else None
    after = "" if std is None else SPREAD_SIGN + _percent(std)
    return Cell(_percent(entry.estimate.mean), entry.mark, after)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def interval_text(found: Estimate) -> str:
    """A confidence interval in percent; with two seeds their values; empty if there is neither."""
    if found.seeds == 2:
        return ", ".join(map(_percent, found.by_seed.values()))
    if found.ci_low is None or found.ci_high is None:
        return ""
    return f"{_percent(found.ci_low)}-{_percent(found.ci_high)}"


def metric_title(metric: str) -> str:
    """The abbreviation of a metric of `SHOWN`, with an arrow that says which way is better."""
    about = SHOWN[metric]
    return f"{about.short_title}{UP_SIGN if about.higher_is_better else DOWN_SIGN}"


def interval_title(entries: Iterable[Entry | None]) -> str:
    """The head of a column of `interval_text`."""
    seeds = {entry.estimate.seeds for entry in entries if entry is not None}
    return "Both seeds" if seeds == {2} else f"{LEVEL:.0%} interval"


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _cost_of(row: Row, name: str) -> float | None:
    return None if row.cost is None else row.cost.values[name]


def _decimal(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:,.{decimals}f}"


def _short(value: float | None) -> str:
    """At most two decimals, and none that are zero."""
    return "" if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def _aligned(values: Sequence[float | None]) -> Callable[[float | None], str]:
    """A formatter with one number of decimals, at most three: the smallest value keeps two digits.

    Whole numbers have none.
    """
    sizes = [abs(value) for value in values if value]
    if all(size == round(size) for size in sizes):
        decimals = 0
    else:
        decimals = max(0, min(3, 1 - math.floor(math.log10(min(sizes)))))
    return lambda value: _decimal(value, decimals)


def _scale(values: Sequence[float | None]) -> tuple[float, str]:
    """A power of 1000, and its prefix, that leaves the smallest value at 1 or above."""
    smallest = min((value for value in values if value), default=1.0)
    for unit, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if smallest >= unit:
            return unit, prefix
    return 1.0, ""
