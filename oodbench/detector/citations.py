"""BibTeX entries of the papers that detectors come from."""

from __future__ import annotations

from collections.abc import Iterable

from oodbench.detector.info import DetectorInfo

PREPRINTS = ("arXiv",)
"""Venues that are no conference: entries of the type article, with the venue as the journal."""


def bibtex(detectors: Iterable[DetectorInfo]) -> str:
    """An entry for each detector with a paper, with the detector's name as its key.

    Args:
        detectors: their declarations.
    """
    return "\n\n".join(_entry(info) for info in detectors if info.paper)


def _entry(info: DetectorInfo) -> str:
    preprint = info.venue in PREPRINTS
    fields = {
        "title": f"{{{info.paper}}}",  # the inner braces keep capital letters
        "author": " and ".join(info.authors),
        "journal" if preprint else "booktitle": info.venue,
        "year": "" if info.year is None else str(info.year),
        "url": info.url,
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{'article' if preprint else 'inproceedings'}{{{info.name},", *lines, "}"])
