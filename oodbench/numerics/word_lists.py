"""Lists of English words: those of WordNet, or of files."""

from __future__ import annotations

import gzip
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from oodbench.errors import UserError
from oodbench.files import expanded

WORDNET = "wordnet"
"""The name of WordNet's words."""

_PACKAGE = "spacy_lookups_data"
_INDEX = "data/en_lemma_index.json.gz"
"""The lemmas of WordNet by part of speech, in spaCy's lookups data; single words only."""


def word_lists(words: str, adjectives: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Nouns and adjectives, each word once: one that is a noun is not among the adjectives.

    Args:
        words: "wordnet", or a text file with one noun a line.
        adjectives: a text file with one adjective a line; None: those of WordNet, or no others.

    Raises:
        UserError: the package with WordNet's words is not installed, or a file cannot be read.
    """
    nouns, others = _wordnet() if words == WORDNET else (_lines("words", words), ())
    if adjectives is not None:
        others = _lines("adjectives", adjectives)
    nouns = tuple(dict.fromkeys(nouns))
    known = set(nouns)
    return nouns, tuple(word for word in dict.fromkeys(others) if word not in known)


@cache
def _wordnet() -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise UserError(
            "words: 'wordnet' needs the package spacy-lookups-data, which is not installed.",
            "Install it with: pip install 'oodbench[clip]'. Or name a text file with one word a "
            "line: words: FILE.",
        )
    content = gzip.decompress((Path(found.origin).parent / _INDEX).read_bytes())
    index = json.loads(content)
    return tuple(index["noun"]), tuple(index["adj"])


def _lines(argument: str, path: str) -> tuple[str, ...]:
    try:
        text = expanded(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{argument}: '{path}' cannot be read: {reason}.",
            "Give a text file with one word a line.",
        ) from error
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise UserError(f"{argument}: {path} has no words.", "Give one word a line.")
    return lines
