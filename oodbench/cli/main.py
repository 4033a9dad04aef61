"""The command line: its groups of commands, and the entry point.

Commands import heavy modules themselves: `--help` must be quick.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer

from oodbench.cli import benchmarking, evaluating
from oodbench.cli.content import checking, listing
from oodbench.cli.content.scaffolding import new_app
from oodbench.cli.data import data_app
from oodbench.cli.deployment import detector_fitting, exporting, image_scoring
from oodbench.cli.display import say
from oodbench.cli.finished_runs import comparing, reporting, site_building, verifying
from oodbench.cli.help_text import PlainCommand, PlainGroup
from oodbench.cli.streams import ReaderLeft, finish_output, prepare_streams, stopped_as_by_a_user
from oodbench.errors import ExitCode, UserError

app = typer.Typer(
    name="oodbench",
    cls=PlainGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=PlainCommand)(benchmarking.run)
app.command(cls=PlainCommand)(benchmarking.train)
app.command(cls=PlainCommand)(evaluating.evaluate)
app.command(cls=PlainCommand)(detector_fitting.fit)
app.command(cls=PlainCommand)(image_scoring.score)
app.command(cls=PlainCommand)(exporting.export)
app.command("list", cls=PlainCommand)(listing.list_)
app.command(cls=PlainCommand)(reporting.report)
app.command(cls=PlainCommand)(reporting.leaderboard)
app.command(cls=PlainCommand)(comparing.compare)
app.command(cls=PlainCommand)(verifying.verify)
app.command(cls=PlainCommand)(checking.check)
app.command(cls=PlainCommand)(site_building.site)
app.add_typer(data_app, name="data")
app.add_typer(new_app, name="new")

_FORM = "warning: %(message)s"

_INTERRUPTED = 130
"""What typer returns after Ctrl-C in some versions; others raise `typer.Abort`."""

# Typer carries its own click in some versions and uses the package in others.
_UsageError: Any = next(
    cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException"
)


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
        with stopped_as_by_a_user():
            code = app(args=arguments, standalone_mode=False, prog_name="oodbench")
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        finish_output()
    except UserError as error:
        if debug:
            raise
        say(f"error: {_named_as_option(error.message)}")
        if error.hint:
            say(error.hint)
        code = ExitCode.USAGE
    except PermissionError as error:
        if debug:
            raise
        say(f"error: {error.filename}: {error.strerror or error}.")
        say("Change the permissions, or run as a user who may read and write it.")
        code = ExitCode.USAGE
    except _UsageError as error:
        say(f"error: {_usage_problem(error)}")
        say(f"See `{_command_of(error)} --help`.")
        code = ExitCode.USAGE
    except (KeyboardInterrupt, typer.Abort):
        say("Interrupted.")
        code = ExitCode.INCOMPLETE
    except ReaderLeft:
        code = ExitCode.OK
    sys.exit(code if isinstance(code, int) else ExitCode.OK)


def _named_as_option(message: str) -> str:
    """A message about an argument of a function, about the option that it was given by."""
    argument, colon, rest = message.partition(": ")
    if argument not in (
        "seed",
        "seeds",
        "device",
        "data_root",
        "tune",
        "limit",
        "epochs",
        "workers",
        "executor",
        "address",
    ):
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
