"""The scripts and the plug-in package of `examples/` run, and do what they say."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers.finished_run import few_repetitions

import oodbench
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.starter_files import plugin_files
from oodbench.testing import check_detector

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLES = Path(__file__).parent.parent / "examples"
PACKAGE = EXAMPLES / "plugin-package"


@pytest.fixture
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that a test is about, as a module that other code can import."""
    name = request.param
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", ["rank_a_detector.py"], indirect=True)
def test_ranking_a_detector(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With two epochs: the order of the methods is that of a network that learned little."""
    monkeypatch.chdir(tmp_path)
    run = oodbench.run
    monkeypatch.setattr(oodbench, "run", lambda *a, **k: run(*a, **k, epochs=2, device="cpu"))
    with few_repetitions():
        script.main()
    shown = capsys.readouterr().out
    assert re.search(r"^28 checks: \d+ passed, \d+ not applicable", shown, re.MULTILINE)
    (folder,) = (tmp_path / "runs").iterdir()
    methods = [row.method for row in oodbench.open_run(folder).leaderboard().rows]
    assert sorted(methods) == ["SoftMax+Energy", "SoftMax+KNN", "SoftMax+MSP", "SoftMax+Margin"]
    assert all(method in shown for method in methods)


@pytest.mark.parametrize("script", ["dismax_training.py"], indirect=True)
def test_the_dismax_loss_in_the_usual_loop(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main()
    shown = capsys.readouterr().out
    accuracy = dict(re.findall(r"^(\w+): 8 classes, accuracy ([\d.]+) %", shown, re.MULTILINE))
    auroc = dict(re.findall(r"^\d +(\w+\+\w+) +([\d.]+)", shown, re.MULTILINE))
    assert min(float(value) for value in accuracy.values()) > 95
    assert auroc.keys() == {f"{a}+{b}" for a in accuracy for b in ("baseline", "entropy")}
    assert min(float(value) for value in auroc.values()) > 80


@pytest.mark.parametrize("script", ["compare_two_runs.py"], indirect=True)
def test_comparing_with_the_committed_leaderboard(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The committed run stands in for the new one: nothing is worse."""
    root = EXAMPLES.parent
    monkeypatch.chdir(root)
    committed = oodbench.open_run(root / "docs" / "leaderboards" / "digits")
    monkeypatch.setattr(oodbench, "run", lambda *_, **__: committed)
    assert script.main() == 0
    shown = capsys.readouterr().out
    assert "SoftMax+MSP: 87.9% -> 87.9%, no difference shown" in shown
    assert shown.endswith("0 differences are for the worse.\n")


def test_the_package_is_what_the_command_writes_but_for_its_detector() -> None:
    detector = Path("src/acme_ood/detectors/acme_ood.py")
    for path, text in plugin_files("acme-ood", Catalog()).items():
        if path != detector:
            assert (PACKAGE / path).read_text(encoding="utf-8") == text, path
    catalog = Catalog([PACKAGE / "src" / "acme_ood"])
    assert {"acme_ood"} == catalog.detectors.keys() - Catalog().detectors.keys()
    assert check_detector(PACKAGE / detector).passed
