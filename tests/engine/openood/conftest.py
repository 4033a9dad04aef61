"""A network of the benchmarks of OpenOOD that trains in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from oodbench import models


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    """The network of the CIFAR benchmarks, with fewer channels."""
    networks = dict(models.NETWORKS)
    wide = networks["resnet18_32x32"]
    networks["resnet18_32x32"] = replace(wide, options={**wide.options, "widths": (8, 16, 16, 32)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("oodbench.models.NETWORKS", networks)
        yield
