"""Reports: leaderboards and comparisons made from the records of a run, and from nothing else."""

from __future__ import annotations

from oodbench.report.comparison import Comparison
from oodbench.report.leaderboard import Leaderboard

__all__ = ["Comparison", "Leaderboard"]
