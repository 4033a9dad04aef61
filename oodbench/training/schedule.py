"""Learning rates over a training."""

from __future__ import annotations

import math

from oodbench.specs import TrainingSpec


def learning_rate(recipe: TrainingSpec, position: float) -> float:
    """Learning rate at a position in the training.

    Args:
        recipe: schedule and peak rate.
        position: epochs done, including the fraction of the current epoch.
    """
    done = position / recipe.epochs
    if recipe.schedule == "constant":
        factor = 1.0
    elif recipe.schedule == "step":
        factor = 0.1 ** sum(done >= milestone for milestone in recipe.milestones)
    elif recipe.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * done))
    else:  # one_cycle: a linear rise over the first 30 %, then half a cosine down to zero
        rise = 0.3
        if done < rise:
            factor = 0.04 + 0.96 * done / rise
        else:
            factor = 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))
    return recipe.learning_rate * factor
