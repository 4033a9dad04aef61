"""Views are their data, with methods for formats."""

from __future__ import annotations

from dataclasses import replace

from oodbench.report import Leaderboard
from oodbench.report.leaderboard import LeaderboardData


def test_changed_copies_of_a_view_are_views(board: Leaderboard) -> None:
    for copy in (board.without_costs(), replace(board, about=("Run of yesterday.",))):
        assert type(copy) is Leaderboard
        assert copy.to_csv().startswith("section,rank,method")
    assert replace(board) == board


def test_data_know_nothing_of_formats() -> None:
    assert [name for name in vars(LeaderboardData) if name.startswith(("to_", "_repr_"))] == []
    assert [name for name in vars(Leaderboard) if name.startswith("to_")]
