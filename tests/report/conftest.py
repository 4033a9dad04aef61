"""Leaderboards that the tests of reports share."""

from __future__ import annotations

import pytest
from helpers.boards import (
    cost_records,
    differences,
    quality_records,
)

from oodbench.report import Leaderboard


@pytest.fixture(scope="session")
def board() -> Leaderboard:
    records = quality_records(3)
    return Leaderboard.from_records(records, cost_records(3), differences=differences(records))


@pytest.fixture(scope="session")
def without_costs() -> Leaderboard:
    return Leaderboard.from_records(quality_records(1), [])
