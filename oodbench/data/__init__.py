"""Data sets: from a manifest (`oodbench.specs.DatasetSpec`) to checked arrays of images.

Importing this package is fast: scikit-learn's files, torchvision and torch are loaded when a split
needs them.
"""

from __future__ import annotations

from oodbench.data.image_array import ImageArray
from oodbench.data.splits import checked_split, load_split

__all__ = ["ImageArray", "checked_split", "load_split"]
