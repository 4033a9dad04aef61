"""The command `oodbench compare`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.display import console, say, say_written
from oodbench.cli.parameters import given_path

if TYPE_CHECKING:
    from oodbench.run_comparison.changes import GateResult, RunComparison
    from oodbench.run_comparison.gate import Gate


class ComparisonFormat(StrEnum):
    """Formats of a comparison."""

    table = "table"
    md = "md"
    json = "json"
    junit = "junit"
    html = "html"


class FailOn(StrEnum):
    """What fails a comparison."""

    worse = "worse"
    missing = "missing"
    any = "any"


_SUFFIXES = {
    ".md": "md",
    ".json": "json",
    ".xml": "junit",
    ".html": "html",
    ".txt": "table",
    "": "table",
}


def compare(
    base: Annotated[
        Path,
        typer.Argument(
            metavar="BASE", help="A run directory, or a committed folder with records.jsonl."
        ),
    ],
    head: Annotated[Path, typer.Argument(metavar="HEAD", help="The run to look at, likewise.")],
    max_drop: Annotated[
        list[str] | None,
        typer.Option(
            "--max-drop",
            metavar="METRIC=X",
            help="Fail if a metric drops by more than X percentage points: auroc=0.5, "
            "auroc@METHOD=1, auroc@GROUP=1, auroc@mean=1. Repeatable.",
        ),
    ] = None,
    max_slower: Annotated[
        float | None,
        typer.Option(
            "--max-slower",
            metavar="X",
            help="Fail if a method's time over the baseline's grows by more than this factor.",
        ),
    ] = None,
    fail_on: Annotated[
        list[FailOn] | None,
        typer.Option(
            "--fail-on",
            help="Fail on these verdicts. Default: worse, unless --max-drop or --max-slower is "
            "given. Repeatable.",
        ),
    ] = None,
    allow_cost: Annotated[
        bool | None,
        typer.Option(
            "--allow-cost/--no-allow-cost",
            help="Whether forward and backward passes per image may change. Default: no.",
        ),
    ] = None,
    strict: Annotated[
        bool | None,
        typer.Option(
            "--strict/--no-strict",
            help="Whether a drop that chance explains fails. Default: no, it is a warning.",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="A,B",
            help="Metrics to compare. Default: those of the main leaderboard.",
        ),
    ] = None,
    gate_file: Annotated[
        Path | None,
        typer.Option(
            "--gate",
            parser=given_path,
            metavar="FILE",
            help="A TOML or YAML file with a section `gate`. Default: [gate] of ./oodbench.toml "
            "or [tool.oodbench.gate] of ./pyproject.toml. Options replace what is in it.",
        ),
    ] = None,
    format_: Annotated[
        ComparisonFormat | None,
        typer.Option("--format", help="Form. Default: by the suffix of --out, else table."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=given_path, metavar="FILE", help="Write it to a file."),
    ] = None,
    badge_file: Annotated[
        Path | None,
        typer.Option("--badge", parser=given_path, metavar="FILE", help="Write a badge, SVG."),
    ] = None,
    badge_json: Annotated[
        Path | None,
        typer.Option(
            "--badge-json",
            parser=given_path,
            metavar="FILE",
            help="Write the same as JSON for a badge of shields.io.",
        ),
    ] = None,
) -> None:
    """Compare two runs of a benchmark, and fail if the head is worse.

    Exit code 1 if the gate fails, 3 if it asks for something that cannot be compared. In GitHub
    Actions, the summary of the step and annotations are written, too. Files are overwritten.
    """
    from oodbench.files import write_atomic
    from oodbench.run_comparison import gate as gates
    from oodbench.run_comparison.comparison import compare_runs
    from oodbench.run_comparison.gate_file import combined_gate
    from oodbench.run_comparison.writers import badge
    from oodbench.run_comparison.writers.comparison_formats import WRITERS
    from oodbench.storage.stored_run import read_stored_run

    options = gates.Gate.of_options(
        max_drop or (),
        max_slower,
        fail_on or (),
        allow_cost=bool(allow_cost),
        strict=bool(strict),
    )
    gate = combined_gate(gate_file, options, allow_cost=allow_cost, strict=strict)
    _check_outputs({"--out": out, "--badge": badge_file, "--badge-json": badge_json})
    form = format_.value if format_ else None if out is None else _form_of(out)
    names = [name for name in (metrics or "").split(",") if name.strip()]
    comparison = compare_runs(
        read_stored_run(base), read_stored_run(head), metrics=_metrics(names, gate)
    )
    result = gates.check(comparison, gate)

    if out is not None:
        write_atomic(out, WRITERS[form or "table"](comparison, result))
    elif form in (None, "table"):
        _print_table(comparison, result)
    else:
        print(WRITERS[form](comparison, result), end="")
    shown = badge.badge(comparison, result)
    if badge_file is not None:
        write_atomic(badge_file, badge.svg(shown))
    if badge_json is not None:
        write_atomic(badge_json, badge.endpoint_json(shown))
    _tell(comparison, result, table=out is None and form in (None, "table"))
    for path in (out, badge_file, badge_json):
        if path is not None:
            say_written(path)
    raise typer.Exit(result.exit_code)


def _form_of(out: Path) -> str:
    """The form that the suffix of a file says.

    Raises:
        UserError: if it says none.
    """
    from oodbench.errors import UserError

    if out.suffix.lower() not in _SUFFIXES:
        raise UserError(
            f"--out: a comparison is not written as {out.suffix}: {out}.",
            f"Suffixes: {', '.join(filter(None, _SUFFIXES))}; or choose a form with --format.",
        )
    return _SUFFIXES[out.suffix.lower()]


def _check_outputs(files: Mapping[str, Path | None]) -> None:
    """Check before the comparison that its files can be written.

    Raises:
        UserError: if one cannot be written, or two are the same.
    """
    from oodbench.errors import UserError
    from oodbench.files import check_writable

    options: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        first = options.setdefault(path.resolve(), option)
        if first != option:
            raise UserError(f"{first} and {option} name the same file, {path}.", "Name two files.")
        check_writable(path)


def _metrics(names: list[str], gate: Gate) -> list[str]:
    """The metrics to compare: those asked for, or the default ones, and those of the gate."""
    from oodbench.metrics.metric_tables import members
    from oodbench.run_comparison.comparison import METRICS

    asked = members(name.strip() for name in names or METRICS)
    return list(dict.fromkeys([*asked, *gate.metrics]))


def _print_table(comparison: RunComparison, result: GateResult) -> None:
    from oodbench.run_comparison.writers import console_text, workflow_commands

    output = console()
    if workflow_commands.wanted():
        print(workflow_commands.muted(console_text.render(comparison, result, output.width)))
    elif not output.is_terminal:
        print(console_text.render(comparison, result, output.width), end="")
    else:
        for part in console_text.renderables(comparison, result, output.width):
            output.print(part, markup=False, highlight=False, soft_wrap=True)


def _tell(comparison: RunComparison, result: GateResult, *, table: bool) -> None:
    """Say on standard error what is not on standard output, and tell GitHub.

    GitHub reads commands from both; standard output may be the report.
    """
    from oodbench.errors import UserError
    from oodbench.run_comparison.writers import job_summary, workflow_commands
    from oodbench.run_comparison.writers.overview import overview

    summary = job_summary.step_summary()
    if summary is not None:
        try:
            job_summary.append(summary, job_summary.render(comparison, result))
        except UserError as error:  # the gate's exit code matters more
            say(f"WARNING: {error.message}")
    found = overview(comparison, result)
    if not table:
        say(found.verdict)
        say(found.gate)
    if workflow_commands.wanted():
        for line in workflow_commands.annotation_lines(result):
            say(line)
    elif not table:
        for severity, text in found.findings:
            say(f"{severity}: {text}")
