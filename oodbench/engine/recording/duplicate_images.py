"""Test images of a run that are, byte for byte, other images of it."""

from __future__ import annotations

import numpy as np

from oodbench.data.loaded_splits import LoadedSplits
from oodbench.engine.mistakes import shared_signs
from oodbench.planning.plan import Plan
from oodbench.progress import Reporter
from oodbench.specs import SplitName
from oodbench.training.auxiliary_images import refuse_test_images


def duplicates(
    plan: Plan, data: LoadedSplits, warnings: dict[str, list[str]], say: Reporter
) -> dict[str, int]:
    """Test images of other sets that are, byte for byte, ID images that are trained or tuned on.

    Large splits take part as soon as they have been read. Auxiliary images must not be test images.

    Args:
        plan: of the run.
        data: its images.
        warnings: of the run; signs of a mistake in the data are entered under "data".
        say: takes those that are not there yet.

    Returns:
        csID or OOD set -> number of such images.

    Raises:
        UserError: if auxiliary images are test images.
    """
    benchmark = plan.benchmark
    refuse_test_images(benchmark, data)
    splits = [(benchmark.id, split) for split in plan.datasets[benchmark.id].splits]
    tests: list[tuple[str, SplitName]] = [(name, "test") for name in benchmark.names[1:]]
    known = {key: data.digests(*key) for key in splits + tests}
    found = {key: digests for key, digests in known.items() if digests is not None}
    seen = [found[key] for key in splits if key in found and key[1] != "test"]
    counts = {
        name: sum(int(np.isin(found[name, split], part).sum()) for part in seen)
        for name, split in tests
        if (name, split) in found
    }
    images = {f"the {split} images of '{name}'": each for (name, split), each in found.items()}
    signs = list(shared_signs(images))
    for sign in signs:
        if sign not in warnings.get("data", ()):
            say.warn(sign)
    if signs:
        warnings["data"] = signs
    return counts
