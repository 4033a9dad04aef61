"""Our logistic regression against scikit-learn's: `python scripts/speed/logistic_regression.py`.

Both choose the penalty by five-fold cross-validation over ten strengths and fit on everything, on
the same features, in turns. Prints milliseconds, the ratio, and how far the weights are apart.
"""

from __future__ import annotations

import statistics
import time
import warnings

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold

from oodbench.numerics.likelihood.regression import fit_logistic_regression


def main() -> None:
    print(" images  taps   ours ms  sklearn ms   ratio  difference")
    for images, taps in ((200, 4), (1500, 4), (1500, 5)):
        generator = np.random.default_rng(0)
        scales = np.geomspace(1, 100, taps)
        positives = -np.abs(generator.normal(20, 8, (images, taps))) * scales
        negatives = -np.abs(generator.normal(30, 12, (images, taps))) * scales
        features, labels = np.concatenate([positives, negatives]), np.repeat([0, 1], images)
        reference = LogisticRegressionCV(Cs=10, cv=StratifiedKFold(5), scoring="accuracy")
        ours, theirs = [], []
        for _ in range(4):
            started = time.perf_counter()
            model = fit_logistic_regression(
                torch.from_numpy(positives), torch.from_numpy(negatives), standardize=False
            )
            ours.append(time.perf_counter() - started)
            started = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reference.fit(features, labels)
            theirs.append(time.perf_counter() - started)
        mine, other = statistics.median(ours[1:]), statistics.median(theirs[1:])
        weights = np.ravel(reference.coef_)
        difference = np.abs(model.weight.numpy() - weights).max() / np.abs(weights).max()
        print(
            f"{2 * images:7} {taps:5} {1e3 * mine:9.1f} {1e3 * other:11.1f} "
            f"{other / mine:7.1f} {difference:11.1e}"
        )


if __name__ == "__main__":
    main()
