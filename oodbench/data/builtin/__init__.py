"""Builders of data sets of kind `builtin`, which need no download.

A builder is called as `builder(split, **options)` with the manifest's options, which
`oodbench.data.reader_options` checks against the types of its keyword arguments. Its result depends
only on its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from oodbench.data.builtin.digits import sklearn_digits
from oodbench.data.builtin.letters import rendered_letters
from oodbench.data.builtin.noise import gaussian_noise, uniform_noise
from oodbench.data.builtin.patches import photo_patches
from oodbench.data.image_array import ImageArray

BUILDERS: Mapping[str, Callable[..., ImageArray]] = MappingProxyType(
    {
        "sklearn_digits": sklearn_digits,
        "rendered_letters": rendered_letters,
        "photo_patches": photo_patches,
        "uniform_noise": uniform_noise,
        "gaussian_noise": gaussian_noise,
    }
)
