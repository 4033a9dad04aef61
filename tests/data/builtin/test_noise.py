"""Noise: its distribution, and independent pixels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from helpers.built_in_sets import (
    load,
)

from oodbench.data.builtin import BUILDERS
from oodbench.data.builtin.random_images import split_generator


def test_uniform_noise_follows_its_closed_form() -> None:
    images = load("uniform-noise", "test").images
    n = images.size
    assert images.mean() == pytest.approx(1 / 2, abs=4 * math.sqrt(1 / 12 / n))
    # The fourth central moment of the uniform distribution is 1/80.
    assert images.var() == pytest.approx(1 / 12, abs=4 * math.sqrt((1 / 80 - 1 / 144) / n))


def test_gaussian_noise_follows_its_closed_form() -> None:
    images = load("gaussian-noise", "test").images
    n = images.size
    tail = 0.5 * math.erfc(0.5 / math.sqrt(2))  # P(x <= 0) = P(x >= 1) = Phi(-1/2)
    tolerance = 4 * math.sqrt(tail * (1 - tail) / n)
    assert (images == 0).mean() == pytest.approx(tail, abs=tolerance)
    assert (images == 1).mean() == pytest.approx(tail, abs=tolerance)
    # With z = x - 1/2: E[z^2 ; |z| < 1/2] = (1 - 2 Phi(-1/2)) - phi(1/2), and 1/4 in each tail.
    density = math.exp(-1 / 8) / math.sqrt(2 * math.pi)
    variance = (1 - 2 * tail) - density + 2 * tail / 4
    assert images.mean() == pytest.approx(0.5, abs=4 * math.sqrt(variance / n))
    assert images.var() == pytest.approx(variance, abs=4 * 0.11 / math.sqrt(n))


@pytest.mark.parametrize("builder", ["uniform_noise", "gaussian_noise"])
def test_noise_has_the_shape_asked_for_and_independent_pixels(builder: str) -> None:
    data = BUILDERS[builder]("test", shape=(3, 4, 5), counts={"test": 4000}, seed=3)
    assert data.images.shape == (4000, 3, 4, 5)
    correlation = np.corrcoef(data.images.reshape(4000, -1).T) - np.eye(60)
    assert np.abs(correlation).max() < 5 / math.sqrt(4000)


def test_every_stream_is_its_own() -> None:
    keys = itertools.product((0, 1), ("uniform_noise", "gaussian_noise"), ("validation", "test"))
    first = [split_generator(*key).integers(2**62) for key in keys]
    assert len(set(first)) == 8
    again = split_generator(0, "uniform_noise", "validation").integers(2**62)
    assert again == first[0]
