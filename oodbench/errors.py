"""Errors a user can act on, and the exit codes of the command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path

_LONGEST = 2000
"""Characters of the longest message."""


class ExitCode(IntEnum):
    """Exit codes of every `oodbench` command."""

    OK = 0
    FINDING = 1
    USAGE = 2
    INCOMPLETE = 3


class UserError(Exception):
    """An error that the user can fix: what is wrong, where, and what to do.

    The command line prints it as one or two lines without a traceback and exits with code 2.

    Args:
        message: what is wrong and where, one sentence.
        hint: what to do about it, one sentence; empty if the message already says it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = brief(message)
        self.hint = brief(hint)

    def say_first(self, what: str) -> None:
        """Put before the message what the error is about."""
        self.message = brief(f"{what}: {self.message}")

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UnsuitableError(ValueError):
    """A detector cannot run on a network; the message is the reason for which it is skipped."""


class NotFittedError(ValueError, AttributeError):
    """A detector was used before it was fitted.

    It has the bases of scikit-learn's error of this name, whose import takes a second.
    """


def sentence(text: str) -> str:
    """Text that ends with a period, unless it ends as a sentence does."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def visible(text: str) -> str:
    """Text in one line, with escapes for characters that do not print.

    Names of files may contain line feeds, byte order marks, and bytes that are not text.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def brief(text: str) -> str:
    """Visible text for a message: of a very long one, the beginning and the end."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST * 3 // 4]} ... {text[-_LONGEST // 5 :]}"
    return visible(text)


def shown(value: object, most: int = 60) -> str:
    """A value for a message, cut where it would fill the screen."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python prints
        return "a number that is too large"
    return text if len(text) <= most else f"{text[: most - 3]}..."


class InterruptedRun(KeyboardInterrupt):
    """The user stopped a run; what is finished is stored.

    Args:
        folder: its run directory.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


def listed(values: Iterable[object], most: int = 5) -> str:
    """Values with commas between them: the first few, and the number of the others."""
    texts = [str(value) for value in values]
    if len(texts) <= most + 1:
        return ", ".join(texts)
    return f"{', '.join(texts[:most])} and {len(texts) - most} more"


def counted(count: int, thing: str) -> str:
    """A number of things, as in "1 image", "2,000 images" and "3 classes"."""
    plural = f"{thing}es" if thing.endswith(("s", "x", "tch")) else f"{thing}s"
    return f"{count:,} {thing if count == 1 else plural}"


def with_article(name: str) -> str:
    """A name of a type after "a" or "an", as it is spoken: "a str", "an ndarray", "an LSTM"."""
    vowel = re.match(r"[AEIOaeio]|nd|Up|[FHLMNRSX][A-Z]", name)
    return f"{'an' if vowel else 'a'} {name}"


def kind_of(value: object) -> str:
    """The type of a value, for messages: "an int", "a dict", "None"."""
    return "None" if value is None else with_article(type(value).__name__)


_FEW = 8
"""Names that a message lists in full."""


def see_list(kind: str) -> str:
    """Where all detectors, benchmarks, datasets or models are listed, as a sentence."""
    return f"`oodbench list {kind}` lists all."


def did_you_mean(name: str, known: Iterable[str], elsewhere: str = "") -> str:
    """A hint naming the entries nearest to a misspelt `name`; if none is near, a few or all.

    Args:
        name: the name that is not known.
        known: those that are.
        elsewhere: a sentence that says where all are listed, in place of a long list.
    """
    names = sorted(set(known))
    folded = {entry.casefold(): entry for entry in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
    if near:
        return "Did you mean " + " or ".join(f"'{folded[entry]}'" for entry in near) + "?"
    if len(names) > _FEW and elsewhere:
        return elsewhere
    return f"Known: {listed(names, _FEW - 1)}." if names else "None are known."
