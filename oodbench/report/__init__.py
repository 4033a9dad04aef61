"""Reports: leaderboards and comparisons, made from the records of a run and from nothing else."""

from __future__ import annotations

from oodbench.report.views import Leaderboard, PublishedComparison

__all__ = ["Leaderboard", "PublishedComparison"]
