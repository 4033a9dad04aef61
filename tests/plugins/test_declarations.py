"""Declarations read without running a file; imports tried in another process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from oodbench.plugins import import_trials
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.declarations import BrokenDetectorError, read_detector
from oodbench.plugins.detector_modules import is_content
from oodbench.plugins.import_trials import import_errors
from oodbench.plugins.importing import load_class

HEAD = "from torch import Tensor\nfrom oodbench import Detector, Outputs, register\n"
"""Two lines: what a test writes below begins in line 3."""

CLASS = """
@register("mine"{arguments})
class Mine(Detector):
    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.logits.amax(dim=1)
"""


LIGHT = """
from oodbench import Detector, register

@register("mine")
class Mine(Detector):
    def score(self, outputs):
        return outputs.logits.amax(dim=1)
"""
"""Imports no torch: quick to run in another process."""


def light(folder: Path, before: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "mine.py"
    path.write_text(before + LIGHT)
    return path


def file(folder: Path, before: str = "", arguments: str = "", body: str | None = None) -> Path:
    """A detector's file with lines before its class, or with another class."""
    path = folder / "mine.py"
    path.write_text(HEAD + before + (body or CLASS.format(arguments=arguments)))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache: nothing is remembered from another test."""
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OODBENCH_PLUGINS", raising=False)
    return tmp_path / "cache"


# --- files that import, and files that do not -----------------------------------------------------

FINE = {
    "nothing": "",
    "docstring": '"""Text."""\n',
    "standard library": "from collections.abc import Mapping\nimport math\n",
    "submodule": "import torch.nn.functional as F\nfrom torch.nn import functional\n",
    "our modules": "from oodbench.numerics.functional import max_probability\n",
    "numbers": "EPS = -1e-3\nSET = {1, 2}\n",
    "sizes": "SAMPLE = 2**20\nBLOCK = 4 * 1024\nREST = 3 - 5\n",
    "tables": "NAMES = ('a', 'b')\nTABLE: dict[str, int] = {'a': 1}\n",
    "a function": "def f(x: Tensor | None = None, *, y: float = -1.0) -> Tensor | None:\n    z\n",
    "a class": "class A:\n    x: int = 0\n    @staticmethod\n    def f() -> int:\n        x\n",
    "type checking": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nosuch\n",
    "a call": "NAMES = tuple('ab')\n",
    "arithmetic": "HALF = 1 / 2\nTEN = 2.5 * 4\nSIX = 1 + 2 + 3\n",
    "a large power": "LARGE = 2**65\n",
    "a branch": "if True:\n    x = 1\n",
    "a try": "try:\n    import nosuch\nexcept ImportError:\n    nosuch = None\n",
    "a decorator": "from functools import cache\n@cache\ndef f() -> int:\n    return 1\n",
    "a dataclass": "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 0\n",
    "an attribute": "import torch\nx = torch.float32\n",
    "a union of text": "def f(x: 'Tensor' = None) -> 'int':\n    pass\nfor _ in (): pass\n",
}

BROKEN = {
    "raise": ("raise RuntimeError('no luck')\n", "line 3: RuntimeError: no luck"),
    "division": ("x = 1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
    "undefined name": ("x = nothing\n", "line 3: NameError: name 'nothing' is not defined"),
    "undefined base": ("class A(Nothing):\n    pass\n", "NameError: name 'Nothing'"),
    "undefined in a class": ("class A:\n    x = nothing\n", "NameError: name 'nothing'"),
    "undefined default": ("def f(x=nothing):\n    pass\n", "NameError: name 'nothing'"),
    "undefined annotation": ("def f(x: Nothing):\n    pass\n", "NameError: name 'Nothing'"),
    "inside a class only": ("class A:\n    y = 1\nx = y\n", "NameError: name 'y'"),
    "no such name": (
        "from torch import NoSuchThing\n",
        "line 3: ImportError: cannot import name 'NoSuchThing'",
    ),
    "no such name of ours": (
        "from oodbench.numerics.functional import nosuch\n",
        "cannot import name",
    ),
    "no such name, standard": ("from math import nosuch\n", "cannot import name 'nosuch'"),
    "no such submodule": ("import torch.nosuch\n", "No module named 'torch.nosuch'"),
    "no such package": (
        "import nosuchpackage.sub\n",
        "line 3: ModuleNotFoundError: No module named 'nosuchpackage'",
    ),
    "from no such package": (
        "from nosuchpackage import x\n",
        "line 3: ModuleNotFoundError: No module named 'nosuchpackage'",
    ),
    "exit": ("import sys\nsys.exit()\n", "line 4: SystemExit"),
    "relative": ("from . import other\n", "line 3: "),
    "not a base": ("A = 3\nclass B(A):\n    pass\n", "TypeError"),
    "a number as base": ("class B(3):\n    pass\n", "TypeError"),
    "text or None": ("def f(x: 'Tensor' | None):\n    pass\n", "line 3: TypeError"),
    "unhashable": ("x = {(1, [2]): 3}\n", "line 3: TypeError: unhashable type"),
    "mutable field": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: list = []\n",
        "ValueError: mutable default",
    ),
    "type checking": ("if TYPE_CHECKING:\n    pass\n", "NameError: name 'TYPE_CHECKING'"),
    "text and a number": ("x = 'a' + 1\n", "line 3: TypeError: can only concatenate str"),
    "minus text": ("x = -'a'\n", "line 3: TypeError: bad operand type"),
}

BROKEN_CLASSES = {
    "no detector": (
        "@register('mine')\nclass Mine:\n    pass\n",
        "Detector 'mine': class Mine does not derive from oodbench.Detector",
    ),
    "search space": (
        CLASS.format(arguments=", search_space={'scael': (1.0,)}"),
        "declares a search space for 'scael', which its constructor does not take",
    ),
    "no score": (
        CLASS.format(arguments="").replace("def score", "def scores"),
        "line 4: Detector 'mine' has no method 'score'",
    ),
    "no fit": (
        CLASS.format(arguments=", needs=('fit',)"),
        "Detector 'mine' declares the need 'fit' and has no method 'fit'",
    ),
    "no losses": (
        CLASS.format(arguments=", needs=('input_gradient',)"),
        "declares the need 'input_gradient' and has no method 'perturbation_losses'",
    ),
    "undeclared": (
        CLASS.format(arguments="") + "    def fit(self, batches):\n        pass\n",
        "has a method 'fit' and does not declare the need 'fit'",
    ),
    "no gradient losses": (
        CLASS.format(arguments=", needs=('input_gradients',)"),
        "declares the need 'input_gradients' and has no method 'gradient_losses'",
    ),
    "register not imported": (
        CLASS.format(arguments="").replace("@register", "@oodbench.register"),
        "NameError: name 'oodbench' is not defined",
    ),
}


def test_files_are_imported_elsewhere(tmp_path: Path) -> None:
    """All at once, because it takes another process; the reason is said with its line."""
    cases = {name: (before, None) for name, before in FINE.items()}
    cases |= {f"broken: {k}": v for k, v in BROKEN.items()}
    cases |= {f"class: {k}": ("", said) for k, (_, said) in BROKEN_CLASSES.items()}
    files: dict[str, Path] = {}
    for number, (name, (before, _)) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        body = BROKEN_CLASSES[name[7:]][0] if name.startswith("class: ") else None
        files[name] = file(folder, before, body=body)
    before_modules = set(sys.modules)
    errors = import_errors(list(files.values()))
    assert not {m for m in set(sys.modules) - before_modules if is_content(m)}
    for name, (_, said) in cases.items():
        error = errors[files[name]]
        if said is None:
            assert error is None, f"{name}: {error}"
        else:
            assert error is not None, f"{name}: was said to import"
            assert said in error, f"{name}: {error}"


# --- broken, as reading tells ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("def f(:\n    pass\n", "line 3: invalid syntax"),
        ("def f(x, x):\n    pass\n", "line 3: duplicate argument 'x'"),
        ("def f():\n    break\n", "line 4: 'break' outside loop"),
        ("x = (1,\n", "line 3: '(' was never closed"),
        (CLASS.format(arguments=""), "declares more than one detector"),
    ],
)
def test_broken_by_its_text(tmp_path: Path, before: str, said: str) -> None:
    with pytest.raises(BrokenDetectorError) as raised:
        read_detector(file(tmp_path, before))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (", needs=('fitt',)", "declares the unknown need 'fitt'. Did you mean 'fit'"),
        (", needs='fit'", "expected a tuple of names, not 'fit'. Write needs=('fit',)"),
        (", needs=3", "needs: expected a tuple of names, not 3"),
        (", aliases='m'", "aliases: expected a tuple of names, not 'm'"),
        (", title='a' + 'b'", "line 4: write the arguments of @register as literals"),
        (", title=NAME", "line 4: write the arguments of @register as literals"),
        (", **{'label': 'x'}", "line 4: "),
        (", titel='x'", "line 4: @register: got an unexpected keyword argument 'titel'"),
        (", search_space=['a']", "line 4: @register: "),
        (", search_space={'scale': 3}", "line 4: @register: "),
    ],
)
def test_broken_declarations(tmp_path: Path, arguments: str, said: str) -> None:
    with pytest.raises(BrokenDetectorError) as raised:
        read_detector(file(tmp_path, arguments=arguments))
    assert said in str(raised.value)


def test_another_name_than_the_file(tmp_path: Path) -> None:
    path = file(tmp_path).rename(tmp_path / "other.py")
    with pytest.raises(BrokenDetectorError, match=r"registers 'mine', .*file is called other\.py"):
        read_detector(path)


def test_no_detector_at_all(tmp_path: Path) -> None:
    with pytest.raises(BrokenDetectorError, match="declares no detector"):
        read_detector(file(tmp_path, body="class Mine(Detector):\n    pass\n"))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(b"# \xff\xfe\n")
    with pytest.raises(BrokenDetectorError, match="not UTF-8"):
        read_detector(path)
    path.write_bytes(b"x = 1\0\n")
    with pytest.raises(BrokenDetectorError, match="null bytes"):
        read_detector(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(BrokenDetectorError, match="cannot be read: Is a directory"):
        read_detector(path)


# --- what reading says is what running gives ------------------------------------------------------

BUILT_IN = sorted(
    name for name, entry in Catalog().entries["detector"].items() if entry.source == "built-in"
)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_detectors_import_and_are_read_as_they_register(name: str) -> None:
    """`oodbench list` does not import them: this test does."""
    path = Catalog().entry("detector", name).path
    assert load_class(path).info == read_detector(path)


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        ", label='M', title='T', venue='V', year=2020, url='https://x'",
        ", needs=['features', 'labels']",
        ", needs={'features'}, search_space={'scale': [1.0, 2.0]}",
    ],
)
@pytest.mark.parametrize("docstring", ["", '    """What it does.\n\n    More.\n    """\n'])
def test_the_declaration_read_is_the_one_registered(
    tmp_path: Path, arguments: str, docstring: str
) -> None:
    text = CLASS.format(arguments=arguments).replace("(Detector):\n", f"(Detector):\n{docstring}")
    path = file(tmp_path, body=text)
    assert read_detector(path) == load_class(path).info


# --- trials of imports ---------------------------------------------------------------------------


def test_success_is_remembered_failure_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = "x = tuple('ab')\n", "x = 1 / 0\n"
    files = [light(tmp_path / "good", good), light(tmp_path / "bad", bad)]
    first = import_errors(files)
    assert first[files[0]] is None
    assert "ZeroDivisionError" in str(first[files[1]])
    asked: list[Path] = []

    def elsewhere(unknown: list[import_trials.Trial]) -> dict[import_trials.Trial, str | None]:
        asked.extend(file for file, _ in unknown)
        return dict.fromkeys(unknown)

    monkeypatch.setattr(import_trials, "_tried_elsewhere", elsewhere)
    import_errors(files)
    assert asked == [files[1]], "only what failed is tried again"
    asked.clear()
    files[0].write_text(files[0].read_text() + "# changed\n")
    import_errors(files)
    assert asked == [files[0]], "another content is another file; the other has succeeded now"


def test_a_file_that_stops_python_blames_no_other(tmp_path: Path) -> None:
    stops, fine = "import os\nos._exit(7)\n", "print('{\"x\": 1}')\n"
    files = [light(tmp_path / "stops", stops), light(tmp_path / "fine", fine)]
    errors = import_errors(files)
    assert errors[files[0]] == "stops Python while it is imported: exit code 7"
    assert errors[files[1]] is None


def test_a_cache_that_cannot_be_written_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blocked").write_text("a file")
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "blocked" / "cache"))
    monkeypatch.setattr(import_trials, "_tried_elsewhere", lambda files: dict.fromkeys(files))
    path = light(tmp_path, "x = tuple('ab')\n")
    assert import_errors([path]) == {path: None}


def test_listing_imports_no_built_in_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes seconds, and the tests import these files."""

    def never(trials: list[import_trials.Trial]) -> dict[import_trials.Trial, str | None]:
        assert not trials, f"another process imported {trials}"
        return {}

    monkeypatch.setattr(import_trials, "_tried_elsewhere", never)
    statuses = Catalog().checked_detectors()
    assert {status.error for status in statuses.values()} == {None}


@pytest.mark.parametrize(
    ("arguments", "family"),
    [
        ("", "logits"),
        (', needs=("features",)', "features"),
        (', needs=("features",), family="shaping"', "shaping"),
        (', needs=("taps", "input_gradient")', "layers"),
        (', needs=("dismax_head",)', "heads"),
    ],
)
def test_the_family_is_declared_or_follows_from_the_needs(
    tmp_path: Path, arguments: str, family: str
) -> None:
    assert read_detector(file(tmp_path, arguments=arguments)).family == family


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokenDetectorError, match=r"family: unknown name 'shapings'.*'shaping'"):
        read_detector(file(tmp_path, arguments=', family="shapings"'))
