"""Runs that go on, and runs that are refused with nothing changed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.finished_run import (
    METHODS,
    SEEDS,
    TINY,
    check_same,
    contents,
    first_value,
    flip,
    forget,
    records,
    run,
    without_digests,
)
from helpers.tiers import by_default

import oodbench
from oodbench.errors import UserError
from oodbench.plugins.catalog import Catalog
from oodbench.results import Run

pytestmark = pytest.mark.usefixtures("one_thread", "content")


# --- resuming ---------------------------------------------------------------------------------


def test_a_complete_run_is_not_done_again(copy: Path, work: Counter[str], complete: Path) -> None:
    scores = {name: time for name, (_, time) in contents(copy).items() if "scores" in name}
    assert run(copy, resume=True).complete
    assert not work
    assert {n: time for n, (_, time) in contents(copy).items() if "scores" in n} == scores
    for name in ("records.jsonl", "costs.jsonl", "leaderboard.md"):
        assert (copy / name).read_bytes() == (complete / name).read_bytes(), name


def test_finished_work_is_not_done_again(copy: Path, work: Counter[str], complete: Path) -> None:
    forget(copy, lambda r: (r["method"], r["seed"]) not in (("SoftMax+ODIN", 0), (METHODS[1], 1)))
    run(copy, resume=True)
    assert work == Counter(
        ["SoftMax seed 0", "SoftMax+ODIN seed 0", "DisMax seed 1", "DisMax+Entropy seed 1"]
    )
    check_same(copy, complete)


@pytest.mark.parametrize("lost", ["one record", "a cost", "scores", "half of the scores"])
def test_half_finished_work_is_done_again(
    copy: Path, work: Counter[str], complete: Path, lost: str
) -> None:
    scores = copy / "scores" / "DisMax+Entropy" / "seed1.npz"
    if lost == "one record":
        last = [r for r in records(copy) if (r["method"], r["seed"]) == ("DisMax+Entropy", 1)][-1]
        forget(copy, lambda record: record != last)
    elif lost == "a cost":
        lines = (copy / "costs.jsonl").read_text().splitlines(keepends=True)
        gone = [line for line in lines if "DisMax+Entropy" in line and '"seed":1' in line]
        assert len(gone) == 1
        (copy / "costs.jsonl").write_text("".join(line for line in lines if line not in gone))
    elif lost == "scores":
        scores.unlink()
    else:
        scores.write_bytes(scores.read_bytes()[: scores.stat().st_size // 2])
    run(copy, resume=True)
    assert work == Counter(["DisMax seed 1", "DisMax+Entropy seed 1"])
    check_same(copy, complete)


def test_more_seeds(tmp_path: Path, work: Counter[str], complete: Path) -> None:
    run(tmp_path / "run", seeds=1)
    work.clear()
    run(tmp_path / "run", seeds=2, resume=True)
    assert not [name for name in work if name.endswith("seed 0")]
    check_same(tmp_path / "run", complete)


def test_fewer_seeds_take_nothing_away(copy: Path, work: Counter[str], complete: Path) -> None:
    run(copy, seeds=1, resume=True)
    assert not work
    kept = [r for r in records(copy) if r["status"] == "ok"]
    assert kept == [r for r in records(complete) if r["status"] == "ok"]


def test_fewer_seeds_keep_what_was_skipped(copy: Path, complete: Path) -> None:
    run(copy, seeds=1, resume=True)
    kept = [r for r in records(copy) if r["status"] == "skipped"]
    assert kept == [r for r in records(complete) if r["status"] == "skipped"]


@pytest.mark.parametrize(
    "first", by_default(["SoftMax+ODIN"], ["DisMax+Entropy", "SoftMax+ODIN", "SoftMax+MSP"])
)
def test_more_methods(tmp_path: Path, work: Counter[str], complete: Path, first: str) -> None:
    """Also where the first ones need no tuning data and the others do."""
    run(tmp_path / "run", methods=[first])
    work.clear()
    run(tmp_path / "run", resume=True)
    assert not [name for name in work if name.startswith(f"{first} ")]
    check_same(tmp_path / "run", complete)


@pytest.mark.parametrize("file", by_default(["_deeper"], ["mine", "_shared", "_deeper"]))
def test_a_changed_detector_is_run_again(tmp_path: Path, work: Counter[str], file: str) -> None:
    """Its own file, a helper that it imports, or one that the helper imports."""
    source = Path(Catalog().entry("detector", "entropy").path).read_text()
    text = source.replace('"entropy"', '"mine"').replace('label="Entropy"', 'label="Mine"')
    assert text != source
    text = text.replace("from torch import", "from _shared import f\nfrom torch import", 1)
    files = {"mine": text, "_shared": "from ._deeper import f\n", "_deeper": "f = abs\n"}
    folder = tmp_path / "content"
    (folder / "detectors").mkdir(parents=True)
    for version in ("first", "second"):
        for name, content in files.items():
            changed = f"# {version}\n" if name == file else ""
            (folder / "detectors" / f"{name}.py").write_text(content + changed)
        work.clear()
        run(
            tmp_path / "run",
            seeds=1,
            methods=["SoftMax+MSP", "mine"],
            plugins=[folder],
            resume=version == "second",
        )
    again = ["SoftMax seed 0", "SoftMax+Mine seed 0", "DisMax seed 0", "DisMax+Mine seed 0"]
    assert work == Counter(again)


# --- what is refused, with nothing changed ------------------------------------------------------


def refused(folder: Path, *said: str, **options: Any) -> None:
    """A run that must not start: the message, and not a byte changed."""
    before = contents(folder)
    with pytest.raises(UserError) as raised:
        run(folder, **options)
    text = str(raised.value)
    assert len(text.splitlines()) <= 2, text
    for part in said:
        assert part in text, f"'{part}' is not in: {text}"
    assert contents(folder) == before, "something on the disk has changed"


def test_a_run_is_not_overwritten(copy: Path) -> None:
    refused(copy, str(copy), "holds a run already", "--resume", "--out")


def test_another_benchmark(copy: Path, content: Path) -> None:
    other = content / "benchmarks" / "other.yaml"
    other.write_text("extends: tiny\nname: other\n")
    try:
        before = contents(copy)
        with pytest.raises(UserError, match="run of benchmark 'tiny' version 1, not of 'other'"):
            oodbench.run(other, out=copy, device="cpu", resume=True)
        assert contents(copy) == before
    finally:
        other.unlink()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs: 1", "epochs: 2", "another state of 'tiny'"),
        ("version: 1\ntitle", "version: 2\ntitle", "'tiny' version 1, not of 'tiny' version 2"),
        ("resamples: 100", "resamples: 101", "another state of 'tiny'"),
    ],
)
def test_a_changed_benchmark(copy: Path, content: Path, old: str, new: str, said: str) -> None:
    path = content / "benchmarks" / "tiny.yaml"
    assert old in TINY
    path.write_text(TINY.replace(old, new))
    try:
        refused(copy, said, "--out", resume=True)
    finally:
        path.write_text(TINY)


def test_another_version_of_the_package(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oodbench.storage.same_work.__version__", "99")
    refused(
        copy,
        f"oodbench {json.loads((copy / 'run.json').read_text())['versions']['oodbench']}",
        resume=True,
    )


def test_a_description_that_is_no_json(copy: Path) -> None:
    (copy / "run.json").write_text('{"benchmark": ')
    refused(copy, "Cannot read", "run.json", resume=True)


def test_records_that_are_none_in_a_run_without_digests(copy: Path) -> None:
    without_digests(copy)
    lines = (copy / "records.jsonl").read_text().splitlines(keepends=True)
    (copy / "records.jsonl").write_text("".join([*lines[:3], "{}\n", *lines[4:]]))
    refused(copy, "records.jsonl:4: not a record", resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_something_else(tmp_path: Path, resume: bool) -> None:
    folder = tmp_path / "thesis"
    (folder / "chapters").mkdir(parents=True)
    (folder / "chapters" / ".writing-one").write_text("not ours")
    refused(folder, f"{folder} is not empty and holds no run", "--out", resume=resume)


def test_what_a_killed_run_was_writing_is_no_obstacle(tmp_path: Path, complete: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".writing-abc").write_text("{")
    run(folder, resume=True)
    check_same(folder, complete)
    assert not list(folder.rglob(".writing-*"))


def test_resuming_does_again_what_was_changed(
    copy: Path, work: Counter[str], complete: Path
) -> None:
    flip(copy / "records.jsonl", *first_value(copy, "records.jsonl", "value"))
    first = records(copy)[0]
    with pytest.warns(
        UserWarning, match=r"records\.jsonl .* changed after the run; computed again"
    ):
        run(copy, resume=True)
    label = f"seed {first['seed']}"
    assert work == Counter([f"{first['method']} {label}", f"{first['model']} {label}"])
    check_same(copy, complete)
    assert Run(copy).changed == ()


@pytest.mark.parametrize("name", ["records.jsonl", "costs.jsonl"])
def test_resuming_does_all_again_where_nothing_can_be_read(
    copy: Path, complete: Path, work: Counter[str], name: str
) -> None:
    (copy / name).write_text("{}\n")
    with pytest.warns(UserWarning, match=f"{name} .* changed after the run; computed again"):
        run(copy, resume=True)
    assert set(work) >= {f"{method} seed {seed}" for method in METHODS for seed in range(SEEDS)}
    check_same(copy, complete)


def test_a_changed_description_makes_all_methods_again(
    copy: Path, complete: Path, work: Counter[str]
) -> None:
    content = json.loads((copy / "run.json").read_text())
    content["duplicates_of_id_images"] = {"letters": 3}
    (copy / "run.json").write_text(json.dumps(content))
    refused(copy, "run.json changed after the run. Lost:", resume=True, methods=METHODS[:1])
    assert run(copy, resume=True).complete
    check_same(copy, complete)
    assert work["SoftMax+MSP seed 0"] == 1
    assert oodbench.verify(copy).discrepancies == ()


def test_resuming_makes_the_history_again(copy: Path, complete: Path, work: Counter[str]) -> None:
    flip(copy / "training.jsonl", *first_value(copy, "training.jsonl", "train_loss"))
    with pytest.warns(UserWarning, match=r"training\.jsonl changed after the run"):
        run(copy, resume=True)
    assert not [name for name in work if "+" in name], "no method is done again"
    assert (copy / "training.jsonl").read_bytes() == (complete / "training.jsonl").read_bytes()


@pytest.mark.parametrize("options", [{"methods": ["SoftMax+ODIN"]}, {"seeds": 1}])
def test_changed_records_are_not_lost(copy: Path, options: dict[str, Any]) -> None:
    (copy / "records.jsonl").write_text("")
    refused(copy, "changed after the run", "DisMax+Entropy (seed 1)", resume=True, **options)
