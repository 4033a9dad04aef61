"""Notes below the tables of a leaderboard."""

from __future__ import annotations

import pytest

from oodbench.report.tables.notes import ties_note


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_only_boards_of_two_seeds_ask_for_more_seeds(seeds: int) -> None:
    note = ties_note(7, seeds)
    assert ("run more seeds" in note) == (seeds == 2)
    assert ("even a large difference may be marked =" in note) == (seeds == 2)
