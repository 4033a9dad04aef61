"""Metrics on request of resamples, against the metrics of arrays that are resampled literally."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pytest

from oodbench import bootstrap, metrics
from oodbench.metrics.metric_tables import KNOWN, LEVELS, OPTIONAL, accepting, requested
from oodbench.metrics.resampled_values import Images, resampled_values

Array = npt.NDArray[np.float64]

PUBLIC: Mapping[str, Callable[[Array, Array, Array, Array], float]] = {
    "aurc": lambda known, right, sure, unknown: metrics.aurc(known, right),
    "e_aurc": lambda known, right, sure, unknown: metrics.e_aurc(known, right),
    "augrc": lambda known, right, sure, unknown: metrics.augrc(known, right),
    "failure_auroc": lambda known, right, sure, unknown: metrics.failure_auroc(known, right),
    "scod_aurc": lambda known, right, sure, unknown: metrics.scod_aurc(known, right, unknown),
    "oscr": lambda known, right, sure, unknown: metrics.oscr(known, right, unknown),
    "ccr_at_fpr_1e-4": lambda k, right, sure, u: metrics.ccr_at_fpr(k, right, u, 1e-4),
    "ccr_at_fpr_1e-3": lambda k, right, sure, u: metrics.ccr_at_fpr(k, right, u, 1e-3),
    "ccr_at_fpr_1e-2": lambda k, right, sure, u: metrics.ccr_at_fpr(k, right, u, 1e-2),
    "ccr_at_fpr_1e-1": lambda k, right, sure, u: metrics.ccr_at_fpr(k, right, u, 1e-1),
    "autc": lambda known, right, sure, unknown: metrics.autc(known, unknown),
    "ece": lambda known, right, sure, unknown: metrics.ece(sure, right),
}


def or_nan(value: Callable[[], float]) -> float:
    try:
        return value()
    except ValueError:
        return float("nan")


@pytest.mark.parametrize(
    ("n_id", "n_ood", "decimals", "accuracy"),
    [(1, 1, 0, 1.0), (2, 9, 1, 0.5), (30, 1, 1, 0.0), (40, 45, 0, 0.8), (150, 230, 12, 0.9)],
)
def test_resampled_values_are_those_of_resampled_arrays(
    n_id: int, n_ood: int, decimals: int, accuracy: float
) -> None:
    generator = np.random.default_rng(n_id)
    known = np.round(generator.normal(1, 1, n_id), decimals)
    unknown = np.round(generator.normal(0, 1, n_ood), decimals)
    right = generator.random(n_id) < accuracy
    sure = np.round(generator.random(n_id), 1)
    images = Images(known, right, sure, unknown)
    counts = [bootstrap.resample_counts(n, 60, generator) for n in (n_id, n_ood)]
    found = resampled_values(images, *counts, requested("all"))
    assert set(PUBLIC) == set(requested("all")) == set(found)
    for place, (a, b) in enumerate(zip(*counts, strict=True)):
        drawn = [*(np.repeat(each, a) for each in (known, right, sure)), np.repeat(unknown, b)]
        for name, value in PUBLIC.items():
            expected = or_nan(lambda value=value, drawn=drawn: value(*drawn))  # type: ignore[misc]
            assert found[name][place] == pytest.approx(expected, abs=1e-12, nan_ok=True), name


def test_values_and_intervals_of_shared_resamples() -> None:
    generator = np.random.default_rng(5)
    known, unknown = generator.normal(1, 1, 50), generator.normal(0, 1, 70)
    right, sure = generator.random(50) < 0.8, generator.random(50)
    shared = bootstrap.SharedResamples(200)
    found = shared.optional(Images(known, right, sure, unknown), "a", "b", requested("all"))
    for name, value in PUBLIC.items():
        expected = value(known, right, sure, unknown)
        assert found[name].value == pytest.approx(expected, abs=1e-12)
        ends = found[name].interval
        assert ends is not None
        assert 0 <= ends[0] <= ends[1] <= OPTIONAL[name].largest
    weights = shared.counts("a", 50), shared.counts("b", 70)
    oscr = resampled_values(Images(known, right, sure, unknown), *weights, ["oscr"])["oscr"]
    assert found["oscr"].interval == bootstrap.percentile_interval(oscr)


def test_a_metric_without_a_value() -> None:
    images = Images(np.arange(4.0), np.ones(4, dtype=np.bool_))
    found = bootstrap.SharedResamples(100).optional(images, "a", None, ["failure_auroc", "aurc"])
    assert found == {"failure_auroc": (None, None), "aurc": (0.0, (0.0, 0.0))}
    assert images.lacks("oscr") == ("OOD scores",)
    assert images.lacks("ece") == ("confidence",)
    assert images.lacks("aurc") == ()


def test_names_on_request() -> None:
    of_rates = accepting(OPTIONAL)
    assert of_rates == requested("acceptance") == requested(["acceptance", "auroc"])
    assert {*requested("all"), *of_rates} == set(OPTIONAL)
    assert not {*requested("all")} & {*of_rates}
    assert requested(["all", "acceptance"]) == tuple(OPTIONAL)
    assert requested(["oscr", "auroc", "aurc"]) == ("aurc", "oscr")
    assert requested(["ccr_at_fpr"]) == tuple(f"ccr_at_fpr_{level}" for level in LEVELS)
    with pytest.raises(ValueError, match=r"no metric 'ocsr'\. Did you mean 'oscr'"):
        requested(["ocsr"])
    with pytest.raises(ValueError, match="stands alone"):
        requested(["all", "oscr"])


def test_tables_do_not_overlap() -> None:
    assert len(KNOWN) == len(metrics.METRICS) + len(metrics.OPTIONAL)
    of = {name: metric.of for name, metric in OPTIONAL.items()}
    assert of["oscr"] == of["autc"] == "set"
    assert of["aurc"] == of["failure_auroc"] == "method"
    assert of["ece"] == "model"
    assert (of["acceptance_at_0.95"], of["id_acceptance_at_0.99"]) == ("set", "method")
