"""Data sets: from a manifest (`oodbench.specs.DatasetSpec`) to checked arrays of images.

Importing this package is cheap: scikit-learn's files and Pillow are touched when a split that
needs them is built, and torch never.
"""

from __future__ import annotations

from oodbench.data.arrays import ImageArray
from oodbench.data.loading import load_split

__all__ = ["ImageArray", "load_split"]
