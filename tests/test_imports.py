"""The import graph of the package has no cycle; modules are small and have names of their own.

Imports inside functions and under TYPE_CHECKING count like all others. The order of the layers is
checked by import-linter (`make lint`).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "oodbench"
LINES = 400
MODULES = 15


def modules() -> dict[str, Path]:
    """Module -> its file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of the package that a file names in an import statement, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for each in node.names:
                whole = f"{node.module}.{each.name}"
                yield from [name for name in (whole, node.module or "") if name in known][:1]


def test_no_import_cycle() -> None:
    known = modules()
    graph = {name: sorted(set(imported(path, known))) for name, path in known.items()}
    assert sum(map(len, graph.values())) > len(graph), "imports were not found"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError("cycle: " + " <- ".join(error.args[1])) from None


def test_no_module_is_long() -> None:
    lengths = {
        name.removeprefix("oodbench."): len(path.read_text(encoding="utf-8").splitlines())
        for name, path in modules().items()
    }
    long = {name: length for name, length in lengths.items() if length > LINES}
    assert not long, f"over {LINES} lines: {long}"


def test_no_folder_has_many_modules() -> None:
    counts = Counter(path.parent for path in modules().values() if path.name != "__init__.py")
    crowded = {str(folder): count for folder, count in counts.items() if count > MODULES}
    assert not crowded, f"over {MODULES} modules: {crowded}"


def test_no_two_modules_have_one_name() -> None:
    """A reader finds a module by its name: names differ by more than a folder or a plural."""
    stems = Counter(
        path.stem.removesuffix("s") for path in modules().values() if path.name != "__init__.py"
    )
    shared = sorted(stem for stem, count in stems.items() if count > 1)
    assert not shared, f"names of several modules: {shared}"
