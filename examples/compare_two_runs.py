"""Compare a change with a committed leaderboard, and decide as a check of a pull request does.

python examples/compare_two_runs.py

Run it in the root of the repository: the base is `docs/leaderboards/digits`. `oodbench compare`
does the same on the command line; `examples/ci` has workflows.
"""

from __future__ import annotations

import sys

import oodbench

BASE = "docs/leaderboards/digits"


def main() -> int:
    """Run two methods of the base again, and compare; 1 if one is worse, else 0."""
    head = oodbench.run("digits", methods=["SoftMax+MSP", "SoftMax+KNN"], seeds=3, progress=False)
    comparison = oodbench.compare(BASE, head)
    for each in comparison.changes:
        if (each.metric, each.column) == ("auroc", "mean") and each.verdict != "gone":
            print(f"{each.method}: {each.base:.1%} -> {each.head:.1%}, {each.verdict}")
    worse = comparison.of("worse")
    print(f"{len(worse)} differences are for the worse.")
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
