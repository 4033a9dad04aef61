"""The commands and their options, from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from documentation.markdown_text import cell, code, fenced, table
from oodbench.cli.help_text import help_record
from oodbench.cli.main import app


def reference() -> str:
    """Markdown with a table of all commands, and a section for each."""
    commands = [*_commands("oodbench", typer.main.get_command(app))]
    names = [(f"[`{name}`](#{_anchor(name)})", cell(_first_line(each))) for name, each in commands]
    sections = (_section(name, each) for name, each in commands)
    return "\n".join([table(("Command", "Purpose"), names), *sections])


def _commands(prefix: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Full name -> command, of all that are no groups."""
    for name, each in command.commands.items():
        full = f"{prefix} {name}"
        if hasattr(each, "commands"):
            yield from _commands(full, each)
        elif not each.hidden:
            yield full, each


def _section(name: str, command: Any) -> str:
    context = typer.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    parts = [f"## {name}\n", f"{_text(command.help)}\n"]
    parts.append(fenced(usage, "text"))
    for title, kind in (("Argument", "argument"), ("Option", "option")):
        rows = [_row(each, context) for each in command.params if each.param_type_name == kind]
        if rows:
            parts.append(table((title, "Meaning", "Default"), rows))
    return "\n".join(parts)


def _row(parameter: Any, context: typer.Context) -> tuple[str, str, str]:
    names, text = help_record(parameter, context) or ("", "")
    text, default = _without(text, "default")
    text, required = _without(text, "required", "")
    needed = required is not None or (
        parameter.param_type_name == "argument" and parameter.required
    )
    return code(names), _text(text), "required" if needed else _default(default)


def _without(text: str, word: str, mark: str = ": ") -> tuple[str, str | None]:
    """A help text without "[default: x]" (also among others), and x; None if it has none."""
    found = re.search(rf"(\[|; ){word}{mark}([^;\]]*)(?=[;\]])", text)
    if found is None:
        return text, None
    rest = text[: found.start()] + found[1].strip("; ") + text[found.end() :].removeprefix("; ")
    return rest.replace("[]", "").strip(), found[2]


def _default(text: str | None) -> str:
    return code(text) if text else ""


def _text(text: str | None) -> str:
    """A help text, with links to the pages that it names."""
    marked = re.sub(r"(?<!\S)(--[\w-]+)", r"`\1`", text or "")
    return re.sub(r"docs/([\w/-]+\.md)", r"[\1](../\1)", cell(marked))


def _first_line(command: Any) -> str:
    return str(command.help or "").splitlines()[0]


def _anchor(name: str) -> str:
    return name.replace(" ", "-")
