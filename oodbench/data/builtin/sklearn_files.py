"""Where scikit-learn keeps the data files that it ships."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from oodbench.errors import UserError


def sklearn_file(name: str) -> Path:
    """Path of a file in scikit-learn's `datasets` folder, found without importing scikit-learn.

    Importing `sklearn.datasets` takes one to two seconds (it loads scipy.stats and pandas), several
    times what it takes to build all the built-in data sets; the files themselves are plain.

    Args:
        name: path below the folder `sklearn/datasets`, for instance "data/digits.csv.gz".

    Raises:
        UserError: scikit-learn is not installed, or the installed version has no such file.
    """
    found = importlib.util.find_spec("sklearn")  # a top-level name is located, not imported
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "scikit-learn, which ships the images of this data set, is not installed",
            "Install it: pip install scikit-learn.",
        )
    folder = Path(found.submodule_search_locations[0]) / "datasets"
    path = folder / name
    if not path.is_file():
        raise UserError(
            f"the installed scikit-learn has no file '{name}' in {folder}",
            "Reinstall scikit-learn; if it is newer than this oodbench, install an older one.",
        )
    return path
