"""How `--help` names commands, arguments and options, whatever the version of typer adds."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup


class PlainCommand(TyperCommand):
    """A command whose help names arguments as the documentation does: RUN, [BENCHMARK], NAME...

    Some versions of typer put brackets, braces and types around such names.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the usage line, after the name of the command."""
        arguments = [each for each in self.get_params(ctx) if _is_argument(each)]
        return ["[OPTIONS]", *(each.metavar or each.name or "" for each in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the options."""
        rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for each in self.get_params(ctx):
            if (record := help_record(each, ctx)) is not None:
                rows["Arguments" if _is_argument(each) else "Options"].append(record)
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class PlainGroup(TyperGroup):
    """A group of commands whose help has the whole first sentence of each."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the names of the commands and what they do."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, str(each.help or "").partition("\n\n")[0])
                    for name, each in commands
                    if each is not None and not each.hidden
                ]
            )


def help_record(parameter: Any, context: Any) -> tuple[str, str] | None:
    """Name and help of an argument or an option; None if it is hidden."""
    record = parameter.get_help_record(context)
    if record is None:
        return None
    name, text = record
    if _is_argument(parameter):
        # Brackets in the usage line say whether it is required.
        name = re.sub(r"[\[\]]", "", parameter.metavar or parameter.name)
        text = re.sub(r"(; |(?<=\[))required(?=\])", "", text)
    name = re.sub(r"<(?:list\[)?([^<>\]]+\|[^<>\]]+)\]?>", r"\1", name)  # choices
    text = re.sub(r"(; |(?<=\[))\d*(<=?)?x[<>]=?\d+(?=\])", "", text)  # errors say the range
    return name, text.replace("[]", "").strip()


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")
