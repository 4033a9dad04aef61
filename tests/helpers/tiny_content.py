"""Content of a user: the tiny benchmark, a suite, detectors; and what a refusal looks like."""

from __future__ import annotations

from pathlib import Path

from small_suite import suite_files

from helpers.commands import Done
from helpers.tiny_benchmark import tiny_benchmark

TINY = tiny_benchmark(
    {"SoftMax+MSP": "baseline", "SoftMax+DisMaxEntropy": "dismax_entropy"},
    matrix="{detectors: [entropy]}",
    reference="SoftMax+MSP",
    tuning="{fgsm_step: 0.3}",
)

# A detector in ten lines.
TEN_LINES = '''\
"""Energy score (Liu et al., NeurIPS 2020)."""
from torch import Tensor
from oodbench import Detector, Outputs, register

@register("my_energy")
class MyEnergy(Detector):
    """Log-sum-exp of the logits at a temperature."""

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def score(self, outputs: Outputs) -> Tensor:
        """One score per image, shape [B]; higher is more in-distribution."""
        return self.temperature * (outputs.logits / self.temperature).logsumexp(dim=1)
'''

PLUGIN = """\
import torch

from oodbench import Detector, Outputs, register


@register("{name}", label="{name}"{arguments})
class Mine(Detector):
    count = 0

{body}
"""

LOST = """\
schema_version: 1
name: lost
title: Lost
summary: Nobody has these images
kind: folder
paths: {test: test}
shape: [1, 8, 8]
splits: {test: 10}
license: none
citation: none
"""


def content(folder: Path, benchmark: str = TINY, **detectors: str) -> Path:
    (folder / "benchmarks").mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks" / "tiny.yaml").write_text(benchmark)
    (folder / "detectors").mkdir(exist_ok=True)
    for name, text in detectors.items():
        (folder / "detectors" / f"{name}.py").write_text(text)
    return folder


def reading(*detectors: str) -> str:
    """The tiny benchmark with another pass, and without the method that is skipped."""
    text = TINY.replace("[entropy]", f"[entropy, {', '.join(detectors)}]")
    return "\n".join(line for line in text.splitlines() if "DisMaxEntropy" not in line)


def check_refusal(done: Done, *said: str) -> None:
    """Exit code 2, one or two lines, no traceback, and what they must say."""
    assert done.code == 2, f"exit code {done.code}\n{done.out}\n{done.err}"
    lines = done.err.strip().splitlines()
    assert 1 <= len(lines) <= 2, f"{len(lines)} lines:\n{done.err}"
    assert lines[0].startswith("error: "), done.err
    assert "Traceback" not in done.err
    for part in said:
        assert part in done.err, f"'{part}' is not in:\n{done.err}"


def with_suite(folder: Path) -> Path:
    """The folder of content with a suite; its second benchmark cannot be run."""
    content(folder, TINY.replace("[entropy]", "[baseline]").replace("SoftMax+DisMax", "#"))
    texts = {
        **suite_files(
            "pair",
            {"tiny": ("Net", "Digits"), "lost": ("Net", "Lost")},
            {"letters": "Letters"},
            "SoftMax+MSP",
            {("tiny", "letters"): 12.3, ("lost", "letters"): 45.6},
        ),
        "benchmarks/lost.yaml": "extends: tiny\nname: lost\nood: {near: [lost]}\n",
        "data_manifests/lost.yaml": LOST,
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder
