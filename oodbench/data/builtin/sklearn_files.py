"""Paths of the data files that scikit-learn ships."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from oodbench.errors import UserError


def sklearn_file(name: str) -> Path:
    """Path of a file in scikit-learn's `datasets` folder, without importing scikit-learn.

    `sklearn.datasets.load_digits` would take one to two seconds for its imports (scipy.stats,
    pandas), several times as long as all built-in data sets take together.

    Args:
        name: path below the folder `sklearn/datasets`, for instance "data/digits.csv.gz".

    Raises:
        UserError: the installed version has no such file.
    """
    found = importlib.util.find_spec("sklearn")  # locates the package, does not import it
    assert found is not None  # a required dependency
    assert found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0]) / "datasets"
    path = folder / name
    if not path.is_file():
        raise UserError(
            f"the installed scikit-learn has no file '{name}' in {folder}",
            "Reinstall scikit-learn; if it is newer than this oodbench, install an older one.",
        )
    return path
