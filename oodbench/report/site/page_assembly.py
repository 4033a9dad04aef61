"""From runs and their leaderboards to the pages of a site."""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from oodbench.errors import UserError
from oodbench.report.differences import joined
from oodbench.report.leaderboard import LeaderboardData, Row
from oodbench.report.site.file_names import file_names
from oodbench.report.site.pages import (
    BenchmarkPages,
    Citation,
    Drawing,
    MethodPage,
    RunPages,
    SetMeasures,
    ShownRun,
    Site,
)
from oodbench.report.site.plots import curve_plots, histogram_plots
from oodbench.report.site.score_curves import score_curves
from oodbench.report.site.threshold_plots import threshold_plots
from oodbench.report.tables.leaderboard_layout import overview
from oodbench.specs.spec_base import LIMITED
from oodbench.storage.run_description import RunDescription
from oodbench.storage.run_directory import scores_name

_FOLDERS = re.compile(r"(^|[=,])(?:[A-Za-z]:[/\\]|[/\\~]|\.\.[/\\])(?:[^,]*[/\\])?([^,/\\]+)[/\\]*")
"""A path of one machine in a word of a command: what is before it, and its last name."""

BEST = "bold"
"""How the pages show the best value of a column, in words."""


def assemble(runs: Iterable[ShownRun], citations: Mapping[str, Citation]) -> Site:
    """The pages of a site; the order of the runs is irrelevant.

    Args:
        runs: the runs to show.
        citations: detector -> where it was published. A run's own `run.json` comes first where it
            names another address.

    Raises:
        UserError: if there are no runs.
    """
    by_benchmark: dict[tuple[str, int], list[ShownRun]] = defaultdict(list)
    for run in runs:
        by_benchmark[run.board.benchmark, run.board.version].append(run)
    if not by_benchmark:
        raise UserError("There is no run to make a site of.")
    folders = file_names(f"{name} v{version}" for name, version in by_benchmark)
    return Site(
        tuple(
            _benchmark(folders[f"{name} v{version}"], by_benchmark[name, version], citations)
            for name, version in sorted(by_benchmark)
        )
    )


def _benchmark(
    folder: str, runs: Sequence[ShownRun], citations: Mapping[str, Citation]
) -> BenchmarkPages:
    ordered = sorted(runs, key=lambda run: (run.stored.name, str(run.stored.folder)))
    ordered.sort(key=_date, reverse=True)
    labels = _labels(ordered)
    names = file_names(labels)
    pages = tuple(
        _run_pages(
            run,
            label,
            f"{folder}/" if number == 0 else f"{folder}/runs/{names[label]}/",
            citations,
        )
        for number, (run, label) in enumerate(zip(ordered, labels, strict=True))
    )
    described = next((r.stored.description for r in ordered if r.stored.description), None)
    words = described.benchmark if described else {}
    board = ordered[0].board
    dated = [(run, page) for run, page in zip(ordered, pages, strict=True) if page.date][::-1]
    shared = [
        shared_test_data(dated[number - 1][0], run) if number > 0 else ""
        for number, (run, _) in enumerate(dated)
    ]
    return BenchmarkPages(
        name=board.benchmark,
        version=board.version,
        # The name of a limited run says that it is not the benchmark; the title does not.
        title=board.benchmark
        if LIMITED in board.benchmark
        else str(words.get("title") or board.benchmark),
        about=str(words.get("summary") or ""),
        runs=pages,
        history_address=f"{folder}/history.html" if len(dated) > 1 else "",
        dated=tuple((page, join) for (_, page), join in zip(dated, shared, strict=True)),
    )


def _test_data(board: LeaderboardData) -> tuple[object, ...]:
    return board.ood_sets, board.id_dataset, board.csid, board.id_images


def shared_test_data(before: ShownRun, after: ShownRun) -> str:
    """The test data that two runs of one benchmark share, in words; empty if it differs."""
    board = before.board
    if _test_data(board) != _test_data(after.board):
        return ""
    unchecked = "test data of the same names, not checked: checksums are missing"
    one, other = before.stored.description, after.stored.description
    if one is None or other is None:
        return unchecked
    if one.benchmark.get("limited") != other.benchmark.get("limited"):
        return ""
    images, others = one.checksums.images, other.checksums.images
    shared = images.keys() & others.keys()
    if any(images[name] != others[name] for name in shared):
        return ""
    names = {board.id_dataset, *board.csid, *(each.name for each in board.ood_sets)}
    seeds = "" if board.seeds == after.board.seeds else ", other seeds"
    return ("same test data" if names <= shared else unchecked) + seeds


def _date(run: ShownRun) -> str:
    return run.stored.description.written if run.stored.description else ""


def _labels(runs: Sequence[ShownRun]) -> list[str]:
    """A label for each run, all different: its name, or its name and a number."""
    names = [run.stored.name for run in runs]
    counts, seen = Counter(names), Counter[str]()
    labels = []
    for name in names[::-1]:  # the oldest is number 1, and stays so when runs are added
        seen[name] += 1
        labels.append(f"{name} ({seen[name]})" if counts[name] > 1 else name)
    return labels[::-1]


# --- one run -------------------------------------------------------------------------------------


def _run_pages(
    run: ShownRun, label: str, folder: str, citations: Mapping[str, Citation]
) -> RunPages:
    board, description = run.board, run.stored.description
    names = file_names(row.method for row in board.rows)
    document = overview(board, best=BEST)
    return RunPages(
        name=run.stored.name,
        label=label,
        address=f"{folder}index.html",
        board=board,
        status=_status(run),
        date=_date(run),
        revision=_revision(description),
        summary=document.summary,
        notes=document.notes,
        provenance=tuple(_provenance(run)),
        methods=tuple(
            _method_page(run, row, f"{folder}methods/{names[row.method]}.html", citations)
            for row in board.rows
        ),
    )


def _revision(description: RunDescription | None) -> str:
    """The revision, short enough for headings; `run.json` may hold any text."""
    return description.versions.get("oodbench_revision", "")[:20] if description else ""


def _status(run: ShownRun) -> str:
    description = run.stored.description
    if description is None:
        return ""
    if description.status == "running":
        return "Unfinished: the run was stopped, or is still running. It shows what is stored."
    if description.status == "incomplete":
        return "Incomplete: the run ended without some of what was asked for."
    return ""


def _provenance(run: ShownRun) -> Iterable[tuple[str, str]]:
    """What is known of how the run was made."""
    description = run.stored.description
    yield "Run", run.stored.name
    if description is None:
        yield "Description", "There is no run.json: the run has records alone."
        return
    environment = description.environment
    for label, text in (
        ("Run ID", description.run_id),
        ("Date", description.written.replace("T", " ").replace("+00:00", " UTC")),
        ("Command", portable_command(description.command)),
        ("Seeds", ", ".join(map(str, description.seeds))),
        ("Device", environment.device),
        ("Platform", f"{environment.platform} {environment.processor}".strip()),
        ("Threads", "" if environment.threads is None else str(environment.threads)),
        ("Versions", ", ".join(f"{name} {each}" for name, each in description.versions.items())),
        ("Process", ", ".join(f"{name}: {value}" for name, value in environment.process.items())),
    ):
        if text:
            yield label, text
    for name, splits in description.checksums.images.items():
        yield f"Data: {name}", ", ".join(f"{split} {sha[:16]}" for split, sha in splits.items())
    for name, sha in description.checksums.checkpoints.items():
        yield f"Weights: {name}", sha[:16]
    for where, texts in description.notes.items():
        for text in texts:
            yield f"Note: {where}", text


def portable_command(command: str) -> str:
    """A command line with the last names of absolute paths: a page may be published."""
    try:
        words = shlex.split(command)
    except ValueError:  # edited by hand
        return ""
    return shlex.join(_FOLDERS.sub(r"\1\2", word) for word in words)


# --- one method ----------------------------------------------------------------------------------


def _method_page(
    run: ShownRun, row: Row, address: str, citations: Mapping[str, Citation]
) -> MethodPage:
    description = run.stored.description
    notes = description.notes if description else {}
    return MethodPage(
        address=address,
        row=row,
        citation=_citation(row, description, citations.get(row.detector)),
        drawing=_drawing(run, row),
        notes=tuple(
            dict.fromkeys(
                text
                for seed in run.board.seeds
                for text in notes.get(f"{row.method}/seed{seed}", ())
            )
        ),
        absences=tuple(each for each in run.board.absences if each.method == row.method),
    )


def _citation(row: Row, description: RunDescription | None, known: Citation | None) -> Citation:
    for each in description.methods if description else ():
        if each.name == row.method and (each.url or each.reference):
            if known is not None and each.url in ("", known.url):
                return known
            return Citation(reference=each.reference, url=each.url)
    return known or Citation()


def _drawing(run: ShownRun, row: Row) -> Drawing | str:
    """Figures of the first seed that has scores, or why there are none."""
    board = run.board
    names = tuple(each.name for each in board.ood_sets)
    try:
        seed, scores = next(
            (seed, found) for seed in row.seeds if (found := run.stored.scores(row.method, seed))
        )
    except StopIteration:
        if not (run.stored.folder / "scores").is_dir():
            return "The run was stored without scores, so there are no curves and histograms."
        return "The scores of this method are not stored."
    except (UserError, OSError):  # a name may be too long for a file
        return "The stored scores of this method cannot be read."
    if scores_name((row.method, seed)) in run.stored.changed:
        return "The stored scores of this method were changed after the run."
    try:
        curves = score_curves(seed, joined(scores, board.csid), names)
        validation = run.stored.validation(row.method, seed).get("id")
        drawn = [each.name for each in curves.sets]
        transfer = () if validation is None else threshold_plots(validation, scores, drawn, seed)
    except (UserError, ValueError) as error:
        return f"The stored scores of this method cannot be drawn: {str(error).rstrip('.')}."
    colors = {each.name: number for number, each in enumerate(curves.sets)}
    return Drawing(
        seed=seed,
        histograms=histogram_plots(curves, board.id_dataset),
        curves=curve_plots(curves),
        transfer=transfer,
        measures=tuple(
            SetMeasures(
                each.name, each.group, colors[each.name], _values(board, row, seed, each.name)
            )
            for each in board.ood_sets
            if each.name in colors
        ),
    )


def _values(board: LeaderboardData, row: Row, seed: int, name: str) -> dict[str, float]:
    """The recorded values of one seed on one OOD set."""
    found = {}
    for (metric, column), entry in row.entries.items():
        if (column.kind, column.name) == ("set", name) and seed in entry.estimate.by_seed:
            found[metric] = entry.estimate.by_seed[seed]
    return {metric: found[metric] for metric in board.metrics if metric in found}
