"""Data sets: from a manifest (`oodbench.specs.DatasetSpec`) to checked arrays of images.

Importing this package is cheap: scikit-learn's files and torchvision are touched when a split that
needs them is read, and torch only by torchvision.
"""

from __future__ import annotations

from oodbench.data.arrays import ImageArray
from oodbench.data.loading import checked_split, load_split

__all__ = ["ImageArray", "checked_split", "load_split"]
