"""The gate of a project: where it is found, and what is wrong in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oodbench.errors import UserError
from oodbench.run_comparison.gate import Gate
from oodbench.run_comparison.gate_file import project_gate, read_gate

GATE = Gate.of_options(
    ["auroc=0.5", "auroc@SoftMax+MSP=1"], 1.2, ["worse", "missing"], allow_cost=True, strict=True
)
TOML = """
max_slower = 1.2
fail_on = ["worse", "missing"]
allow_cost = true
strict = true
max_drop = {auroc = 0.5, "auroc@SoftMax+MSP" = 1.0}
"""
YAML = """
gate:
  max_slower: 1.2
  fail_on: [worse, missing]
  allow_cost: true
  strict: true
  max_drop: {auroc: 0.5, auroc@SoftMax+MSP: 1.0}
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.toml", f"[gate]{TOML}"),
        ("own.yaml", YAML),
        ("own.yml", YAML),
        ("pyproject.toml", f"[tool.other]\nkey = 1\n[tool.oodbench.gate]{TOML}"),
    ],
)
def test_one_gate_in_four_files(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_gate(tmp_path / name) == GATE


def test_the_gate_of_the_guide(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "guarding-a-leaderboard.md"
    (text,) = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "oodbench.toml").write_text(text, encoding="utf-8")
    gate = project_gate(tmp_path)
    assert gate is not None
    assert gate.max_drop == {"auroc": 0.5, "auroc@SoftMax+MSP": 1.0, "auroc@near": 1.0}
    assert (gate.max_slower, gate.fail_on) == (1.2, ("missing",))


def test_the_gate_of_a_project(tmp_path: Path) -> None:
    assert project_gate(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nkey = 1\n", encoding="utf-8")
    assert project_gate(tmp_path) is None
    (tmp_path / "oodbench.toml").write_text(f"[gate]{TOML}", encoding="utf-8")
    assert project_gate(tmp_path) == GATE
    (tmp_path / "pyproject.toml").write_text(f"[tool.oodbench.gate]{TOML}", encoding="utf-8")
    with pytest.raises(UserError, match="both have a gate") as error:
        project_gate(tmp_path)
    assert "--gate" in error.value.hint


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("g.toml", "[gate]\nmax_drp = {auroc = 1}", ["g.toml", "max_drp", "'max_drop'"]),
        ("g.yaml", "gate: {fail_om: worse}", ["g.yaml", "fail_om", "'fail_on'"]),
        ("g.toml", "[gates]\nstrict = true", ["g.toml", "'gates'", "'gate'"]),
        ("g.toml", "strict = true", ["g.toml", "'strict'", "below [gate]"]),
        ("g.toml", "[gate]\nmax_drop = {aurok = 1}", ["g.toml", "'aurok'", "'auroc'"]),
        ("g.toml", "[gate]\nmax_drop = 0.5", ["max_drop: expected limits", "{auroc = 0.5}"]),
        ("g.toml", "[gate]\nstrict = 1", ["g.toml", "strict"]),
        ("g.toml", "gate = 3", ["g.toml", "gate", "3"]),
        ("g.toml", "[gate", ["g.toml", "not valid TOML"]),
        ("g.yaml", "gate: {", ["g.yaml", "not valid YAML"]),
        ("g.toml", "", ["g.toml", "no section gate"]),
        ("g.json", "{}", ["g.json", ".toml, .yaml or .yml"]),
        ("pyproject.toml", "[tool.oodbench]\ngait = 1", ["pyproject.toml", "tool.oodbench.gait"]),
        ("pyproject.toml", "[tool]\noodbench = 1", ["tool.oodbench", "a table, not 1"]),
        ("pyproject.toml", "tool = 1", ["no section tool.oodbench.gate"]),
    ],
)
def test_what_is_wrong_is_named(name: str, text: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_gate(tmp_path / name)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Cannot read"):
        read_gate(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        read_gate(tmp_path / "binary.toml")
