"""The run directory: digests of its files, and what is read from it."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import Command
from helpers.finished_run import METHODS, SEEDS, description, first_value, flip, without_digests

from oodbench import api
from oodbench.errors import UserError
from oodbench.results import Run
from oodbench.storage import description as description_file
from oodbench.storage import run_directory as rundir
from oodbench.storage.run_description import RunDescription
from oodbench.storage.run_directory import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread", "content")


# --- bytes that were changed after the run ------------------------------------------------------


CHANGES = [("records.jsonl", "ci_low"), ("costs.jsonl", "flops_per_image")]
CHANGES += [("records.jsonl", "value"), ("training.jsonl", "train_loss")]


def test_every_file_with_results_has_a_digest(complete: Path) -> None:
    described = description(complete)
    found = {str(path.relative_to(complete)) for path in complete.glob("scores/*/*.npz")}
    assert len(found) == len(METHODS) * SEEDS
    predicted = {str(each.relative_to(complete)) for each in complete.glob("predictions/*/*.npz")}
    assert len(predicted) == 2 * SEEDS
    results = {"records.jsonl", "costs.jsonl", "training.jsonl", "differences.jsonl"}
    assert set(described["files"]) == results | found | predicted
    for name, digest in described["files"].items():
        assert hashlib.sha256((complete / name).read_bytes()).hexdigest() == digest, name
    assert "writing" not in described
    assert Run(complete).changed == ()


def test_a_run_that_is_killed_after_its_records_has_what_is_said_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records mark a method as finished: its notes and warnings are not found again."""
    directory, write = RunDirectory(tmp_path), rundir.write_atomic
    directory.write(RunDescription(run_id="a"), {"records.jsonl": ""})

    def then_killed(path: Path, content: bytes | str) -> None:
        write(path, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(rundir, "write_atomic", then_killed)
    said = {"notes": {"A/seed0": ["a note"]}, "warnings": {"A, seed 0": ["a sign"]}}
    done = RunDescription(run_id="a", status="complete", **said)
    with pytest.raises(KeyboardInterrupt):
        directory.write(done, {"records.jsonl": "{}\n"})
    assert (tmp_path / "records.jsonl").read_text() == "{}\n"
    found = directory.read_description()
    assert {"notes": found.notes, "warnings": found.warnings} == said
    assert found.status == "running"
    assert directory.changed() == ()


@pytest.mark.parametrize(("name", "key"), CHANGES)
@pytest.mark.parametrize("form", ["table", "md", "csv", "json", "html", "latex"])
def test_a_report_says_that_a_file_was_changed(
    copy: Path,
    command: Command,
    form: str,
    name: str,
    key: str,
) -> None:
    for code in (0, 1):
        said = command("report", copy, "--format", form)
        assert said.code == code, said.err
        assert (f"WARNING: {copy}: {name} changed after the run" in said.err) == bool(code)
        assert ("--resume" in said.err) == bool(code)
        shown = said.out.replace("\\_", "_")
        assert (
            form != "csv" and "may differ from what was measured" in " ".join(shown.split())
        ) == (bool(code) and form != "csv")
        if code == 0:
            flip(copy / name, *first_value(copy, name, key))


@pytest.mark.parametrize("change", ["flipped", "cut", "longer", "gone"])
@pytest.mark.parametrize("name", ["records.jsonl", "scores/SoftMax+ODIN/seed1.npz"])
def test_changed_files_are_named(copy: Path, name: str, change: str) -> None:
    path = copy / name
    content = bytearray(path.read_bytes())
    if change == "flipped":
        content[len(content) // 2] ^= 1
    changed = {"cut": content[:-1], "longer": content + b"\n"}.get(change, content)
    path.unlink() if change == "gone" else path.write_bytes(changed)
    said = f"{name} is missing: " if change == "gone" else f"{name} changed after the run"
    with pytest.warns(UserWarning, match=re.escape(said)) as warned:
        found = api.open_run(copy)
    assert found.changed == (name,)
    text = str(warned[0].message)
    assert ("may differ from what was measured" in text) == (change != "gone")
    assert text.endswith("`oodbench run` with --resume makes it again.")


@pytest.mark.parametrize(
    ("gone", "lacking"),
    [
        (["costs.jsonl"], "costs.jsonl is missing: costs are not shown"),
        (["training.jsonl"], "training is not shown"),
        (["differences.jsonl"], "differences.jsonl is missing: ties are tested again"),
        (["scores"], "are missing: figures cannot be drawn of these scores"),
        (["predictions"], "metrics that need them cannot be added; values"),
        (["scores", "differences.jsonl"], "which methods are tied is not shown"),
    ],
)
def test_files_that_are_missing_say_what_is_not_shown(
    copy: Path, gone: list[str], lacking: str
) -> None:
    before = Run(copy).leaderboard()
    for name in gone:
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.warns(UserWarning, match="missing: ") as warned:
        board = api.open_run(copy).report()
    assert lacking in str(warned[0].message)
    assert "from what was measured" not in str(warned[0].message)
    assert isinstance(board, type(before))
    assert [row.rank for row in board.rows] == [row.rank for row in before.rows]
    assert board.tested == (len(gone) == 1)


@pytest.mark.parametrize("how", ["missing", "empty"])
@pytest.mark.parametrize("digests", [True, False])
def test_records_that_are_gone_are_said(
    copy: Path, recwarn: pytest.WarningsRecorder, how: str, digests: bool
) -> None:
    if not digests:
        without_digests(copy)
    path = copy / "records.jsonl"
    path.unlink() if how == "missing" else path.write_text("")
    with pytest.raises(UserError, match=rf"records\.jsonl is {how}: ") as raised:
        Run(copy).report()
    assert f"--resume and --out {copy}" in raised.value.hint
    assert not recwarn.list


def test_a_run_of_before_there_were_digests(copy: Path, recwarn: pytest.WarningsRecorder) -> None:
    without_digests(copy)
    flip(copy / "records.jsonl", *first_value(copy, "records.jsonl", "value"))
    assert api.open_run(copy).changed == ()
    assert not recwarn.list


VERSIONS = [{"b": b"1", "scores/a.npz": b"1", "records.jsonl": b"1"}]
VERSIONS += [{"scores/b.npz": b"1", "records.jsonl": b"2", "b": b"2"}]
VERSIONS += [{"scores/a.npz": b"3", "records.jsonl": b"3", "b": b"1"}]


def write_until(directory: RunDirectory, version: int, writes: int) -> bool:
    """Write a version; killed when so many files are written. Whether it was."""
    write, left = rundir.write_atomic, writes

    def killed(path: Path, content: bytes | str) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        write(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rundir, "write_atomic", killed)
        patch.setattr(description_file, "write_atomic", killed)
        try:
            directory.write(RunDescription(run_id=str(version)), VERSIONS[version])
        except KeyboardInterrupt:
            return True
    return False


@pytest.mark.parametrize("second", range(6))
@pytest.mark.parametrize("first", range(6))
def test_no_kill_makes_a_false_alarm(tmp_path: Path, first: int, second: int) -> None:
    """Killed between any two files, twice: what was not changed is not called so, the rest is."""
    directory = RunDirectory(tmp_path)
    killed = [write_until(directory, 0, first), write_until(directory, 1, second)]
    killed += [write_until(directory, 2, 2)]
    assert (any(killed[:2]), killed[2]) == (min(first, second) < 5, True)
    assert directory.changed() == ()
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        name, content = str(path.relative_to(tmp_path)), path.read_bytes()
        if name != "run.json":
            path.write_bytes(b"x")
            assert directory.changed() == (name,)
            path.write_bytes(content)
    assert not write_until(directory, 2, 9)
    assert directory.changed() == ()
    assert {name: (tmp_path / name).read_bytes() for name in VERSIONS[2]} == VERSIONS[2]


def test_no_false_alarm_while_another_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path)
    directory.write(RunDescription(), VERSIONS[0])
    read, reads = RunDirectory.read_description, 0

    def read_and_write(self: RunDirectory) -> RunDescription:
        nonlocal reads
        reads += 1
        found = read(self)
        if reads in (1, 3):
            monkeypatch.setattr(RunDirectory, "read_description", read)
            RunDirectory(tmp_path).write(RunDescription(), VERSIONS[reads // 2 + 1])
            monkeypatch.setattr(RunDirectory, "read_description", read_and_write)
        return found

    monkeypatch.setattr(RunDirectory, "read_description", read_and_write)
    assert directory.changed() == ()
    assert reads >= 4, "it looked again"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("benchmark", []),
        ("seeds", "0"),
        ("methods", [{"name": 5}]),
        ("checksums", {"checkpoints": [1]}),
        ("files", {"records.jsonl": 5}),
        ("files", {"../../etc/passwd": "0"}),
        ("records", {}),
        ("schema_version", 2),
        ("status", "halted"),
        ("benchmark", {"evaluation": {"resamples": 1}}),
        ("environment", {"threads": "two"}),
        ("notes", {"a/seed0": "one"}),
    ],
)
def test_a_description_of_a_wrong_type(copy: Path, key: str, value: object) -> None:
    (copy / "run.json").write_text(json.dumps(description(copy) | {key: value}))
    with pytest.raises(UserError, match=rf"Cannot read .*run\.json: {key}"):
        api.open_run(copy)


def test_unreadable_scores_are_said(copy: Path) -> None:
    directory = RunDirectory(copy)
    array, archive = io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(3))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("id.npy", array.getvalue().replace(b"}", b" ", 1))
    for content in (b"", b"PK\x03\x04 torn", b"text", archive.getvalue()):
        directory.scores_path((METHODS[0], 0)).write_bytes(content)
        with pytest.raises(UserError, match="Cannot read the scores in"):
            directory.read_scores((METHODS[0], 0))
    with pytest.raises(UserError, match="Cannot read the scores in"):
        directory.read_scores(("nothing", 0))


def test_scores_that_would_fill_the_memory(copy: Path) -> None:
    directory = RunDirectory(copy)
    np.savez_compressed(directory.scores_path((METHODS[0], 0)), id=np.zeros(100_000))
    with pytest.raises(UserError, match="its arrays are larger than the file"):
        directory.read_scores((METHODS[0], 0))


@pytest.mark.parametrize("field", ["benchmark_version", "n_id"])
def test_a_changed_file_is_named_before_what_it_contradicts(copy: Path, field: str) -> None:
    path = copy / "records.jsonl"
    first, *others = path.read_text().splitlines()
    record = json.loads(first)
    record[field] += 1
    path.write_text("\n".join([json.dumps(record), *others]) + "\n")
    with pytest.warns(UserWarning, match="changed after the run"):
        run = api.open_run(copy)
    with pytest.raises(UserError, match=r"records\.jsonl changed after the run.*not comparable"):
        run.leaderboard()
