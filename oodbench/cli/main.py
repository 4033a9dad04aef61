"""The command line. Everything heavy is imported inside the commands: `--help` must be quick."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from oodbench.cli.data import data_app, given_path
from oodbench.cli.streams import ReaderLeft, finish_output, prepare_streams
from oodbench.errors import ExitCode, InterruptedRun, UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from oodbench.planning.suite import Change
    from oodbench.plugins.catalog import Catalog
    from oodbench.progress import Reporter
    from oodbench.results import Run, SuiteRun

app = typer.Typer(
    name="oodbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")


_FORM = "warning: %(message)s"

# Typer carries its own click in some versions and uses the package in others.
_UsageError: Any = next(
    cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException"
)


class Listing(StrEnum):
    """What can be listed."""

    detectors = "detectors"
    benchmarks = "benchmarks"
    datasets = "datasets"
    models = "models"


class Format(StrEnum):
    """Formats of a report."""

    table = "table"
    md = "md"
    csv = "csv"
    json = "json"
    html = "html"
    latex = "latex"


Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugins",
        parser=given_path,
        metavar="DIR",
        help="A folder of your own content; repeatable.",
    ),
]
Methods = Annotated[
    str | None,
    typer.Option("--methods", metavar="A,B", help="Only these methods (or detectors)."),
]
Seeds = Annotated[
    int, typer.Option("--seeds", metavar="N", min=1, help="Number of seeds: 0 .. N-1.")
]
Device = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:i.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        parser=given_path,
        metavar="DIR",
        help="Folder of data sets that do not come built in.",
    ),
]
Benchmark = Annotated[
    str, typer.Argument(metavar="[BENCHMARK]", help="A name, or a YAML file; or those of a suite.")
]


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; works behind any command.")
    ] = False,
) -> None:
    """Benchmarks of out-of-distribution detectors: quality and cost side by side."""
    del debug  # read by `main`, wherever it stands
    if show_version:
        from oodbench import __version__

        print(f"oodbench {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(ExitCode.USAGE)


@app.command()
def run(
    benchmark: Benchmark = "digits",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            parser=given_path,
            metavar="DIR",
            help="Run directory. Default: runs/<benchmark>-<time>.",
        ),
    ] = None,
    methods: Methods = None,
    seeds: Seeds = 3,
    device: Device = "auto",
    plugins: Plugins = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue a run: finished work is not done again."),
    ] = False,
    data_root: DataRoot = None,
    tune: Annotated[
        str | None,
        typer.Option(
            "--tune",
            metavar="NAMES|all|none",
            help="Detectors whose search space is swept, instead of those of the benchmark.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", min=1, help="For a first try: at most N images a split."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs", metavar="N", min=1, help="For a first try: train for at most N epochs."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Train what is not trained yet, score every method, print the leaderboards.

    A suite runs several benchmarks and compares them with published tables.
    """
    from oodbench import api
    from oodbench.planning.suite import Change
    from oodbench.plugins import arguments
    from oodbench.plugins.catalog import Catalog

    console = _console()
    catalog = Catalog(plugins or ())
    change = Change.read(tune, limit, epochs)
    if dry_run:
        arguments.device_name(device)
        for part in _planned(catalog, benchmark, seeds, _names(methods), change, console.width):
            console.print(part)
        return
    options: dict[str, Any] = {
        "out": out,
        "methods": _names(methods),
        "seeds": seeds,
        "device": device,
        "plugins": plugins or (),
        "data_root": data_root,
        "resume": resume,
        "tune": tune,
        "limit": limit,
        "epochs": epochs,
        "progress": _reporter(),
    }
    done: Run | SuiteRun
    try:
        if catalog.is_suite(benchmark):
            done = api.run_suite(benchmark, say=_say, **options)
        else:
            done = api.run(benchmark, **options)
    except InterruptedRun as stop:
        again = _again(benchmark, stop.folder, methods, seeds, device, plugins, data_root)
        for option, value in (("--tune", tune), ("--limit", limit), ("--epochs", epochs)):
            again += f" {option} {shlex.quote(str(value))}" if value is not None else ""
        _say(f"Interrupted. What is finished is stored; continue with:\n  {again}")
        raise typer.Exit(ExitCode.INCOMPLETE) from None
    _print_results(done, console)
    console.print(f"Run directory: {done.folder}", markup=False, highlight=False, soft_wrap=True)
    if not done.complete:
        for failure in done.failures:
            _say(f"failed: {failure}")
        if done.failures:
            _say("Repeat the command with --debug and --resume to see the tracebacks.")
        _say("Incomplete: something that was asked for is missing; the reasons are above.")
        raise typer.Exit(ExitCode.INCOMPLETE)


@app.command()
def train(
    benchmark: Benchmark = "digits",
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Only this model.")
    ] = None,
    seeds: Seeds = 3,
    device: Device = "auto",
    plugins: Plugins = None,
    data_root: DataRoot = None,
) -> None:
    """Train the models of a benchmark and keep their checkpoints in the cache.

    With several GPUs: torchrun --nproc-per-node N -m oodbench train BENCHMARK.
    """
    from oodbench.process import prepare_process

    prepare_process()  # before torch is loaded
    from oodbench.engine.device import find_device
    from oodbench.plugins.catalog import Catalog
    from oodbench.progress import Silent
    from oodbench.training import distributed
    from oodbench.training.trained_models import train_models

    catalog = Catalog(plugins or ())
    spec = catalog.benchmark(benchmark)
    place = distributed.local_device(find_device(device))
    with distributed.group(place) as group:
        trained = train_models(
            spec,
            catalog,
            model=model,
            seeds=seeds,
            device=place,
            say=_reporter() if group.leads else Silent(),
            data_root=data_root,
        )
    for name, path in trained.items() if group.leads else ():
        print(f"{name}  {path}")


@app.command("list")
def list_(
    kind: Annotated[Listing, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array, for machines.")] = False,
    plugins: Plugins = None,
) -> None:
    """List what can be named: detectors, benchmarks, datasets or models."""
    from oodbench.cli.listing import LISTERS, table
    from oodbench.plugins.catalog import Catalog
    from oodbench.report.writers.terminal import print_list

    rows = LISTERS[kind.value](Catalog(plugins or ()))
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print_list(table(kind.value, rows))


@app.command()
def report(
    run_directory: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run directory, of a benchmark or of a suite.")
    ],
    format_: Annotated[
        Format | None, typer.Option("--format", help="Form of the report. Default: table.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", parser=given_path, metavar="FILE", help="Write it to a file."),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures",
            parser=given_path,
            metavar="DIR",
            help="Draw the figures into a folder, too.",
        ),
    ] = None,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="With --format latex: ten methods, for a paper's column."),
    ] = False,
) -> None:
    """Make the reports of a run again, from its records alone.

    Exit code 1, and a warning, if files with results were changed after the run.
    """
    import warnings

    from oodbench import api
    from oodbench.files import write_atomic
    from oodbench.report.formats import FORMATS, compact_table
    from oodbench.storage.holding import held_around

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        done = api.open_run(run_directory)
    done.report()  # what cannot be read is an error, and nothing is to be warned of
    for each in said:
        _say(f"WARNING: {each.message}")
    code = ExitCode.FINDING if said else ExitCode.OK
    if compact and format_ is not Format.latex:
        raise UserError("--compact needs --format latex.")
    if figures is not None:
        paths = done.write_figures(figures)
        listed = "\n".join(map(str, paths)) or "There is nothing to draw in this run."
        if format_ is None and out is None:
            print(listed)
            raise typer.Exit(code)
        _say(listed)  # standard output may be the report
    if format_ in (None, Format.table) and out is None:
        _print_results(done, _console())
        raise typer.Exit(code)
    found = done.report()
    text = compact_table(found) if compact else FORMATS[(format_ or Format.table).value](found)
    if out is None:
        print(text)
    else:
        with held_around(out):
            write_atomic(out, text if text.endswith("\n") else text + "\n")
    raise typer.Exit(code)


def main() -> None:
    """Entry point of the `oodbench` command: errors of the user's become one or two lines."""
    prepare_streams()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    level, form = (logging.DEBUG, logging.BASIC_FORMAT) if debug else (logging.WARNING, _FORM)
    logging.basicConfig(level=level, format=form)
    for library in ("matplotlib", "PIL", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        code = app(args=arguments, standalone_mode=False, prog_name="oodbench")
        finish_output()
    except UserError as error:
        if debug:
            raise
        _say(f"error: {_named_as_option(error.message)}")
        if error.hint:
            _say(error.hint)
        code = ExitCode.USAGE
    except _UsageError as error:
        _say(f"error: {_usage_problem(error)}")
        _say(f"See `{_command_of(error)} --help`.")
        code = ExitCode.USAGE
    except (KeyboardInterrupt, typer.Abort):
        _say("Interrupted.")
        code = ExitCode.INCOMPLETE
    except ReaderLeft:
        code = ExitCode.OK
    sys.exit(code if isinstance(code, int) else ExitCode.OK)


def _named_as_option(message: str) -> str:
    """A message about an argument of a function, about the option that it was given by."""
    argument, colon, rest = message.partition(": ")
    if argument not in ("seeds", "device", "data_root", "tune", "limit", "epochs"):
        return message
    return f"--{argument.replace('_', '-')}{colon}{rest}"


def _usage_problem(error: Any) -> str:
    """What the command line's parser found, in one line."""
    # Some versions of typer validate with pydantic, which puts this before its messages.
    text = " ".join(error.format_message().split()).replace("Value error, ", "")
    return text if text.endswith((".", "?", ")")) else f"{text}."


def _command_of(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return str(context.command_path) if context else "oodbench"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _console() -> Console:
    """Standard output; 120 columns where it is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def _reporter() -> Reporter:
    from oodbench.progress import reporter_for

    return reporter_for(Console(stderr=True))


def _planned(
    catalog: Catalog,
    benchmark: str,
    seeds: int,
    methods: list[str] | None,
    change: Change,
    width: int,
) -> list[RenderableType]:
    """What a run of a benchmark or of a suite would do."""
    from oodbench import api
    from oodbench.cli import plans as plan_view
    from oodbench.planning.suite import load_suite, plan_suite

    statuses = catalog.checked_detectors()
    if not catalog.is_suite(benchmark):
        plan = api.plan_run(
            catalog, benchmark, statuses, seeds=seeds, methods=methods, change=change
        )
        api.check_parameters(plan, catalog)
        return plan_view.renderables(plan, width)
    suite = load_suite(catalog, benchmark).changed(change)
    plans = plan_suite(catalog, suite, statuses, seeds=seeds, methods=methods)
    for member in plans.values():
        api.check_parameters(member, catalog)
    return plan_view.suite_renderables(suite, plans, width)


def _print_results(done: Run | SuiteRun, console: Console) -> None:
    """The leaderboards of a run, or the comparison of a suite, as wide as the console."""
    from oodbench.report import Comparison
    from oodbench.report.tables import comparison_layout
    from oodbench.report.writers import terminal

    report = done.report()
    if isinstance(report, Comparison):
        shown = terminal.document_renderables(comparison_layout.overview(report), console.width)
    else:
        shown = terminal.renderables(report, console.width)
    for part in shown if console.is_terminal else [terminal.plain(shown, console.width).rstrip()]:
        console.print(part, markup=False, highlight=False, soft_wrap=True)


def _names(methods: str | None) -> list[str] | None:
    if methods is None:
        return None
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if not names:
        raise UserError("--methods: expected names separated by commas.")
    return names


def _again(benchmark: str, folder: Path, *options: Any) -> str:
    """The command that continues a run."""
    methods, seeds, device, plugins, data_root = options
    words = ["oodbench", "run", benchmark, "--resume", "--out", str(folder)]
    words += ["--methods", methods] if methods else []
    words += ["--seeds", str(seeds)] if seeds != 3 else []
    words += ["--device", device] if device != "auto" else []
    for plugin in plugins or ():
        words += ["--plugins", str(plugin)]
    words += ["--data-root", str(data_root)] if data_root else []
    return shlex.join(words)
