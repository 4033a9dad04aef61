"""A few images of a user's data, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.errors import UserError
from oodbench.user_data.dataloader import LoadedImages


def chosen_images(data: Any, name: str, indices: Sequence[int]) -> NDArray[Any] | None:
    """The images at some places of a DataLoader or a Dataset, in data-set order.

    Args:
        data: as in `LoadedImages`; it is read up to the last of these images.
        name: what the data are called in messages.
        indices: of the images.

    Returns:
        Shape [N, C, H, W]; None if the data are no images, such as tokens.

    Raises:
        UserError: the data cannot be read, or have fewer images.
    """
    wanted, found = set(indices), dict[int, NDArray[Any]]()
    source, begin = LoadedImages(data, f"images[{name!r}]", labeled=False), 0
    try:
        for images, _ in source.batches():
            if images.ndim != 4:
                return None
            for index in wanted & set(range(begin, begin + len(images))):
                found[index] = images[index - begin].detach().cpu().float().numpy()
            begin += len(images)
            if len(found) == len(wanted):
                return np.stack([found[index] for index in indices])
    finally:
        source.close()
    raise UserError(
        f"images[{name!r}] has {begin:,} images; image {max(wanted)} was evaluated.",
        "Give the data that were given to oodbench.evaluate.",
    )
