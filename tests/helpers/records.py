"""Synthetic records."""

from __future__ import annotations

from typing import Any

from oodbench.storage.records import ID_ACCURACY, CostRecord, QualityRecord


def quality(
    method: str, seed: int, ood: str | None, value: float | None, **changes: Any
) -> QualityRecord:
    """An AUROC record whose interval is [value - 0.02, value + 0.01]."""
    known: dict[str, Any] = {
        "run_id": "run",
        "benchmark": "toy",
        "benchmark_version": 1,
        "method": method,
        "model": "SoftMax",
        "loss": "cross_entropy",
        "detector": method.lower(),
        "detector_params": {},
        "tuned_on": "none",
        "seed": seed,
        "id_dataset": "digits",
        "ood_dataset": ood,
        "ood_group": {"letters": "near"}.get(ood or "", "far") if ood else None,
        "metric": "auroc" if ood else ID_ACCURACY,
        "value": value,
        "ci_low": None if value is None else max(0.0, value - 0.02),
        "ci_high": None if value is None else min(1.0, value + 0.01),
        "n_id": 100,
        "n_ood": 50 if ood else None,
    }
    return QualityRecord(**(known | changes))


def cost(method: str, seed: int, **changes: Any) -> CostRecord:
    known: dict[str, Any] = {
        "run_id": "run",
        "benchmark": "toy",
        "method": method,
        "detector": method.lower(),
        "model": "SoftMax",
        "seed": seed,
        "device": "cpu",
        "forwards_per_image": 1.0,
        "backwards_per_image": 0.0,
        "flops_per_image": 2e6,
        "latency_ms_batch1": 1.0,
        "ms_per_image_batched": 0.1,
        "relative_to_baseline": 1.0,
        "fit_seconds": 0.0,
        "tune_seconds": 0.0,
        "peak_memory_bytes": 2**20,
        "input_preprocessing": False,
        "feature_ensemble": False,
        "ood_or_adversarial_samples": False,
        "post_processing_phase": False,
        "ad_hoc_models": False,
    }
    return CostRecord(**(known | changes))
