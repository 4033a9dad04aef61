"""Tables of threshold transfer: what thresholds of ID validation images accept of test images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from oodbench.errors import listed
from oodbench.metrics import OPTIONAL, accepting
from oodbench.metrics.thresholds import percentage, rate_range, threshold_rank
from oodbench.report.leaderboard import Entry, LeaderboardData, Row
from oodbench.report.seed_means import Estimate
from oodbench.report.tables.document import Cell, Heading, Table
from oodbench.report.tables.method_cells import name_headings, named, sections
from oodbench.report.tables.values import interval_text, interval_title, percent, value_cell
from oodbench.report.threshold_transfer import class_parts

_MOST_CLASSES = 20
"""Most classes with a column each."""

_USED = Heading("Validation images also used for", "Validation also for", text=True, importance=5)
_USES = {"fitted": "fitting", "tuned": "tuning"}


def transfer_overview(board: LeaderboardData, *, split: bool) -> list[Table]:
    """One table: for each wanted rate, the accepted ID images and the mean of the OOD sets.

    Args:
        board: the leaderboard.
        split: whether a method is named in two columns, the trained model and the detector.
    """
    pairs = _metrics(board)
    if not pairs:
        return []
    of_id, mean = board.column("id"), board.column("mean")
    used = any(row.validation_use for row in board.rows)
    headings = [*name_headings(board, split)]
    for _, of_set in pairs:
        group = f"at {_wanted(of_set)}"
        headings += [
            Heading("ID", "ID", group=group),
            Heading("OOD mean", "OOD mean", group=group),
        ]

    def cells(row: Row) -> tuple[Cell, ...]:
        values = [
            value_cell(row.entries.get(key), spread=True)
            for id_metric, of_set in pairs
            for key in ((id_metric, of_id), (of_set, mean))
        ]
        return *named(row, board, split), *values, *(_used(row) if used else ())

    headings += [_USED] if used else []
    title = "Threshold transfer: accepted images (%) at a wanted ID rate"
    return [Table(title, tuple(headings), sections(board, cells), tuple(_notes(board, pairs)))]


def transfer_tables(board: LeaderboardData, *, split: bool) -> list[Table]:
    """For each wanted rate: the accepted ID, csID and OOD images; then those of each class.

    Args:
        board: the leaderboard.
        split: whether a method is named in two columns, the trained model and the detector.
    """
    tables: list[Table | None] = []
    pairs = _metrics(board)
    for number, (id_metric, of_set) in enumerate(pairs):
        notes = tuple(_notes(board, pairs)) if number + 1 == len(pairs) else ()
        tables.append(_sets_table(board, split, id_metric, of_set, notes))
    tables += [_class_table(board, split, id_metric) for id_metric, _ in pairs]
    return [table for table in tables if table is not None]


def _metrics(board: LeaderboardData) -> list[tuple[str, str]]:
    """The metric of the ID images and that of the OOD sets, for each wanted rate."""
    names = accepting(board.metrics)
    by_rate: dict[str, dict[str, str]] = {}
    for name in names:
        by_rate.setdefault(OPTIONAL[name].accept, {})[OPTIONAL[name].of] = name
    return [(each.get("method", ""), each.get("set", "")) for each in by_rate.values()]


def _wanted(metric: str) -> str:
    return percentage(float(OPTIONAL[metric].accept))


def _sets_table(
    board: LeaderboardData, split: bool, id_metric: str, of_set: str, notes: tuple[str, ...]
) -> Table:
    of_id, mean = board.column("id"), board.column("mean")
    sets = [column for column in board.columns if column.kind == "set"]
    groups = {each.name: each.group for each in board.ood_sets}
    known = of_set or id_metric
    interval = interval_title(row.entries.get((id_metric, of_id)) for row in board.rows)
    used = any(row.validation_use for row in board.rows)
    headings = (
        *name_headings(board, split),
        Heading("Wanted", "Wanted", importance=4),
        Heading("ID", "ID"),
        Heading(f"ID, {interval[0].lower()}{interval[1:]}", interval, importance=5),
        *(Heading(f"{name} (csID)", f"{name} (csID)") for name in board.csid),
        *(
            Heading(title, title, group="OOD")
            for title in (
                f"{c.name} ({groups[c.name]})" if groups[c.name] else c.name for c in sets
            )
        ),
        *((Heading("mean", "mean", group="OOD"),) if len(sets) > 1 else ()),
        *((_USED,) if used else ()),
    )

    def cells(row: Row) -> tuple[Cell, ...]:
        found = row.entries.get((id_metric, of_id))
        return (
            *named(row, board, split),
            Cell(percent(float(OPTIONAL[known].accept))),
            value_cell(found, spread=True),
            Cell(interval_text(found.estimate) if found else ""),
            *(_cell(row.accepted_parts.get((id_metric, name))) for name in board.csid),
            *(value_cell(row.entries.get((of_set, column)), spread=True) for column in sets),
            *((value_cell(row.entries.get((of_set, mean)), spread=True),) if len(sets) > 1 else ()),
            *(_used(row) if used else ()),
        )

    title = f"Threshold transfer at {_wanted(known)}: accepted images (%)"
    return Table(title, headings, sections(board, cells), notes)


def _class_table(board: LeaderboardData, split: bool, id_metric: str) -> Table | None:
    """Accepted ID test images of each class, or the lowest, median and highest share."""
    by_row = {id(row): class_parts(row.accepted_parts, id_metric) for row in board.rows}
    classes = sorted({number for parts in by_row.values() for number in parts})
    if not classes:
        return None
    each = len(classes) <= _MOST_CLASSES
    titles = list(map(str, classes)) if each else ["lowest", "of class", "median", "highest"]
    headings = (
        *name_headings(board, split),
        *(Heading(title, title, group="Class" if each else "") for title in titles),
    )

    def cells(row: Row) -> tuple[Cell, ...]:
        parts = by_row[id(row)]
        if each:
            return *named(row, board, split), *(_cell(parts.get(number)) for number in classes)
        if not parts:
            return *named(row, board, split), *(Cell() for _ in titles)
        lowest = min(parts, key=lambda number: parts[number].mean)
        shares = [part.mean for part in parts.values()]
        texts = (percent(min(shares)), str(lowest), percent(median(shares)), percent(max(shares)))
        return *named(row, board, split), *map(Cell, texts)

    note = (
        f"Accepted ID test images of each of {len(classes)} classes. A threshold is set for all "
        "classes together: it guarantees nothing for a single class."
    )
    title = f"Threshold transfer at {_wanted(id_metric)}: accepted ID images of each class (%)"
    return Table(title, headings, sections(board, cells), (note,))


def _cell(found: Estimate | None) -> Cell:
    return value_cell(None if found is None else Entry(found, None, None))


def _used(row: Row) -> tuple[Cell, ...]:
    return (Cell(", ".join(_USES.get(use, use) for use in row.validation_use) or "-"),)


def _notes(board: LeaderboardData, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """What the values are, what explains their variation, and which are not guaranteed."""
    yield (
        "A threshold is set on the ID validation images of each method and seed (conformal "
        "quantile) to accept the wanted share of ID images. An image is accepted if its score is "
        "at or above it. Shares are of test images: ID should be at the wanted rate or slightly "
        "above; of OOD images, lower is better."
    )
    images = min((row.validation_images for row in board.rows if row.validation_images), default=0)
    rates = [float(OPTIONAL[of_set or of_id].accept) for of_id, of_set in pairs]
    ranges = [
        f"{percent(low)}-{percent(high)} % for {percentage(rate)}"
        for rate in rates
        if threshold_rank(images, rate)
        for low, high in [rate_range(images, rate)]
    ]
    if ranges:
        yield (
            f"With other draws of {images:,} validation images, the share of all ID images that a "
            f"threshold accepts would be in the range {' and '.join(ranges)} in 95 % of the draws, "
            "if no scores are equal."
        )
    used = [row.method for row in board.rows if row.validation_use]
    if used:
        yield (
            f"{listed(used)}: the detector was fitted or tuned on the validation images, so that "
            "they are not exchangeable with new ID images and the wanted rate is not guaranteed. "
            "For use, set the threshold on ID images that nothing else was done with."
        )
