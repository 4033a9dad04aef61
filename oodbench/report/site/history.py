"""Values of a method over the runs of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from oodbench.report.leaderboard import FPR, RANKED_BY, Entry
from oodbench.report.site.pages import PastValue
from oodbench.report.site.plots import Dated, Plot, Scale, history_plot
from oodbench.report.tables.values import interval_text, metric_title, percent


def mean_entry(past: PastValue, metric: str) -> Entry | None:
    """The mean of a metric over the OOD sets in one run; None if the run lacks it."""
    if past.page is None:
        return None
    return past.page.row.entries.get((metric, past.run.board.column("mean")))


def history_plots(history: Sequence[PastValue]) -> tuple[Plot, ...]:
    """AUROC and FPR95 over the runs; none if fewer than two runs have the method."""
    plots = []
    days = {past.run.date[:10] for past in history}
    for metric in (RANKED_BY, FPR):
        values = []
        joined = False
        for past in history:
            entry = mean_entry(past, metric)
            joined = joined and past.joined
            if entry is None:
                joined = False
                continue
            found = entry.estimate
            shown = interval_text(found)
            about = f"{percent(found.mean)} %" + (f" ({shown})" if shown else "")
            values.append(
                Dated(
                    # Month, day and time where several runs are of one day.
                    label=past.run.date[:10]
                    if len(days) == len(history)
                    else past.run.date[5:16].replace("T", " "),
                    value=100 * found.mean,
                    low=None if found.ci_low is None else 100 * found.ci_low,
                    high=None if found.ci_high is None else 100 * found.ci_high,
                    joined=joined,
                    text=f"{past.run.date[:10]} {past.run.revision}".strip() + f": {about}",
                )
            )
            joined = True
        if len(values) > 1:
            title = f"{metric_title(metric)} over runs"
            plots.append(history_plot(title, f"{metric_title(metric)} mean (%)", values))
    return tuple(plots)


def change_text(history: Sequence[PastValue]) -> str:
    """Change of the mean AUROC from the run before the newest, in points; empty if unknown."""
    if len(history) < 2 or not history[-1].joined:
        return ""
    before, after = (mean_entry(past, RANKED_BY) for past in history[-2:])
    if before is None or after is None:
        return ""
    points = round(100 * (after.estimate.mean - before.estimate.mean), 1)
    return f"{points:+.1f}" if points else "0.0"


def sparkline(history: Sequence[PastValue], width: int = 100, height: int = 24) -> tuple[str, ...]:
    """Paths of the mean AUROC over the runs; a path ends where runs are not comparable."""
    entries = [mean_entry(past, RANKED_BY) for past in history]
    values = [entry.estimate.mean for entry in entries if entry is not None]
    if len(values) < 2:
        return ()
    middle = (min(values) + max(values)) / 2
    reach = max(0.01, (max(values) - min(values)) / 2)  # a change of less than a point looks flat
    up = Scale(middle - reach, middle + reach, height - 3, 3)
    across = Scale(0, len(history) - 1, 3, width - 3)
    paths: list[list[str]] = []
    for index, (past, entry) in enumerate(zip(history, entries, strict=True)):
        if entry is None or not past.joined or not paths:
            paths.append([])
        if entry is not None:
            paths[-1].append(f"{across(index):g} {up(entry.estimate.mean):g}")
    return tuple("M" + "L".join(path) for path in paths if len(path) > 1)
