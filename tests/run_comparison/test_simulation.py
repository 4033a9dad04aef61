"""A short run of the simulation; the whole is `python scripts/simulations/compare_runs.py`."""

from __future__ import annotations

import pytest
from simulations.compare_runs import Setting, count, itself

from oodbench.run_comparison.changes import Verdict


@pytest.mark.parametrize(
    "setting",
    [
        Setting(images=150, metrics=("auroc",)),
        Setting(images=150, other_images=True, metrics=("auroc",)),
        Setting(images=150, seeds=3, other_networks=0.15, metrics=("auroc",)),
    ],
)
def test_false_alarms_are_rare(setting: Setting) -> None:
    """With 5 %, more than 6 of 40 have a probability below 1 %."""
    assert count(setting, 40).alarms <= 6


def test_a_drop_of_a_point_is_found() -> None:
    setting = Setting(images=5000, drop=0.01, metrics=("auroc",))
    counts = count(setting, 5)
    assert counts.found == 5
    assert counts.alarms <= 1


def test_a_run_with_itself() -> None:
    found = itself(Setting(images=50)).changes
    assert {each.verdict for each in found} == {Verdict.SAME}
    assert {each.p_value for each in found} == {1.0}
