"""Which tables the report of `oodbench.evaluate` has: detectors on a user's models, one seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from oodbench.errors import counted
from oodbench.report.leaderboard import FPR, RANKED_BY, LeaderboardData, Row
from oodbench.report.seed_means import LEVEL
from oodbench.report.tables.document import Cell, Document, Heading, Section, Table
from oodbench.report.tables.leaderboard_layout import full, overview
from oodbench.report.tables.notes import ties_note, tuning_notes
from oodbench.report.tables.values import (
    BASELINE_SIGN,
    interval_text,
    metric_title,
    tuned_on_text,
    value_cell,
)

_DETECTOR = Heading("Detector", "Detector", text=True)


def document(
    board: LeaderboardData,
    *,
    models: Mapping[str, int],
    best: str,
    notes: Sequence[str],
    whole: bool,
) -> Document:
    """The report.

    Args:
        board: records of one seed.
        models: name of a model -> its number of classes.
        best: how the format shows the best value of a column, in words.
        notes: further notes, shown last.
        whole: whether to show every metric and every parameter.
    """
    source = (full if whole else overview)(board, best=best)
    left_out = ("Quality", *(f"{metric_title(metric)} on each" for metric in (RANKED_BY, FPR)))
    if not whole:
        left_out += ("What each",)
    tables = [_reworded(t) for t in source.tables if not t.title.startswith(left_out)]
    if board.rows:
        tables.insert(0, _quality(board))
    what = "detector" if len(models) == 1 else "method"
    return Document(
        title=f"{counted(len(board.rows), what)} on {', '.join(models)}",
        summary=tuple(_summary(board, models)),
        tables=tuple(tables),
        notes=(*_notes(board, best, whole=whole), *notes),
        warnings=board.warnings,
    )


def _summary(board: LeaderboardData, models: Mapping[str, int]) -> Iterator[str]:
    images = "" if board.id_images is None else counted(board.id_images, "image")
    said = {name: counted(classes, "class") for name, classes in models.items()}
    for row in board.rows:
        if row.id_accuracy is not None:
            said[row.model] = (
                f"{counted(models[row.model], 'class')}, "
                f"accuracy {100 * row.id_accuracy.mean:.1f} %"
            )
    if len(models) == 1:
        yield f"In-distribution: {', '.join(filter(None, (images, *said.values())))}."
    else:
        yield f"In-distribution: {images}." if images else ""
        yield from (f"{name}: {words}." for name, words in said.items())
    if board.ood_sets:
        sets = (f"{each.name} ({each.images:,})" for each in board.ood_sets)
        yield f"OOD: {', '.join(sets)}."


def _quality(board: LeaderboardData) -> Table:
    """AUROC and FPR95: mean over the OOD sets with its interval, then each set."""
    mean = board.column("mean")
    sets = [column for column in board.columns if column.kind == "set"]
    several = len(sets) > 1
    what = " mean" if several else ""
    auroc, fpr = metric_title(RANKED_BY), metric_title(FPR)
    tuned = any(row.tuned_on != "none" for row in board.rows)
    costs = any(row.cost is not None for row in board.rows)
    headings = [Heading("#", "#", importance=8), _DETECTOR]
    if tuned:
        headings.append(Heading("Tuned on", "Tuned on", text=True, importance=5))
    headings += [
        Heading(f"{auroc}{what}", f"{auroc}{what}"),
        Heading(f"{LEVEL:.0%} interval", f"{LEVEL:.0%} interval", importance=7),
        Heading(f"{fpr}{what}", f"{fpr}{what}", importance=8),
    ]
    if several:
        for column in sets:
            headings.append(Heading(auroc, auroc, importance=4, group=column.name))
            headings.append(Heading(fpr, fpr, importance=3, group=column.name))
    if costs:
        time = f"Time ({BASELINE_SIGN} baseline)"
        headings.append(Heading(time, f"Time {BASELINE_SIGN}base", importance=7))

    def cells(row: Row) -> tuple[Cell, ...]:
        average = row.entries.get((RANKED_BY, mean))
        found = [Cell("" if row.rank is None else str(row.rank)), Cell(row.method)]
        if tuned:
            found.append(Cell(tuned_on_text(row.tuned_on, row.tuning_ood)))
        found += [
            value_cell(average),
            Cell(interval_text(average.estimate) if average else ""),
            value_cell(row.entries.get((FPR, mean))),
        ]
        for column in sets if several else ():
            found.append(value_cell(row.entries.get((RANKED_BY, column))))
            found.append(value_cell(row.entries.get((FPR, column))))
        if costs:
            ratio = None if row.cost is None else row.cost.values["relative_to_baseline"]
            found.append(Cell("" if ratio is None else f"{ratio:.1f}"))
        return tuple(found)

    title = "Quality (%) and cost, best first" if costs else "Quality (%), best first"
    return Table(title, tuple(headings), (Section("", tuple(map(cells, board.rows))),))


def _reworded(table: Table) -> Table:
    """A table of a benchmark's report, without columns that are the same in every row."""
    table = table.without("Model", "Loss", "Seeds")
    if any(heading.title == "Detector" for heading in table.headings):
        return replace(table, title="Parameters")
    headings = (_DETECTOR if each.title == "Method" else each for each in table.headings)
    title = table.title.replace("method", "detector")
    return replace(table, headings=tuple(headings), title=title)


def _notes(board: LeaderboardData, best: str, *, whole: bool) -> Iterator[str]:
    if not board.rows:
        return
    yield (
        "AUROC: probability that an in-distribution image scores higher than an OOD image; 50 is "
        "chance. FPR95: share of OOD images accepted at the highest threshold that accepts 95 % of "
        "the in-distribution images; it equals 100 % minus TNR@95TPR."
    )
    if len(board.rows) > 1:
        yield f"Best of its column: {best}. {ties_note(len(board.rows), len(board.seeds))}"
    if whole:
        yield (
            f"The {LEVEL:.0%} interval is a bootstrap interval over the test images. The interval "
            "of a mean has the mean half-width of its OOD sets, because they share the "
            "in-distribution images. It does not cover the difference between training runs."
        )
    yield from tuning_notes(board)
    if any(row.tuned_on == "fgsm" for row in board.rows):
        yield (
            "Tuned on FGSM: the detector was tuned, and its trained parts were trained, on "
            "validation images and adversarial versions of them. It used no OOD image."
        )
    devices = {device for row in board.rows if row.cost for device in row.cost.devices}
    if devices:
        yield (
            f"Costs of each detector alone, on {', '.join(devices)}. Times are medians. Forward "
            "and backward passes are counted; a pass through a part of the network counts as its "
            "share. FLOPs count a multiply-add as 2. The baseline is the maximum softmax "
            "probability."
        )
