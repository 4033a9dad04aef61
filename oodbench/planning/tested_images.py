"""Test images of a stored run, where its data sets are on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.data.loaded_splits import LoadedSplits
from oodbench.data.missing_files import NeededFiles
from oodbench.errors import UserError
from oodbench.plugins.catalog import Catalog
from oodbench.specs import BenchmarkSpec, DatasetSpec
from oodbench.storage.run_description import RunDescription


def images_at_hand(
    described: RunDescription,
) -> Callable[[str, Sequence[int]], NDArray[Any] | None] | None:
    """A function that gives images of a run's test sets; nothing is downloaded.

    It takes "id", which has the images of all sets that count as ID one after the other, or an OOD
    set, and indices. It returns images [N, C, H, W], or None if they are not on this machine.

    Args:
        described: of the run.

    Returns:
        The function; None for a run of no benchmark that is known here.
    """
    folders = [Path(each) for each in described.plugins if not each.startswith("class ")]
    try:
        benchmark = BenchmarkSpec.model_validate(described.benchmark)
        catalog = Catalog(folders)
        datasets = {
            name: benchmark.decoded(catalog.dataset(benchmark.manifest(name)))
            for name in benchmark.names
        }
    except (UserError, ValueError):
        return None
    loaded = LoadedSplits(datasets, described.data_root, most=benchmark.most_images)

    def images(name: str, indices: Sequence[int]) -> NDArray[Any] | None:
        known = (benchmark.id, *benchmark.csid) if name == "id" else (name,)
        try:
            if any(_is_missing(datasets[each], loaded) for each in known):
                return None
            return _chosen(loaded, benchmark, datasets, known, indices)
        except (UserError, IndexError):  # changed or removed since the run
            return None

    return images


def _is_missing(spec: DatasetSpec, loaded: LoadedSplits) -> bool:
    return bool(NeededFiles((spec,)).missing(loaded.root))


def _chosen(
    loaded: LoadedSplits,
    benchmark: BenchmarkSpec,
    datasets: dict[str, DatasetSpec],
    names: Sequence[str],
    indices: Sequence[int],
) -> NDArray[Any]:
    """Images of data sets that lie one after the other."""
    ends = [*accumulate(benchmark.images_of(datasets[name], "test") for name in names)]
    found = []
    for index in indices:
        place = int(np.searchsorted(ends, index, side="right"))
        before = ends[place - 1] if place else 0
        found.append(loaded.image(names[place], "test", index - before))
    return np.stack(found)
