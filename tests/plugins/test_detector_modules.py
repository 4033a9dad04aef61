"""Detectors' modules: stable names, helpers beside them."""

from __future__ import annotations

import copy
import importlib
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.detector_folders import folder, scored
from helpers.tiers import by_default
from helpers.tiny_benchmark import tiny_benchmark
from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.errors import UserError
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.declarations import BrokenDetectorError
from oodbench.plugins.detector_modules import module_name
from oodbench.plugins.imported_files import source_files
from oodbench.plugins.importing import load_class
from oodbench.testing.subject import Subject

BUILT_IN = tuple(Catalog().entries["detector"])

# --- names ----------------------------------------------------------------------------------------


def test_built_in_modules_have_the_same_name_everywhere() -> None:
    cls = load_class(Catalog().entry("detector", "knn").path)
    assert cls.__module__ == "oodbench.plugins.detector_modules.builtin.knn"
    assert (
        importlib.import_module("oodbench.plugins.detector_modules.builtin.knn").NearestNeighbors
        is cls
    )
    assert type(Catalog().load_detector("knn")) is cls


@pytest.mark.parametrize("place", ["mine", "with.dots/and 100%", "detectors"])
def test_the_name_of_a_module_finds_its_file(tmp_path: Path, place: str) -> None:
    path = folder(tmp_path / place, "from _shared import moved")
    cls = load_class(path)
    assert cls.__module__ == module_name(path)
    assert importlib.import_module(cls.__module__).__file__ == str(path)
    assert (
        "oodbench.plugins.detector_modules"
        in subprocess.run(
            [
                sys.executable,
                "-c",
                f"import importlib as i; print(i.import_module({cls.__module__!r}))",
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
    )


# --- pickling -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def all_fitted() -> dict[str, Any]:
    """Every built-in detector, fitted, with its scores of planted images."""
    found = {}
    for name in BUILT_IN:
        cls = load_class(Catalog().entry("detector", name).path)
        subject = Subject(cls)
        found[name] = subject.fitted, subject.scores(subject.fitted, subject.outputs("id"))
    return found


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("how", ["pickle", "deepcopy", "copy"])
def test_a_fitted_detector_survives_a_copy(name: str, how: str, all_fitted: Any) -> None:
    detector, expected = all_fitted[name]
    again = {
        "pickle": lambda: pickle.loads(pickle.dumps(detector)),
        "deepcopy": lambda: copy.deepcopy(detector),
        "copy": lambda: copy.copy(detector),
    }[how]()
    assert type(again) is type(detector)
    subject = Subject(type(again))
    assert torch.equal(subject.scores(again, subject.outputs("id")), expected)


_UNPICKLE = """
import pickle, sys, torch
found = pickle.load(open(sys.argv[1], "rb"))
scores = {}
for name, (detector, outputs) in found.items():
    with torch.no_grad():
        scores[name] = detector.score(outputs)
pickle.dump(scores, open(sys.argv[2], "wb"))
"""


def test_all_survive_in_a_fresh_process(tmp_path: Path, all_fitted: Any) -> None:
    """With a plug-in that has a helper and a class of its own, which no catalog names there."""
    mine = load_class(folder(tmp_path / "mine", "from _shared import moved", 2.0))
    found = {}
    for name, (detector, _) in all_fitted.items():
        subject = Subject(type(detector))
        found[name] = detector, subject.complete(detector, subject.outputs("id"))
    outputs = Subject(mine).outputs("id")
    found["mine"] = mine(), outputs
    (tmp_path / "in").write_bytes(pickle.dumps(found))
    subprocess.run(
        [sys.executable, "-c", _UNPICKLE, str(tmp_path / "in"), str(tmp_path / "out")],
        check=True,
        timeout=300,
    )
    scores = pickle.loads((tmp_path / "out").read_bytes())
    assert scores.keys() == found.keys()
    for name, (_, expected) in all_fitted.items():
        np.testing.assert_allclose(scores[name], expected, rtol=1e-9, err_msg=name)
    assert torch.equal(scores["mine"], outputs.logits.amax(dim=1) + 3.5)


def _score(detector: Detector, queue: Any) -> None:
    queue.put((scored(type(detector)), type(detector).__module__))


def test_a_spawned_process_takes_a_plug_in(tmp_path: Path) -> None:
    cls = load_class(folder(tmp_path, "from ._shared import moved", 2.0))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_score, args=(cls(), queue))
    process.start()
    try:
        assert queue.get(timeout=120) == (3.5, cls.__module__)
    finally:
        process.join(timeout=60)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path, "from _shared import moved")
    stored = pickle.dumps(load_class(path)())
    for module in [name for name in sys.modules if str(tmp_path) in name]:
        del sys.modules[module]
    path.unlink()
    with pytest.raises(ModuleNotFoundError, match="mine"):
        pickle.loads(stored)


# --- helpers --------------------------------------------------------------------------------------

FORMS = {
    "absolute": "from _shared import moved",
    "relative": "from ._shared import moved",
    "module": "import _shared\nmoved = _shared.moved",
    "renamed": "import math, _shared as other\nmoved = other.moved",
    "relative module": "from . import _shared\nmoved = _shared.moved",
    "in a function": "def moved(*given):\n    from _shared import moved\n    return moved(*given)",
    "through another": "from _second import moved",
    "package": "from _lib.maths import moved",
    "package, relative": "from ._lib import maths\nmoved = maths.moved",
    "package, by name": "import _lib.maths\nmoved = _lib.maths.moved",
    "package, renamed": "import _lib.maths as m\nmoved = m.moved",
}


@pytest.mark.parametrize(
    "form", by_default(["absolute", "through another", "package, relative"], FORMS)
)
def test_helpers_beside_a_detector(tmp_path: Path, form: str) -> None:
    """Two folders whose helpers have one name do not collide, and sys.path stays as it is."""
    before, paths = list(sys.path), []
    for name, shift in (("one", 1.0), ("two", 2.0)):
        paths.append(folder(tmp_path / name, FORMS[form], shift, name))
        beside = paths[-1].parent
        (beside / "_second.py").write_text("from _shared import moved\n")
        (beside / "_lib").mkdir()
        (beside / "_lib" / "__init__.py").write_text("")
        (beside / "_lib" / "maths.py").write_text("from _shared import moved\n")
    catalog = Catalog([tmp_path / "one", tmp_path / "two"])
    assert {catalog.checked_detectors()[name].error for name in ("one", "two")} == {None}
    classes = {name: type(catalog.load_detector(name)) for name in ("one", "two")}
    assert {name: scored(cls) for name, cls in classes.items()} == {"one": 2.5, "two": 3.5}
    assert sys.path == before
    assert not {"_shared", "_second", "_lib"} & sys.modules.keys()
    shared = paths[0].parent / "_shared.py"
    assert shared in source_files(paths[0])
    assert paths[1].parent / "_shared.py" not in source_files(paths[0])


def test_a_helper_that_is_called_as_a_detector_is_said(tmp_path: Path) -> None:
    path = folder(tmp_path, "from shared import moved")
    (path.parent / "_shared.py").rename(path.parent / "shared.py")
    error = Catalog([tmp_path]).checked_detectors()["mine"].error
    assert error is not None
    assert "line 3: ModuleNotFoundError: No module named 'shared'" in error
    assert "_shared.py" in error


def test_an_error_in_a_helper_names_its_file_and_line(tmp_path: Path) -> None:
    for number, text in enumerate(("x = 1\ny = 1 / 0\n", "x = 1\ndef f(:\n")):
        path = folder(tmp_path / str(number), "from _shared import moved")
        (path.parent / "_shared.py").write_text(text)
        with pytest.raises(BrokenDetectorError) as raised:
            load_class(path)
        assert "line 3" in str(raised.value)
        assert "_shared.py, line 2" in str(raised.value)


def test_a_changed_file_is_run_again(tmp_path: Path) -> None:
    """In a notebook that goes on, after the detector or a helper of it was edited."""
    path = folder(tmp_path, "from _shared import moved")
    first = load_class(path)
    assert load_class(path) is first
    for shift in (7.0, 8.0):
        folder(tmp_path, "from _shared import moved", shift)
        assert scored(load_class(path)) == 1.5 + shift
    path.write_text(path.read_text().replace("+ self.state.shift", ""))
    assert scored(load_class(path)) == 1.0 + 8.0


@pytest.mark.parametrize("slow", ["mine.py", "_shared.py"])
def test_threads_load_a_detector_that_another_one_is_running(tmp_path: Path, slow: str) -> None:
    path = folder(tmp_path, "from _shared import moved")
    file = path.parent / slow
    file.write_text(f"import time\n\ntime.sleep(0.2)\n{file.read_text()}")
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(load_class, [path] * 4)
    assert others == [first] * 3
    assert scored(first) == 1.5


def test_threads_load_different_detectors_with_one_helper(tmp_path: Path) -> None:
    paths = [folder(tmp_path, "from _shared import moved", name=name) for name in "abc"]
    helper = tmp_path / "detectors" / "_shared.py"
    helper.write_text(f"import time\n\ntime.sleep(0.1)\n{helper.read_text()}")
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(load_class, paths * 2))
    assert [cls.info.name for cls in found] == ["a", "b", "c"] * 2
    assert [scored(cls) for cls in found] == [1.5] * 6


def test_a_detector_may_load_another_one_when_it_is_run(tmp_path: Path) -> None:
    inner = folder(tmp_path / "inner", "from _shared import moved")
    text = "from pathlib import Path\nfrom oodbench.plugins.importing import load_class\n"
    text += f"load_class(Path({str(inner)!r}))\nfrom _shared import moved"
    with ThreadPoolExecutor(1) as pool:
        assert scored(pool.submit(load_class, folder(tmp_path, text)).result(60)) == 1.5


# --- one file found twice -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["twice", "relative", "link", "variable", "linked file"])
def test_a_file_found_twice_is_one_file(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    path = folder(mine, "from _shared import moved")
    monkeypatch.chdir(tmp_path)
    folders: list[Path | str] = [mine]
    match how:
        case "twice":
            folders.append(str(mine))
        case "relative":
            folders.append("./mine/../mine")
        case "link":
            other.symlink_to(mine)
            folders.append(other)
        case "variable":
            monkeypatch.setenv("OODBENCH_PLUGINS", os.pathsep.join([str(mine), "mine"]))
        case "linked file":
            (other / "detectors").mkdir(parents=True)
            (other / "detectors" / "mine.py").symlink_to(path)
            folders.append(other)
    catalog = Catalog(folders)
    assert scored(type(catalog.load_detector("mine"))) == 1.5
    with pytest.raises(UserError, match="Two files are the detector 'mine'"):
        Catalog([*folders, folder(tmp_path / "third", "").parent.parent])


# --- plug-in packages -----------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder of an installed distribution: a package with detectors and the entry point."""
    site = tmp_path / "site"
    info, package = site / "acme_ood-1.0.dist-info", site / "acme_ood"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-ood\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[oodbench.plugins]\nacme = acme_ood\n")
    folder(package, "from _shared import moved\nfrom acme_ood.maths import one", 2.0)
    (package / "__init__.py").write_text("")
    (package / "maths.py").write_text("one = 1\n")
    return site


_FITTED_ELSEWHERE = """
import pickle, sys
from oodbench.plugins.catalog import Catalog
detector = Catalog().load_detector("mine", {"scale": 3.0})
open(sys.argv[1], "wb").write(pickle.dumps(detector))
print(type(detector).__module__)
"""
_SCORED_ELSEWHERE = """
import pickle, sys, torch
from oodbench import Outputs
detector = pickle.load(open(sys.argv[1], "rb"))
print(float(detector.score(Outputs(torch.zeros(1, 3).double(), torch.zeros(1, 2)))[0]))
"""


def test_an_installed_package_is_listed_run_and_pickled(tmp_path: Path, installed: Path) -> None:
    """Also from another place on the disk: the package names its modules, not the folder."""

    def python(site: Path, *arguments: str) -> str:
        path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    rows = json.loads(python(installed, "-m", "oodbench", "list", "detectors", "--json"))
    (row,) = [row for row in rows if row["name"] == "mine"]
    assert (row["status"], row["source"]) == ("ok", "distribution acme-ood")
    stored = str(tmp_path / "stored")
    module = python(installed, "-c", _FITTED_ELSEWHERE, stored).strip()
    assert module == "oodbench.plugins.detector_modules.package:acme_ood.mine"
    elsewhere = installed.rename(tmp_path / "elsewhere")
    assert float(python(elsewhere, "-c", _SCORED_ELSEWHERE, stored)) == 3 + 0.5 + 2


def test_a_package_counts_in_the_checksum_of_its_detectors(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    path = Catalog().entry("detector", "mine").path
    names = {file.name for file in source_files(path.resolve())}
    assert names == {"mine.py", "_shared.py", "maths.py", "__init__.py"}


def test_an_editable_package_that_is_also_given_is_no_conflict(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    assert Catalog([installed / "acme_ood"]).detectors["mine"].error is None


def test_a_package_without_content_is_said(
    tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    (installed / "acme_ood" / "detectors").rename(tmp_path / "gone")
    monkeypatch.syspath_prepend(str(installed))
    assert "mine" not in Catalog().detectors
    assert "acme_ood of acme-ood has no folder detectors/" in caplog.text


# --- classes in no file ---------------------------------------------------------------------------


@register("of_a_notebook", label="OfANotebook")
class OfANotebook(Detector):
    """The largest logit."""

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.logits.amax(dim=1)


def test_a_class_is_a_plug_in(tmp_path: Path) -> None:
    catalog = Catalog([OfANotebook])
    assert type(catalog.load_detector("of_a_notebook")) is OfANotebook
    statuses = catalog.checked_detectors()["of_a_notebook"], catalog.imported_detectors()
    assert statuses[0].info is OfANotebook.info is statuses[1]["of_a_notebook"].info
    assert catalog.entry("detector", "of_a_notebook").source == "class"
    assert Catalog([OfANotebook, OfANotebook]).classes == (OfANotebook,) * 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (OfANotebook(), "expected folders and detector classes"),
        (dict, "expected folders and detector classes"),
        (type("Plain", (Detector,), {}), "Plain is not registered"),
        (type("Child", (OfANotebook,), {}), "Child is not registered"),
        (3, "not 3"),
    ],
)
def test_what_is_no_plug_in_is_said(given: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Catalog([given])


@pytest.mark.parametrize(
    ("needs", "method", "said"),
    [
        ("fit", "fit", "expected a tuple of names, not 'fit'"),
        ((), "calibrate", "does not declare the need 'calibration'"),
        (("fit",), "score", "declares the need 'fit' and has no method 'fit'"),
        (("input_gradients",), "score", "has no method 'gradient_losses'"),
    ],
)
def test_a_class_is_checked_as_a_file_is(needs: Any, method: str, said: str) -> None:
    written = {name: lambda self, *given: None for name in {"score", method}}
    with pytest.raises(UserError, match=said):
        register("wrong", needs=needs)(type("Wrong", (Detector,), written))


def test_a_class_with_the_name_of_a_file(tmp_path: Path) -> None:
    folder(tmp_path, "moved = max", name="of_a_notebook")
    with pytest.raises(UserError, match="A file and a class are the detector 'of_a_notebook'"):
        Catalog([tmp_path, OfANotebook])


_NOTEBOOK = """
import sys, torch, oodbench
from torch.utils.data import TensorDataset

@oodbench.register("mine", label="Mine")
class Mine(oodbench.Detector):
    \"\"\"The largest logit.\"\"\"

    def score(self, outputs):
        if len(sys.argv) > 2:
            raise RuntimeError("no luck")
        return outputs.logits.amax(dim=1)

data = TensorDataset(torch.rand(20, 12), torch.arange(20) % 3)
images = TensorDataset(torch.rand(20, 3, 4, 4), torch.arange(20) % 3)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
result = oodbench.evaluate(model, [Mine(), "energy"], id_data=images, ood_data={"o": images})
print(sorted(result.scores), result.failed)
for resume in (False, True):
    run = oodbench.run(
        sys.argv[1] + "/tiny.yaml", methods=["SoftMax+mine"], seeds=1, device="cpu", plugins=[Mine],
        out=sys.argv[1] + "/run", resume=resume,
    )
    methods = sorted({record.method for record in run.records})
    print(run.complete, [run.records[0].reason], methods)
"""

_TINY = tiny_benchmark({"SoftMax+MSP": "baseline"})


@pytest.mark.parametrize("how", by_default(["runs"], ["runs", "fails"]))
def test_a_detector_of_a_session_without_a_file(tmp_path: Path, how: str) -> None:
    """As in a notebook or at the prompt: `python -` reads the program from its input."""
    (tmp_path / "tiny.yaml").write_text(_TINY)
    done = subprocess.run(
        [sys.executable, "-", str(tmp_path), *(["fail"] if how == "fails" else [])],
        input=_NOTEBOOK,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    if how == "runs":
        assert lines[0] == "['energy', 'mine'] {}"
        assert lines[1:] == ["True [None] ['SoftMax+Mine']"] * 2
    else:
        reason = "RuntimeError: no luck (<stdin>, line 11)"
        assert lines[0] == f"['energy'] {{'mine': '{reason}'}}"
        assert lines[1:] == [f"False ['{reason}'] ['SoftMax+Mine']"] * 2
    description = json.loads((tmp_path / "run" / "run.json").read_text())
    assert description["plugins"] == ["class __main__.Mine"]
    assert "in no file" in description["checksums"]["detectors"]["mine"]
