from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tiny_benchmark import tiny_benchmark

import oodbench


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three methods that work, one tuned, and one that cannot run; two seeds."""
    folder = tmp_path_factory.mktemp("verified")
    benchmark = folder / "tiny.yaml"
    benchmark.write_text(
        tiny_benchmark(
            {
                "SoftMax+MSP": "baseline",
                "SoftMax+Energy": "energy",
                "SoftMax+ODIN": "{model: SoftMax, detector: odin, tuning: fgsm}",
                "SoftMax+ODIN (fixed)": "{model: SoftMax, detector: odin, parameters: "
                "{temperature: 1000.0, epsilon: 0.0014}}",
                "SoftMax+MMLES": "mmles",
            },
            ood="{near: [letters], far: [uniform-noise]}",
            reference="SoftMax+MSP",
        ),
        encoding="utf-8",
    )
    oodbench.run(benchmark, out=folder / "run", seeds=2, limit=200)
    return folder / "run"
