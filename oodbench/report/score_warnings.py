"""Signs of a mistake in scores that records show: a wrong sign, many ties."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from statistics import fmean

from oodbench.storage.records import QualityRecord

_WRONG_WAY = 0.4
"""Mean AUROC over seeds below which the score may have the wrong sign."""
_TIED = 0.2
"""Share of tied pairs above which an AUROC is not meaningful."""
_WORTH_A_NOTE = 0.01
"""Share of tied pairs from which a method gets a note."""


def score_warnings(records: Iterable[QualityRecord]) -> Iterator[str]:
    """A sentence for each method with scores that look wrong.

    Args:
        records: quality records of one benchmark; only those of the AUROC are used.
    """
    found: dict[str, dict[str, list[QualityRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.metric == "auroc" and record.value is not None and record.ood_dataset is not None:
            found[record.method][record.ood_dataset].append(record)
    for method, sets in found.items():
        aurocs = [fmean(record.value or 0.0 for record in group) for group in sets.values()]
        below = sum(value < _WRONG_WAY for value in aurocs)
        if 2 * below > len(aurocs):
            yield (
                f"{method}: the AUROC is below {_WRONG_WAY:.0%} on {below} of {len(aurocs)} OOD "
                f"{'set' if len(aurocs) == 1 else 'sets'}. OOD images score higher than ID images: "
                "the score may have the wrong sign (higher must mean more in-distribution), or the "
                "detector may not suit this model."
            )
        ties = [r.tie_fraction for group in sets.values() for r in group if r.tie_fraction]
        tied = sum(ties) / sum(map(len, sets.values()))
        if tied > _TIED:
            yield (
                f"{method}: {tied:.0%} of the pairs of an ID and an OOD image have equal scores, "
                "which count half in the AUROC: the scores are too coarse to rank images."
            )


def tie_notes(records: Iterable[QualityRecord]) -> Iterator[str]:
    """A note on the ties of one method and seed, if they are frequent."""
    ties = {
        record.ood_dataset: record.tie_fraction
        for record in records
        if record.metric == "auroc" and (record.tie_fraction or 0.0) >= _WORTH_A_NOTE
    }
    if ties:
        shares = ", ".join(f"{share:.1%} on {name}" for name, share in ties.items())
        yield f"pairs of an ID and an OOD image with equal scores: {shares}"
