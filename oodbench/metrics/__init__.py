"""Metrics of out-of-distribution detection: pure functions of arrays of scores.

A higher score means "more in-distribution". In-distribution (ID) images are the positive class
unless a name says otherwise. A value is a fraction in [0, 1]. Ties are exact: chance never orders
images with equal scores.

The functions rank the scores once (`ranking`), count the images above each threshold, and compute
the metric from the counts (`roc`; `variants` for other people's definitions).

`METRICS` names the metrics that every run records, `OPTIONAL` those that a run records on request
(`metric_tables`). The latter need to know which ID images are classified correctly
(`selective_classification`, `open_set`), or read scores as numbers (`calibration`); `sirc` combines
the scores of two detectors. Each says how it treats ties. `thresholds` sets a threshold on
validation scores and counts the images that it accepts.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from oodbench.metrics import roc
from oodbench.metrics.calibration import autc, ece
from oodbench.metrics.metric_tables import (
    METRICS,
    OPTIONAL,
    Metric,
    OptionalMetric,
    accepting,
    of_id_images,
    requested,
)
from oodbench.metrics.open_set import ccr_at_fpr, oscr
from oodbench.metrics.roc import measure
from oodbench.metrics.score_combination import sirc
from oodbench.metrics.selective_classification import (
    RiskCoverage,
    augrc,
    aurc,
    e_aurc,
    failure_auroc,
    risk_coverage,
    scod_aurc,
    scod_risk_coverage,
)
from oodbench.metrics.sorted_scores import Array, Counts, Ranking, Weights, rank
from oodbench.metrics.thresholds import Acceptance, Threshold, acceptance, conformal_threshold
from oodbench.metrics.variants import VARIANTS

__all__ = [
    "METRICS",
    "OPTIONAL",
    "Acceptance",
    "Array",
    "Counts",
    "Metric",
    "OptionalMetric",
    "Ranking",
    "RiskCoverage",
    "Threshold",
    "Variant",
    "Weights",
    "acceptance",
    "accepting",
    "augrc",
    "aupr_in",
    "aupr_out",
    "aurc",
    "auroc",
    "autc",
    "ccr_at_fpr",
    "conformal_threshold",
    "dtacc",
    "e_aurc",
    "ece",
    "evaluate",
    "failure_auroc",
    "fpr95_ood_positive",
    "measure",
    "of_id_images",
    "oscr",
    "rank",
    "requested",
    "risk_coverage",
    "scod_aurc",
    "scod_risk_coverage",
    "sirc",
    "tie_fraction",
    "tnr_at_95_tpr",
]

Variant = Literal["adopted", "lee", "openood"]


def evaluate(
    id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike, variant: Variant = "adopted"
) -> dict[str, float]:
    """The six metrics of `METRICS`, from one sort.

    Variants, for comparison with published numbers:

    - `adopted`: the definitions of this module's functions.
    - `lee`: the code of Lee et al. (NeurIPS 2018). It removes images one by one by ascending
      score, ID before OOD among equal scores, so ties count as errors (constant scores have an
      AUROC of 0). TNR is taken at the first step whose TPR is *nearest* to 0.95; areas are
      trapezoids, with an artificial precision of 0 where the recall is 0.
      `fpr95_ood_positive`, which that code lacks, is the FPR of the same pass with the roles
      swapped.
    - `openood`: OpenOOD (Zhang et al., 2023), which uses scikit-learn's curves. AUPR is the
      trapezoid under the precision-recall curve (optimistic: Davis & Goadrich, ICML 2006);
      `fpr95_ood_positive` is read off a ROC curve without the points that are collinear with
      their neighbors; it differs from the adopted one only where ID and OOD scores are equal. The
      other three are as adopted.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].
        variant: the definitions to use.

    Returns:
        Fractions in [0, 1], under the names and in the order of `METRICS`.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity; or the
            variant is not known.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
    values = VARIANTS[variant](rank(id_scores, ood_scores).counts())
    return {name: float(value) for name, value in values.items()}


def auroc(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Area under the ROC curve: the probability that an ID image scores above an OOD image.

    P(s_ID > s_OOD) + P(s_ID = s_OOD) / 2, the Mann-Whitney statistic over the number of pairs
    (Hanley & McNeil, Radiology 1982). 0.5 is chance.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, 1]; higher is better.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    return float(roc.auroc(rank(id_scores, ood_scores).counts()))


def tnr_at_95_tpr(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Fraction of OOD images rejected when at least 95% of the ID images are accepted.

    P(s_OOD < tau), with tau the largest observed ID score for which P(s_ID >= tau) >= 0.95
    (TNR at 95% TPR of Liang et al., ICLR 2018, with the threshold made exact). The number called
    FPR@95TPR with ID as the positive class is 1 minus this one.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, 1]; higher is better.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    return float(roc.tnr_at_95_tpr(rank(id_scores, ood_scores).counts()))


def dtacc(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Detection accuracy: the best accuracy of any threshold, with both classes equally likely.

    The maximum of (P(s_ID >= t) + P(s_OOD < t)) / 2 over all thresholds t, those that accept every
    image or none included (Lee et al., NeurIPS 2018). 0.5 is chance, and the least possible.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0.5, 1]; higher is better.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    return float(roc.dtacc(rank(id_scores, ood_scores).counts()))


def aupr_in(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Area under the precision-recall curve with ID as the positive class.

    Average precision: the sum over distinct scores, from the highest, of the precision there times
    the gain in recall (no interpolation; Davis & Goadrich, ICML 2006). Precision is of counts, so
    chance is n_id / (n_id + n_ood): values for different proportions are not comparable.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, 1]; higher is better.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    return float(roc.average_precision_in(rank(id_scores, ood_scores).counts()))


def aupr_out(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Area under the precision-recall curve with OOD as the positive class.

    `aupr_in` with the roles swapped and the scores negated; chance is n_ood / (n_id + n_ood).

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, 1]; higher is better.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    return float(roc.average_precision_out(rank(id_scores, ood_scores).counts()))


def fpr95_ood_positive(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Fraction of ID images flagged when at least 95% of the OOD images are flagged.

    P(s_ID <= tau), with tau the smallest observed OOD score for which P(s_OOD <= tau) >= 0.95. The
    convention of OpenOOD (Zhang et al., 2023) and pytorch-ood, where OOD is the positive class; not
    1 minus `tnr_at_95_tpr`, which fixes the other rate.

    Args:
        id_scores: one score per ID image, shape [n_id]; higher is more in-distribution.
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, 1]; lower is better.

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    return float(roc.fpr95_ood_positive(rank(id_scores, ood_scores).counts()))


def tie_fraction(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Fraction of the n_id * n_ood pairs of one ID and one OOD image whose scores are equal.

    Half of it is the part of the AUROC that depends on how ties are broken. Ties among ID images
    alone, or among OOD images alone, do not count: no metric depends on them.

    Args:
        id_scores: one score per ID image, shape [n_id].
        ood_scores: one score per OOD image, shape [n_ood].

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: an argument is empty, is not one-dimensional, or holds NaN or infinity.
    """
    counts = rank(id_scores, ood_scores).counts()
    tied = np.sum(np.diff(counts.id_above) * np.diff(counts.ood_above))
    return float(tied / (counts.n_id * counts.n_ood))
