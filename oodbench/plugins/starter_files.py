"""The files that a new detector, benchmark or plug-in package begins with, as text.

The templates are in `templates/`. Nothing is written here: `oodbench.cli.content.scaffolding` does
that.
"""

from __future__ import annotations

import functools
import keyword
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oodbench.errors import UserError, shown
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.content_folders import BUILT_IN, Kind
from oodbench.specs.names import obstacle

Files = Mapping[Path, str]
"""Relative path -> contents."""

_TAKEN_CLASSES = {
    "Batches",
    "Detector",
    "F",
    "False",
    "Mapping",
    "None",
    "Outputs",
    "Tensor",
    "True",
}
"""Names that the file of a detector has a use for, or Python itself."""

_YAML_VALUES = {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}
"""Words that YAML does not read as text."""

_LONGEST = 60
"""Longest name: it becomes part of the names of files, methods and folders."""


def detector_files(
    name: str, catalog: Catalog, *, fitted: bool = False, gradient: bool = False
) -> Files:
    """The file of a detector that conforms as it is.

    Args:
        name: of the detector and of its file.
        catalog: content whose names are taken.
        fitted: whether it is fitted on training images.
        gradient: whether it uses the gradient of a loss with respect to the images.

    Raises:
        UserError: if the name is not valid, or taken.
    """
    _check_name(name, "detector", r"[A-Za-z][A-Za-z0-9_]*", "letters, digits and _", "_")
    label = label_of(name)
    for taken, status in catalog.detectors.items():
        info = status.info
        for other in (taken, *info.aliases, info.label) if info else (taken,):
            if other.casefold() in (name.casefold(), label.casefold()):
                raise _taken(name, "detector", taken, other, catalog)
    text = _filled(
        "detector.py",
        name=name,
        label=label,
        class_name=f"My{label}" if label in _TAKEN_CLASSES else label,
        fitted=fitted,
        gradient=gradient,
    )
    return {Path("detectors") / f"{name}.py": text}


def benchmark_files(name: str, catalog: Catalog, *, folders: bool = False) -> Files:
    """The file of a benchmark that runs as it is.

    Args:
        name: of the benchmark and of its file.
        catalog: content whose names are taken.
        folders: whether its images are in folders of the user's; then with two manifests.

    Raises:
        UserError: if the name is not valid, or taken.
    """
    _check_name(name, "benchmark", r"[A-Za-z][A-Za-z0-9._-]*", "letters, digits and - _ .", "-")
    title = name.replace("-", " ").replace("_", " ").capitalize()
    files = {Path("benchmarks") / f"{name}.yaml": "benchmark.yaml"}
    if folders:
        files = {
            Path("benchmarks") / f"{name}.yaml": "folders/benchmark.yaml",
            Path("data_manifests") / f"{name}-id.yaml": "folders/id.yaml",
            Path("data_manifests") / f"{name}-ood.yaml": "folders/ood.yaml",
        }
    for path in files:
        kind: Kind = "benchmark" if path.parts[0] == "benchmarks" else "dataset"
        for taken in catalog.entries[kind]:
            if taken.casefold() == path.stem.casefold():
                raise _taken(path.stem, kind, taken, taken, catalog)
    return {path: _filled(each, name=name, title=title) for path, each in files.items()}


def plugin_files(name: str, catalog: Catalog) -> Files:
    """A package that pip installs, with a detector, a benchmark, tests and a CI workflow.

    Args:
        name: of the distribution; the package and the detector are called so with _ for - and .
        catalog: content whose names are taken.

    Raises:
        UserError: if the name is not valid, or taken.
    """
    parts = "letters and digits with single - _ . between them"
    _check_name(name, "package", r"[A-Za-z][A-Za-z0-9]*([._-][A-Za-z0-9]+)*", parts, "-")
    package = re.sub(r"[.-]", "_", name).lower()
    if package in sys.stdlib_module_names or package in _OTHERS:
        raise UserError(
            f"'{name}' cannot name a package: there is a module '{package}' that others import.",
            f"Choose another name, such as '{name}-detectors'.",
        )
    filled = functools.partial(_filled, name=name, package=package, label=label_of(package))
    content = Path("src") / package
    return {
        Path("pyproject.toml"): filled("plugin/pyproject.toml"),
        Path("README.md"): filled("plugin/README.md"),
        Path(".gitignore"): filled("plugin/gitignore"),
        Path(".github/workflows/tests.yml"): filled("plugin/tests.yml"),
        content / "__init__.py": filled("plugin/init.py"),
        **{content / path: text for path, text in detector_files(package, catalog).items()},
        **{content / path: text for path, text in benchmark_files(name, catalog).items()},
        content / "data_manifests" / "README.md": filled("plugin/data_manifests.md"),
        Path("tests") / f"test_{package}.py": filled("plugin/test_package.py"),
    }


_OTHERS = {"numpy", "oodbench", "pytest", "scipy", "sklearn", "torch", "torchvision"}
"""Packages that a plug-in's files import."""


def label_of(name: str) -> str:
    """The label of a new detector: its name in capitals and small letters, as in MyEnergy."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _filled(template: str, **values: Any) -> str:
    """A template with values for its variables."""
    return str(_templates().get_template(f"{template}.jinja").render(values))


@functools.cache
def _templates() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Python, YAML and TOML, with names that were checked
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _check_name(name: str, kind: str, pattern: str, parts: str, joint: str) -> None:
    """Refuse a name that does not serve everywhere: in Python, in YAML, as a file.

    Args:
        name: the name.
        kind: what is called so.
        pattern: regular expression that the name has to match.
        parts: the same in words.
        joint: character that joins words in the suggestion.

    Raises:
        UserError: with a valid name in the hint.
    """
    problem: str | None
    suggestion = re.sub(r"[^A-Za-z0-9]+", joint, name).strip(joint).lower()
    if not re.fullmatch(pattern, name):
        problem = f"it has to consist of {parts}, and to begin with a letter"
    elif len(name) > _LONGEST:
        problem = f"it has {len(name)} characters, more than {_LONGEST}"
    elif keyword.iskeyword(name) or name.casefold() in _YAML_VALUES:
        problem = "the word has a meaning in Python or YAML"
        suggestion = f"my{joint}{suggestion}"
    else:
        problem = obstacle(name)
        suggestion = f"my{joint}{suggestion}"
    if problem is not None:
        good = suggestion[:1].isalpha() and len(suggestion) <= _LONGEST
        raise UserError(
            f"{shown(name, 40)} cannot name a {kind}: {problem}.",
            f"Did you mean '{suggestion if good else f'my{joint}{kind}'}'?",
        )


def _taken(name: str, kind: Kind, owner: str, other: str, catalog: Catalog) -> UserError:
    also = "" if other == owner else f", which is also called '{other}'"
    entry = catalog.entry(kind, owner)
    choose = "Choose" if entry.source == BUILT_IN else "Edit that file, or choose"
    return UserError(
        f"The name '{name}' is taken by {kind} '{owner}'{also} ({entry.path}).",
        f"{choose} another name; a name stands for one thing.",
    )
