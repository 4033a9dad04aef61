"""What the README, the tutorials and CONTRIBUTING show works, and is what the commands print."""

from __future__ import annotations

import ast
import os
import pkgutil
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.commands import Command
from torch import nn
from torch.utils.data import TensorDataset

import oodbench
from oodbench.plugins.catalog import Catalog
from oodbench.testing.suite import CHECKS

ROOT = Path(__file__).parent.parent
PAGES = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def detector_in(document: str) -> str:
    """The one block of a document that registers a detector."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)
    (block,) = [block for block in blocks if "@register" in block]
    return str(block)


@pytest.mark.parametrize("document", ["docs/tutorials/your-detector.md", "CONTRIBUTING.md"])
def test_the_detector_that_is_shown_runs_beside_the_built_in_ones(
    document: str, tmp_path: Path
) -> None:
    code = detector_in(document)
    (name,) = re.findall(r"@register\(\s*\"(\w+)\"", code)
    assert re.search(rf"detectors/(<name>|{name})\.py", (ROOT / document).read_text())
    (tmp_path / "detectors").mkdir()
    (tmp_path / "detectors" / f"{name}.py").write_text(code)
    built_in = set(Catalog().detectors)
    catalog = Catalog([tmp_path])
    assert set(catalog.detectors) - built_in == {name}
    assert all(status.error is None for status in catalog.imported_detectors().values())

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    data = TensorDataset(torch.rand(30, 3, 8, 8), torch.arange(30) % 3)
    result = oodbench.evaluate(
        model,
        [catalog.load_detector(name), "baseline"],
        id_data=data,
        ood_data={"other": TensorDataset(torch.rand(20, 3, 8, 8))},
        fit_data=data,
    )
    assert result.failed == result.skipped == {}
    assert len(result.scores[name]["id"]) == 30


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_one_page() -> None:
    assert len(README.splitlines()) < 120


def test_the_readme_shows_what_the_command_prints() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "oodbench", "report", ROOT / "docs" / "leaderboards" / "digits"],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    (shown,) = re.findall(r"```console\n\$ .*?\n\.\.\.\n(.*?)\.\.\.\n```", README, flags=re.DOTALL)
    assert shown in done.stdout


def test_the_readme_counts_right() -> None:
    """Detectors, checks, and what the picture shows."""
    figure = runpy.run_path(str(ROOT / "scripts" / "overview_figure.py"))
    places, baseline = figure["points"](), figure["BASELINE"]
    time, quality = places[baseline]
    slow = {name for name, (x, _) in places.items() if x > 2 * time}
    better = {name for name, (_, y) in places.items() if y > quality}
    best = max(places, key=lambda name: places[name][1])
    assert places[best][0] == pytest.approx(time, abs=0.01)
    sentences = (
        f"ranks {len(Catalog().detectors)} detectors",
        f"# {len(CHECKS)} checks: ",
        f"Of these {len(places)} methods, {len(better)} are better than the baseline",
        f"The best one, {best.partition('+')[2]}, takes no longer",
        f"of the {len(slow)} that take more than twice as long, only the five variants of ODIN",
    )
    text = " ".join(README.split())
    for sentence in sentences:
        assert sentence in text
    assert len(slow & better) == 5
    assert all("ODIN" in name for name in slow & better)


def test_the_picture_is_of_the_committed_run() -> None:
    """If it fails: `python scripts/overview_figure.py`."""
    figure = runpy.run_path(str(ROOT / "scripts" / "overview_figure.py"))
    shown = figure["description"](figure["points"]())
    for theme in figure["THEMES"]:
        picture = ROOT / "docs" / "images" / f"quality-cost-{theme}.svg"
        assert shown in picture.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s#]+)|(?:src|srcset)=\"([^\"]+)\"", text)
    places = {one or other for one, other in links if not re.match(r"https?:", one or other)}
    missing = {place for place in places if not (page.parent / place).exists()}
    assert not missing


def test_the_benchmark_that_is_shown_has_a_plan(tmp_path: Path, command: Command) -> None:
    page = (ROOT / "docs" / "how-to" / "benchmarks.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(# my-digits.yaml\n.*?)```", page, re.DOTALL)
    (tmp_path / "my-digits.yaml").write_text(text)
    done = command("run", tmp_path / "my-digits.yaml", "--dry-run")
    assert done.code == 0, done.err
    assert "17 methods, 2 models, 3 seeds" in done.out
    assert "30 epochs" in done.out
    assert "KNN (k=10)" in done.out
    assert "photo-patches" not in done.out


def test_architecture_names_modules_that_exist() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    names = {
        name
        for name in re.findall(r"`([\w/.]+)`", text)
        if name.endswith((".py", "/", ".yaml")) and not name.startswith(".")
    }
    assert len(names) > 30
    missing = {
        name
        for name in names
        if not ((ROOT / "oodbench" / name).exists() or (ROOT / name).exists())
    }
    assert not missing
    (picture,) = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    drawn = set(re.findall(r"(?:^|\s)(\w+(?:/|\.py))(?=\s|$)", picture))
    packages = {path.parent.name + "/" for path in (ROOT / "oodbench").glob("*/__init__.py")}
    assert packages <= drawn, packages - drawn


DOTTED = re.compile(
    r"(?<![\w./-])oodbench\.(?!plugins\.detector_modules\.)(?:[A-Z]\w+|\w+(?:\.\w+)+)"
)
"""A class of oodbench, or something in one of its modules; not a file such as oodbench.toml."""


def exists(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_what_pages_and_messages_name_exists() -> None:
    named: dict[str, str] = {}
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue  # names what was
        named |= dict.fromkeys(DOTTED.findall(page.read_text("utf-8")), str(page))
    for path in (*(ROOT / "oodbench").rglob("*.py"), *(ROOT / "detectors").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named |= dict.fromkeys(DOTTED.findall(node.value), f"{path}:{node.lineno}")
    assert "oodbench.numerics.row_sample.RowSample" in named
    assert not exists("oodbench.numerics.bank.FeatureSack")
    missing = [f"{place} names {name}" for name, place in named.items() if not exists(name)]
    assert not missing, "\n".join(missing)
