"""What the checksum of a detector covers."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.detector_folders import HELPER, folder

from oodbench.plugins import imported_files
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.imported_files import source_digest, source_files

BUILT_IN = tuple(Catalog().entries["detector"])


def test_the_checksum_covers_helpers_however_deep(tmp_path: Path) -> None:
    path = folder(tmp_path, "from _second import moved")
    second, shared = (path.parent / f"_{name}.py" for name in ("second", "shared"))
    second.write_text(
        "def moved(*given):\n    from ._shared import moved\n    return moved(*given)\n"
    )
    (path.parent / "_unused.py").write_text("x = 1\n")
    assert source_files(path) == [path, second, shared]
    seen = [source_digest(path)]
    (path.parent / "_unused.py").write_text("x = 2\n")
    assert source_digest(path) == seen[0], "a file that it does not import"
    for file in (path, second, shared):
        file.write_text(file.read_text() + "# changed\n")
        seen.append(source_digest(path))
    assert len(set(seen)) == 4


def test_the_checksum_covers_modules_that_no_version_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a plug-in's own package, and of folders of the user's on the path."""
    path = folder(tmp_path / "mine", "import json, torch, yaml\nfrom my_maths.basic import moved")
    package = tmp_path / "elsewhere" / "my_maths"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "basic.py").write_text("from .deeper import moved\n")
    (package / "deeper.py").write_text(HELPER.format(shift=0))
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    names = {file.name for file in source_files(path)}
    assert names == {"mine.py", "__init__.py", "basic.py", "deeper.py"}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_detectors_are_covered_by_their_file_and_the_version(name: str) -> None:
    """And by their helpers beside it, such as `_odin.py`; the version covers the package."""
    path = Catalog().entry("detector", name).path.resolve()
    files = source_files(path)
    assert path in files
    assert {file.parent for file in files} == {path.parent}
    assert all(file == path or file.name.startswith("_") for file in files)


def test_packages_of_an_environment_beside_the_detectors_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README makes `.venv` in the folder of the project: all of torch would be read."""
    site = tmp_path / ".venv" / "lib" / "site-packages"
    (site / "heavy").mkdir(parents=True)
    (site / "heavy" / "__init__.py").write_text("from heavy import more\n")
    (site / "heavy" / "more.py").write_text("")
    (tmp_path / "detectors").mkdir()
    path = tmp_path / "detectors" / "mine.py"
    path.write_text("import heavy\nfrom _shared import moved\n")
    shared = tmp_path / "detectors" / "_shared.py"
    shared.write_text("import heavy.more\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(imported_files, "_installed", lambda: (site.resolve(),))
    assert source_files(path.resolve()) == [path.resolve(), shared.resolve()]


@pytest.mark.parametrize("installed", [False, True])
def test_packages_on_the_path_are_covered_by_their_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    """A folder of `PYTHONPATH` that pip installed into; torch may be in one."""
    site = tmp_path / "site"
    (site / "onpath").mkdir(parents=True)
    (site / "onpath" / "__init__.py").write_text("")
    if installed:
        (site / "onpath-1.0.dist-info").mkdir()
    path = tmp_path / "mine" / "detectors" / "mine.py"
    path.parent.mkdir(parents=True)
    path.write_text("import onpath\n")
    monkeypatch.syspath_prepend(str(site))
    imported_files._installed.cache_clear()
    try:
        found = source_files(path.resolve())
    finally:
        imported_files._installed.cache_clear()
    assert ((site / "onpath" / "__init__.py").resolve() in found) == (not installed)
