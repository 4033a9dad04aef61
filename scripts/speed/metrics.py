"""Time of metrics and intervals beside scikit-learn, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from sklearn import metrics as sk

from oodbench import bootstrap, metrics

Scores = tuple[metrics.Array, metrics.Array]

IMAGES = 1_000_000
INTERVAL_IMAGES = 10_000
RESAMPLES = 1000
NAIVE_RESAMPLES = 10
REPEATS = 3


def seconds(function: Callable[[Scores], object], scores: Scores) -> float:
    """Least wall-clock seconds of a few calls, as other work on the machine only adds time."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function(scores)
        times.append(time.perf_counter() - start)
    return min(times)


def our_metrics(scores: Scores) -> None:
    """The six metrics."""
    metrics.evaluate(*scores)


def naive_metrics(scores: Scores) -> None:
    """The areas and the ROC curve, from which the metrics at a threshold would be read."""
    is_id = np.repeat([1, 0], [scores[0].size, scores[1].size])
    pooled = np.concatenate(scores)
    sk.roc_auc_score(is_id, pooled)
    sk.average_precision_score(is_id, pooled)
    sk.average_precision_score(1 - is_id, -pooled)
    sk.roc_curve(is_id, pooled)


def our_intervals(scores: Scores) -> None:
    """Intervals of the six metrics."""
    generator = np.random.default_rng(0)
    bootstrap.confidence_intervals(*scores, generator=generator, resamples=RESAMPLES)


def naive_resamples(scores: Scores) -> None:
    """A few resamples of arrays, and scikit-learn on each."""
    generator = np.random.default_rng(0)
    id_scores, ood_scores = scores
    for _ in range(NAIVE_RESAMPLES):
        naive_metrics(
            (
                generator.choice(id_scores, id_scores.size),
                generator.choice(ood_scores, ood_scores.size),
            )
        )


def main() -> None:
    """Print the table."""
    generator = np.random.default_rng(0)
    distinct = generator.normal(1, 1, IMAGES), generator.normal(0, 1, IMAGES)
    rounded = np.round(distinct[0], 2), np.round(distinct[1], 2)

    rows = []
    for kind, scores in (("distinct scores", distinct), ("2 decimals", rounded)):
        ours, naive = seconds(our_metrics, scores), seconds(naive_metrics, scores)
        rows.append((f"six metrics, 2 x {IMAGES:,}, {kind}", ours, naive))
    for kind, scores in (("distinct scores", distinct), ("2 decimals", rounded)):
        few = scores[0][:INTERVAL_IMAGES], scores[1][:INTERVAL_IMAGES]
        naive = seconds(naive_resamples, few) * RESAMPLES / NAIVE_RESAMPLES
        title = f"intervals, 2 x {INTERVAL_IMAGES:,}, {RESAMPLES} resamples, {kind}"
        rows.append((title, seconds(our_intervals, few), naive))

    width = max(len(title) for title, _, _ in rows)
    print(f"{'':{width}}  {'oodbench':>10}  {'naive':>10}  {'ratio':>7}")
    for title, ours, naive in rows:
        print(f"{title:{width}}  {ours:8.3f} s  {naive:8.3f} s  {naive / ours:6.1f}x")
    print(
        "\nnaive: scikit-learn's roc_auc_score, average_precision_score (in and out) and roc_curve."
        f"\nIts intervals are extrapolated: {NAIVE_RESAMPLES} resamples were run, and the time is "
        f"multiplied by {RESAMPLES // NAIVE_RESAMPLES}."
    )


if __name__ == "__main__":
    main()
