"""A short form of `scripts/robustness/interference.py`."""

from __future__ import annotations

from robustness.interference import campaign

OFFENCES = (
    "default_dtype",
    "grad_mode",
    "torch_seed",
    "logits_in_place",
    "head_in_place",
    "working_directory",
    "autocast",
)


def test_scores_of_the_others_stay(one_thread: None) -> None:
    assert campaign(OFFENCES, ("baseline", "knn", "odin", "vim"), lambda line: None) == []
