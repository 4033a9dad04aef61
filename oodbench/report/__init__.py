"""Reports: leaderboards and comparisons, made from the records of a run and from nothing else."""

from __future__ import annotations

from oodbench.report.views import Comparison, Leaderboard

__all__ = ["Comparison", "Leaderboard"]
