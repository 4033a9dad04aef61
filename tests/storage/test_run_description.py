"""The description of a run, as a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import oodbench
from oodbench.errors import UserError
from oodbench.storage.run_description import (
    Checksums,
    DescribedFile,
    Environment,
    RunDescription,
)

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.parametrize("folder", sorted(RESULTS.glob("*/run.json")), ids=str)
def test_committed_descriptions_are_readable(folder: Path, tmp_path: Path) -> None:
    found = RunDescription.read(folder)
    assert found.of_benchmark.name == folder.parent.name
    assert found.status == "complete"
    assert found.of_benchmark.models
    assert found.environment.threads
    earlier = folder.parent.name == "cifar10-folders-resnet34"
    assert (found.environment.process == {}) == earlier, "was not recorded"
    content = json.loads(folder.read_text(encoding="utf-8"))
    found.write(tmp_path / "run.json")
    again = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert {key: again[key] for key in ("run_id", "benchmark", "seeds", "checksums")} == {
        key: content[key] for key in ("run_id", "benchmark", "seeds", "checksums")
    }


def test_images_are_known_by_their_pixels_where_they_were_read() -> None:
    known = Checksums(
        data={"a": {"test": "files", "train": "manifest"}, "b": {"test": "small"}},
        pixels={"a": {"test": "pixels"}},
    )
    assert known.images == {
        "a": {"test": "pixels", "train": "manifest"},
        "b": {"test": "small"},
    }


@pytest.mark.parametrize("sha256", ["", "0" * 64])
def test_checksums_of_the_first_fetch_are_named_where_there_are_any(sha256: str) -> None:
    """The user's own unpacked folder was never fetched."""
    (folder, *_) = sorted(RESULTS.glob("*/run.json"))
    file = DescribedFile(of="R", name="weights.zip", sha256=sha256)
    found = RunDescription.read(folder).model_copy(update={"unverified_files": [file]})
    (said,) = [text for text in found.warning_texts if "weights.zip" in text]
    assert said.startswith("not verified against a published checksum")
    assert ("run.json has the checksums" in said) == bool(sha256)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    described = RunDescription(
        run_id="1",
        status="complete",
        command="oodbench run \udcff",
        benchmark={"name": "a", "version": 2, "title": "A"},
        environment=Environment(threads=2, process={"OMP_WAIT_POLICY": "passive"}),
        files={"scores/a/seed0.npz": "0"},
    )
    described.write(tmp_path / "run.json")
    assert RunDescription.read(tmp_path / "run.json") == described
    assert described.of_benchmark.version == 2
    assert described.benchmark_identity == {"name": "a", "version": 2}
    assert "writing" not in json.loads((tmp_path / "run.json").read_text())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "Input should be a valid dictionary"),
        ('{"status": ', "Expecting value"),
        ('{"schema_version": 2}', "schema_version: Input should be 1"),
        ('{"benchmark": {"models": []}}', "benchmark: .*models"),
        ('{"files": {"/etc/passwd": "0"}}', "files"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_description_is_one_clear_error(
    tmp_path: Path, content: str, problem: str
) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"Cannot read .*run\.json: .*{problem}") as raised:
        RunDescription.read(path)
    assert len(raised.value.message.splitlines()) == 1
    with pytest.raises(UserError, match="Cannot read"):
        oodbench.open_run(tmp_path)
