"""`scripts/speed/large_features.py` at a small size: what a detector keeps does not grow."""

from __future__ import annotations

import sys

import pytest
from speed.large_features import BATCH, Source, detector_names, fit_all, measure

import oodbench
from oodbench.engine.meters import tensor_bytes

BANK = 100
"""Images that banks hold here; quantiles hold as many numbers."""

SAMPLES = (
    ("react", "SAMPLE", BANK * 64),
    ("vra", "FEATURE_SAMPLE", BANK),
    ("optfs", "FEATURE_SAMPLE", BANK),
    ("weiper", "FEATURE_SAMPLE", BANK),
)
"""Detector, constant of its module, what it is here."""

SLACK = 64
"""Bytes by which counters may differ."""


@pytest.fixture(scope="module")
def kept() -> dict[str, tuple[int, int]]:
    """Name -> bytes kept after a fit on 500 images, and on 2,000."""
    source = Source(features=64, classes=20)
    found: dict[str, list[int]] = {name: [] for name in detector_names()}
    with pytest.MonkeyPatch.context() as patch:
        for name, constant, sample in SAMPLES:
            module = sys.modules[type(oodbench.load_detector(name)).__module__]
            patch.setattr(module, constant, sample)
        for images in (500, 2000):
            detectors = {}
            for name in found:
                takes = oodbench.load_detector(name).parameter_names()
                bank = {"bank_size": BANK} if "bank_size" in takes else {}
                detectors[name] = oodbench.load_detector(name, **bank)
            fit_all(source, detectors, images)
            for name, detector in detectors.items():
                found[name].append(tensor_bytes(detector))
    return {name: (few, many) for name, (few, many) in found.items()}


@pytest.mark.parametrize("name", detector_names())
def test_what_is_kept_does_not_grow_with_the_images(
    name: str, kept: dict[str, tuple[int, int]]
) -> None:
    few, many = kept[name]
    assert many <= few + SLACK, f"{few:,} bytes of 500 images, {many:,} of 2,000"


@pytest.mark.parametrize("name", detector_names())
def test_what_is_kept_is_statistics_and_the_declared_bank(
    name: str, kept: dict[str, tuple[int, int]]
) -> None:
    features, classes, powers = 64, 20, 10
    statistics = 8 * (3 * features**2 + 3 * classes * features + 3 * classes**2)
    own = {
        "gmm": 8 * classes * features**2,  # covariances of the classes
        "gram": 2 * 4 * classes * powers * features,  # ranges
        "weiper": 100 * classes * (2 * features + 8),  # directions and lengths of steps
        "corp": 8 * 4 * features * 5 * features,  # axes and draws of 4 D random features
    }
    bank = 2 * 4 * BANK * (features + 1)  # of features, or of numbers
    assert kept[name][1] <= statistics + own.get(name, 0) + bank


def test_the_script_measures_every_detector(capsys: pytest.CaptureFixture[str]) -> None:
    names = detector_names()
    assert len(names) >= 26
    measured = measure(Source(features=64, classes=20), names, images=500, scored=BATCH + 1)
    assert measured.keys() == set(names)
    assert measured["knn"].kept >= 500 * 65 * 4
    assert "largest resident size" in capsys.readouterr().out
