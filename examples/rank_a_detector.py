"""Rank a new detector among the built-in ones: a class in a script, and one call.

python examples/rank_a_detector.py

Takes about 20 seconds on two cores the first time, when it trains a small network.
"""

from __future__ import annotations

from torch import Tensor

import oodbench
from oodbench import Detector, Outputs, register


@register("margin", label="Margin", title="Largest logit less the second largest")
class Margin(Detector):
    """Difference of the two largest logits."""

    def score(self, outputs: Outputs) -> Tensor:
        """One score per image, shape [B]; higher is more in-distribution."""
        first, second = outputs.logits.topk(2, dim=1).values.unbind(dim=1)
        return first - second


def main() -> None:
    """Check the detector, then run it beside three others on one trained network."""
    print(oodbench.testing.check_detector(Margin()))
    run = oodbench.run(
        "digits",
        plugins=[Margin],
        methods=["SoftMax+margin", "SoftMax+MSP", "SoftMax+Energy", "SoftMax+KNN"],
        seeds=1,
        progress=False,
    )
    board = run.leaderboard()
    print(board.to_pandas()[["rank", "method", "auroc", "fpr95", "relative_to_baseline"]])
    print(f"Scores, records and reports: {run.folder}")


if __name__ == "__main__":
    main()
