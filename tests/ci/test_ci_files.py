"""The GitHub Action and the CI examples: their shell steps, run here with a stand-in for GitHub."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.tiny_benchmark import tiny_benchmark

import oodbench

ROOT = Path(__file__).parents[2]
ACTION = ROOT / ".github" / "actions" / "oodbench" / "action.yml"
SKIPPED = ("Install oodbench",)  # needs a network

pytestmark = [
    pytest.mark.skipif(shutil.which("bash") is None, reason="the steps are for bash"),
    pytest.mark.usefixtures("one_thread"),
]


DETECTOR = '''"""The largest logit."""

from torch import Tensor

from oodbench import Detector, Outputs, register


@register("mine", label="Mine")
class Mine(Detector):
    """max_c z_c."""

    def score(self, outputs: Outputs) -> Tensor:
        """One score per image, shape [B]; higher is more in-distribution."""
        return outputs.logits.amax(dim=1)
'''


class Runner:
    """Runs the shell steps of the action in a repository, as a job of GitHub would."""

    def __init__(self, repository: Path, temporary: Path, *, base_branch: str = "") -> None:
        self.repository, self.temporary = repository, temporary
        self.base_branch = base_branch
        self.summary = temporary / "summary.md"
        self.outputs: dict[str, dict[str, str]] = {}
        commands = temporary / "bin"
        commands.mkdir(parents=True)
        command = commands / "oodbench"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m oodbench "$@"\n')
        command.chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RUNNER_TEMP": str(temporary),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_ACTIONS": "true",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, **inputs: str) -> tuple[int, str]:
        """The exit code of the job, and its log."""
        action = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
        values = {name: str(each.get("default", "")) for name, each in action["inputs"].items()}
        values |= {name.replace("_", "-"): value for name, value in inputs.items()}
        code, log = 0, ""
        for step in action["runs"]["steps"]:
            if "run" not in step or step["name"] in SKIPPED:
                continue
            if code and "cancelled()" not in step.get("if", ""):
                continue
            output = self.temporary / "output"
            output.write_text("")
            given = {k: self._filled(v, values) for k, v in step.get("env", {}).items()}
            if step["name"] == "Run the benchmark":
                given["OODBENCH_CACHE"] = os.environ["OODBENCH_CACHE"]  # trained once for all tests
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                cwd=self.repository,
                env=self.environment | given | {"GITHUB_OUTPUT": str(output)},
                capture_output=True,
                text=True,
                check=False,
            )
            log += f"## {step['name']}: {done.returncode}\n{done.stdout}{done.stderr}\n"
            lines = output.read_text().splitlines()
            self.outputs[step.get("id", "")] = dict(line.split("=", 1) for line in lines)
            code = code or done.returncode
        return code, log

    def _filled(self, text: Any, inputs: Mapping[str, str]) -> str:
        def value(match: re.Match[str]) -> str:
            name = match[1].strip()
            if name.startswith("inputs."):
                return inputs[name.removeprefix("inputs.")]
            if name.startswith("steps."):
                _, step, _, output = name.split(".")
                return self.outputs.get(step, {}).get(output, "")
            known = {"github.base_ref": self.base_branch, "runner.temp": str(self.temporary)}
            return known.get(name, "hash" if "hashFiles" in name else "")

        return re.sub(r"\$\{\{(.*?)\}\}", value, str(text))


def git(folder: Path, *arguments: str) -> None:
    names = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of a repository with a benchmark, a detector and a committed leaderboard."""
    origin = tmp_path_factory.mktemp("origin")
    detectors = origin / "content" / "detectors"
    detectors.mkdir(parents=True)
    (detectors / "mine.py").write_text(DETECTOR, encoding="utf-8")
    benchmark = tiny_benchmark(
        {"SoftMax+MSP": "baseline", "SoftMax+Mine": "mine"},
        ood="{near: [letters]}",
        training="{epochs: 8, batch_size: 64, learning_rate: 0.1}",
    )
    (origin / "tiny.yaml").write_text(benchmark, encoding="utf-8")
    oodbench.run(
        origin / "tiny.yaml", out=origin / "boards" / "tiny", seeds=1, plugins=[origin / "content"]
    )
    git(origin, "init")
    git(origin, "add", "-A")
    git(origin, "commit", "-m", "x")
    git(origin, "branch", "-M", "main")
    clone = tmp_path_factory.mktemp("clone") / "repository"
    git(origin, "clone", "--quiet", f"file://{origin}", str(clone))
    return clone


INPUTS = {
    "benchmark": "tiny.yaml",
    "plugins": "content",
    "seeds": "1",
    "base": "boards/tiny",
    "max_drop": "auroc=1\nauroc@mean=1\n",
    "fail_on": "missing",
}


@pytest.mark.full
def test_unchanged_detector_passes(repository: Path, tmp_path: Path) -> None:
    runner = Runner(repository, tmp_path)
    code, log = runner.run(**INPUTS)
    assert code == 0, log
    folder = tmp_path / "oodbench"
    for name in ("run/run.json", "comparison.html", "junit.xml", "badge.json", "site/index.html"):
        assert (folder / name).is_file(), f"{name}: {log}"
    assert runner.summary.read_text(encoding="utf-8").count("# ") > 0


def test_broken_detector_fails_even_if_it_brings_its_own_leaderboard(
    repository: Path, tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(repository, tmp_path / "changed"))
    worse = DETECTOR.replace("return outputs", "return -outputs")
    (changed / "content" / "detectors" / "mine.py").write_text(worse, encoding="utf-8")
    shutil.rmtree(changed / "boards" / "tiny")
    oodbench.run(
        changed / "tiny.yaml",
        out=changed / "boards" / "tiny",
        seeds=1,
        plugins=[changed / "content"],
    )
    runner = Runner(changed, tmp_path / "runner", base_branch="main")
    code, log = runner.run(**INPUTS)
    assert code == 1, log
    assert "SoftMax+Mine" in log
    assert "::error" in log
    assert (tmp_path / "runner" / "oodbench" / "site" / "index.html").is_file()


def test_first_leaderboard(repository: Path, tmp_path: Path) -> None:
    runner = Runner(repository, tmp_path, base_branch="main")
    code, log = runner.run(**{**INPUTS, "base": "boards/new"})
    assert code == 0, log
    assert "main has no boards/new yet" in log
    assert "SoftMax+MSP" in runner.summary.read_text(encoding="utf-8")


def test_mistake_in_an_input_fails_at_once(repository: Path, tmp_path: Path) -> None:
    code, log = Runner(repository, tmp_path / "a").run(**{**INPUTS, "benchmark": "tiny.yml"})
    assert code == 2, log
    code, log = Runner(repository, tmp_path / "b").run(**{**INPUTS, "max_drop": "aurok=1"})
    assert code == 2, log
    assert "Did you mean 'auroc'" in log


def test_workflow_does_what_make_gate_does() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    steps = yaml.safe_load(text)["jobs"]["leaderboard"]["steps"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    first, rest = re.findall(r"^GUARDED := (.*)$", makefile, re.MULTILINE)
    assert steps[-2]["with"]["methods"] == rest.replace("$(GUARDED)", first)
    assert f"\t{steps[-1]['run']}\n" in makefile.replace("$(BIN)/", "").replace("$$", "$")


def test_committed_leaderboard_follows_from_its_scores() -> None:
    board = ROOT / "docs" / "leaderboards" / "digits"
    found = oodbench.verify(board)
    assert not found.discrepancies, found
    # Reports alone may have another form in this version.
    assert all("another version" in each for each in found.unchecked), found
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    first, rest = re.findall(r"^GUARDED := (.*)$", makefile, re.MULTILINE)
    methods = {record.method for record in oodbench.open_run(board).records}  # type: ignore[union-attr]
    assert methods == set(rest.replace("$(GUARDED)", first).split(","))


WORKFLOWS = [
    ACTION,
    ROOT / ".github" / "workflows" / "ci.yml",
    *sorted((ROOT / "examples" / "ci").glob("*.yml")),
]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_values_never_stand_in_a_script(path: Path) -> None:
    """A name of a branch or an input could be a command: scripts read them from variables."""

    def scripts(content: Any) -> list[str]:
        if isinstance(content, dict):
            own = [content["run"]] if isinstance(content.get("run"), str) else []
            return own + [text for each in content.values() for text in scripts(each)]
        return (
            [text for each in content for text in scripts(each)]
            if isinstance(content, list)
            else []
        )

    found = scripts(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert found or "gitlab" in path.name
    assert not [text for text in found if "${{" in text]
