"""Records of a leaderboard with everything on it that a format has to show."""

from __future__ import annotations

import random
import re
from typing import Any

from helpers.paired import compared
from oodbench.metrics import METRICS
from oodbench.report import Leaderboard
from oodbench.storage.records import (
    ID_ACCURACY,
    REQUIREMENTS,
    CostRecord,
    DifferenceRecord,
    QualityRecord,
)

GROUPS = {"letters": "near", "photo-patches": "far", "uniform-noise": "far", "gauss": "far"}
SPECIAL = "A+b_c%d&e|f<g>"
METHODS = {
    # name: mean AUROC, tuned on
    "SoftMax+MSP": (0.90, "none"),
    "SoftMax+Energy": (0.91, "none"),
    "SoftMax+KNN (k=50)": (0.92, "none"),
    "SoftMax+Mahalanobis": (0.95, "fgsm"),
    "SoftMax+ODIN": (0.94, "fgsm"),
    "DisMax+Entropy": (0.96, "none"),
    "DisMax+Gram matrices": (0.88, "none"),
    SPECIAL: (0.80, "none"),
    "SoftMax+ODIN (oracle)": (0.98, "ood_oracle"),
    "SoftMax+Mahalanobis (oracle)": (0.99, "ood_oracle"),
}
SHARED: dict[str, Any] = {
    "run_id": "run",
    "benchmark": "toy_set",
    "benchmark_version": 3,
    "model": "SoftMax",
    "loss": "cross_entropy",
    "detector": "some_detector",
    "id_dataset": "digits",
}
NOTHING: dict[str, Any] = dict.fromkeys(
    ("ood_dataset", "ood_group", "value", "ci_low", "ci_high", "n_id", "n_ood")
)


def quality_records(seeds: int) -> list[QualityRecord]:
    generator = random.Random(0)
    records = []
    for method, (mean, tuned_on) in METHODS.items():
        for seed in range(seeds):
            own = {
                **SHARED,
                "method": method,
                "tuned_on": tuned_on,
                "seed": seed,
                "detector_params": {"epsilon": 0.0014 * (1 + seed % 2), "temperature": 1000.0},
            }
            for name, group in GROUPS.items():
                for metric in METRICS:
                    value = min(1.0, max(0.0, mean + generator.gauss(0, 0.01)))
                    records.append(
                        QualityRecord(
                            **own,
                            ood_dataset=name,
                            ood_group=group,
                            metric=metric,
                            value=value,
                            ci_low=max(0.0, value - 0.01),
                            ci_high=min(1.0, value + 0.01),
                            n_id=1360,
                            n_ood=500,
                        )
                    )
            accuracy = {**NOTHING, "value": 0.975, "n_id": 1360}
            records.append(QualityRecord(**own, **accuracy, metric=ID_ACCURACY))
    own = {**SHARED, "detector_params": {}, "tuned_on": "none", "metric": "auroc", **NOTHING}
    own |= {"ood_dataset": "letters", "ood_group": "near"}
    records.append(
        QualityRecord(
            **own, method="DisMax+ReAct", seed=0, status="skipped", reason="needs a linear_head"
        )
    )
    records.append(
        QualityRecord(
            **own, method="SoftMax+Vim", seed=1, status="failed", reason="not finite: <inf>"
        )
    )
    return records


def cost_records(seeds: int) -> list[CostRecord]:
    generator = random.Random(1)
    return [
        CostRecord(
            run_id="run",
            benchmark="toy_set",
            method=method,
            detector="some_detector",
            model="SoftMax",
            seed=seed,
            device="cpu",
            forwards_per_image=1.35,
            backwards_per_image=1.0,
            flops_per_image=4.92e6,
            latency_ms_batch1=generator.uniform(1, 30),
            ms_per_image_batched=generator.uniform(0.03, 3),
            relative_to_baseline=generator.uniform(1, 100),
            fit_seconds=0.8,
            tune_seconds=33.2,
            peak_memory_bytes=3 * 2**20,
            **dict.fromkeys(REQUIREMENTS, method == "SoftMax+Mahalanobis"),
        )
        for method in METHODS
        if method != "SoftMax+Energy"
        for seed in range(seeds)
    ]


def differences(records: list[QualityRecord]) -> list[DifferenceRecord]:
    """Of which one is a tie in every column."""
    widths = dict.fromkeys(METHODS, 0.0) | {"SoftMax+Mahalanobis": 0.1}
    return compared(records, widths)


def mean_of(board: Leaderboard, method: str) -> float:
    row = next(row for row in board.rows if row.method == method)
    return row.entries["auroc", board.column("mean")].estimate.mean


def unescaped(name: str, text: str) -> str:
    """The text with the escapes of a format undone, by rules written down here once more."""
    if name == "md":
        return re.sub(r"\\([\\`*_\[\]<>|~&$])", r"\1", text)
    if name == "html":
        for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&#39;", "'"), ("&amp;", "&")):
            text = text.replace(entity, sign)
        return text
    if name == "latex":
        words = {"textbar": "|", "textless": "<", "textgreater": ">"}
        text = re.sub(r"\\(textbar|textless|textgreater)\{\}", lambda m: words[m[1]], text)
        return re.sub(r"\\([&%$#_{}])", r"\1", text)
    return text


def vars_of(record: QualityRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in QualityRecord.__dataclass_fields__}
