"""Runs with `--limit`, `--epochs` and `--tune`: labeled everywhere, never mixed with others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import Command
from helpers.tiers import by_default
from helpers.tiny_benchmark import tiny_benchmark

import oodbench
from oodbench import api
from oodbench.errors import UserError
from oodbench.report import Leaderboard
from oodbench.results import Run

TINY = tiny_benchmark(
    {"SoftMax+MSP": "baseline", "SoftMax+KNN": "knn"},
    ood="{near: [letters], far: [uniform-noise]}",
    training="{epochs: 2, batch_size: 128, learning_rate: 0.1, test_accuracy: last}",
    tuning="{fgsm_step: 0.3, detectors: []}",
)
SUITE = """\
schema_version: 1
name: two
version: 1
title: Two
summary: S
members: {tiny: {network: R, id: D}}
"""
LABEL = "not the benchmark: limited to 200 images a set and 1 epoch"
SHORT: dict[str, Any] = {"limit": 200, "epochs": 1}


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("place")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "two.yaml").write_text(SUITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OODBENCH_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(folder)
        yield folder


def run(out: str | None, **options: Any) -> Run:
    return oodbench.run("tiny.yaml", out=out, seeds=1, device="cpu", **options)


@pytest.fixture(scope="module")
def short(place: Path) -> Run:
    done = run("short", **SHORT)
    assert done.complete
    return done


@pytest.fixture(scope="module")
def whole(place: Path) -> Run:
    return run("whole")


def described(run: Run) -> dict[str, Any]:
    content = json.loads((run.folder / "run.json").read_text())
    assert isinstance(content, dict)
    return content


def plain(text: str) -> str:
    """Words of a document, without what its format puts between them."""
    return " ".join(re.sub(r"[\\{}*|]|<[^>]*>", "", text).split())


@pytest.mark.parametrize(
    "form", by_default(["table", "json", "html"], ["table", "md", "csv", "json", "html", "latex"])
)
def test_every_form_of_report_is_labeled(
    short: Run,
    whole: Run,
    command: Command,
    form: str,
) -> None:
    for each in (short, whole):
        done = command("report", each.folder, "--format", form)
        assert done.code == 0
        assert (LABEL in plain(done.out)) == (each is short)


def test_every_file_is_labeled(short: Run) -> None:
    names = [path.name for path in short.folder.iterdir() if path.is_file()]
    assert {"records.jsonl", "costs.jsonl", "training.jsonl", "run.json"} < set(names)
    for name in names:
        assert LABEL in (short.folder / name).read_text(), name
    for name in ("records.jsonl", "costs.jsonl", "training.jsonl"):
        for line in (short.folder / name).read_text().splitlines():
            assert json.loads(line)["benchmark"] == f"tiny ({LABEL})"
    assert described(short)["benchmark"]["limited"] == {"images": 200, "epochs": 1}


def test_it_is_really_less(short: Run, whole: Run) -> None:
    for each, images, epochs in ((short, 200, 1), (whole, 600, 2)):
        tested = [record for record in each.records if record.ood_dataset]
        assert {(record.n_id, record.n_ood) for record in tested} == {(images, images)}
        assert [record.epoch for record in each.training] == list(range(1, epochs + 1))


def test_results_do_not_mix(short: Run, whole: Run) -> None:
    one, other = described(short), described(whole)
    assert one["run_id"] != other["run_id"]
    assert one["checksums"]["data"] != other["checksums"]["data"]
    assert not set(one["checksums"]["checkpoints"].values()) & set(
        other["checksums"]["checkpoints"].values()
    )
    with pytest.raises(UserError, match=r"not comparable.*limited to 200 images"):
        Leaderboard.from_records([*short.records, *whole.records], [])


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        ("short", {}),
        ("short", {"limit": 200}),
        ("short", {"limit": 199, "epochs": 1}),
        ("whole", SHORT),
        ("whole", {"epochs": 2}),
    ],
)
def test_resuming_with_another_limit_is_refused(
    short: Run, whole: Run, folder: str, options: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="their results do not mix"):
        run(folder, resume=True, **options)


def test_the_default_folder_says_so_too(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, short: Run
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    first = run(None, methods=["SoftMax+MSP"], **SHORT)
    assert first.folder.name.startswith("tiny-limited-2")
    again = run(None, resume=True, **SHORT)
    assert again.folder == first.folder
    assert {record.method for record in again.records} == {"SoftMax+MSP", "SoftMax+KNN"}


def test_a_suite_is_labeled(place: Path) -> None:
    done = api.run_suite("two.yaml", out="suite", seeds=1, device="cpu", tune="knn", **SHORT)
    assert done.complete, done.failures
    assert done.members["tiny"].folder == Path("suite/tiny")
    for name in ("md", "csv", "json", "html"):
        text = (done.folder / f"comparison.{name}").read_text()
        if name != "csv":  # a suite without tables has no lines
            assert LABEL in plain(text), name
    assert {record.benchmark for record in done.members["tiny"].records} == {f"tiny ({LABEL})"}
    assert {r.tuned_on for r in done.members["tiny"].records if r.detector == "knn"} == {"fgsm"}
    for options in ({}, {"limit": 200}, SHORT, {**SHORT, "tune": "none"}):
        with pytest.raises(UserError, match="their results do not mix"):
            api.run_suite("two.yaml", out="suite", seeds=1, device="cpu", resume=True, **options)
    again = {**SHORT, "tune": ["knn"]}
    assert api.run_suite(
        "two.yaml", out="suite", seeds=1, device="cpu", resume=True, **again
    ).complete


def test_what_was_typed_is_what_continues_a_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    def stop(*args: Any, **options: Any) -> None:
        assert (options["tune"], options["limit"], options["epochs"]) == ("knn", 200, 1)
        raise oodbench.errors.InterruptedRun(Path("a run"))

    monkeypatch.setattr(api, "run", stop)
    done = command("run", "tiny.yaml", "--limit", "200", "--epochs", "1", "--tune", "knn")
    assert done.code == 3
    assert "--resume --out 'a run' --tune knn --limit 200 --epochs 1" in done.err


@pytest.mark.parametrize("words", [["--limit", "0"], ["--epochs", "x"], ["--tune", "all,knn"]])
@pytest.mark.parametrize("dry", [True, False])
def test_what_is_not_valid_is_refused(
    command: Command,
    words: list[str],
    dry: bool,
) -> None:
    done = command("run", "tiny.yaml", *words, *(["--dry-run"] if dry else []))
    assert done.code == 2
    assert words[0] in done.err


# --- tuning ---------------------------------------------------------------------------------------


def test_a_search_space_that_is_not_tuned_is_said(whole: Run) -> None:
    untuned = {record.method: record.untuned for record in whole.records}
    assert untuned == {"SoftMax+MSP": None, "SoftMax+KNN": ["k"]}
    board = whole.leaderboard()
    for text in (board.to_text(), board.to_markdown(), board.to_html(), board.to_latex()):
        assert "Search space not tuned: knn (k)" in plain(text)
    rows = {row["method"]: row["untuned"] for row in json.loads(board.to_json())["methods"]}
    assert rows == {"SoftMax+MSP": [], "SoftMax+KNN": ["k"]}


def test_tuning_is_part_of_what_a_run_is(whole: Run) -> None:
    done = run("tuned", tune=["knn"], methods=["knn"])
    assert {record.tuned_on for record in done.records} == {"fgsm"}
    assert {record.untuned for record in done.records} == {None}
    assert "Search space not tuned" not in done.leaderboard().to_markdown()
    assert described(done)["benchmark"]["tuning"]["tune"] == ["knn"]
    assert described(done)["run_id"] != described(whole)["run_id"]
    for tune in (None, "all", "none"):
        with pytest.raises(
            UserError, match=r"another state of 'tiny' \(tuning\.tune\).*do not mix"
        ):
            run("tuned", tune=tune, methods=["knn"], resume=True)
    assert run("tuned", tune="knn", resume=True).complete


def test_words_do_not_make_another_run(whole: Run, place: Path) -> None:
    before = (whole.folder / "records.jsonl").read_bytes()
    path = place / "tiny.yaml"
    path.write_text(TINY.replace("For tests", "In other words").replace("Tiny", "Another title"))
    try:
        run("whole", resume=True)
    finally:
        path.write_text(TINY)
    assert described(whole)["benchmark"]["summary"] == "In other words"
    assert (whole.folder / "records.jsonl").read_bytes() == before
