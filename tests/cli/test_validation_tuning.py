"""A run that is tuned on one OOD validation set, with detectors that are fitted elsewhere.

It says so in its records, in `run.json`, and in every table, page and export.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import Command
from helpers.tiny_benchmark import tiny_benchmark

import oodbench
from oodbench.errors import UserError
from oodbench.results import Run

METHODS = {
    "SoftMax+MSP": "baseline",
    "SoftMax+GEN": "gen",
    "SoftMax+KNN": "knn",
    "SoftMax+ReAct": "react",
    "SoftMax+ReActOracle": "{model: SoftMax, detector: react, tuning: ood_oracle}",
    "SoftMax+Mahalanobis": "mahalanobis",
    "SoftMax+ViM": "vim",
}
TINY = tiny_benchmark(
    METHODS,
    ood="{near: [letters], far: [uniform-noise]}",
    tuning=(
        "{protocol: ood_validation, ood: letters, grids: {gen: {gamma: [1.0, 0.1], top_m: [10, "
        "50]}, vim: {dim: [16, 1000]}, mahalanobis: {epsilon: [0.0, 0.01]}}}"
    ),
    fit_split="{react: validation}",
    parameters="{knn: {k: 10}}",
)
SAME = (
    "The validation images of letters and the test images of letters are of the same source. "
    "There, methods that are tuned on these validation images have an advantage."
)
FITTED = "Fitted on the validation images of the ID set, not on its training images: react."


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("place")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OODBENCH_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def done(place: Path) -> Run:
    run = oodbench.run("tiny.yaml", out="run", seeds=1, device="cpu")
    assert run.complete
    return run


def plain(text: str) -> str:
    """A text of any format on one line, without tags, escapes and borders."""
    return " ".join(re.sub(r"<[^>]*>|[│\\]", " ", text).split())


def test_records_say_how_each_method_was_tuned_and_fitted(done: Run) -> None:
    said = {(r.method, r.tuned_on, r.tuning_ood, r.fit_split) for r in done.records}
    assert said == {
        ("SoftMax+MSP", "none", None, None),
        ("SoftMax+GEN", "ood_validation", "letters", None),
        ("SoftMax+KNN", "ood_validation", "letters", None),
        ("SoftMax+ReAct", "ood_validation", "letters", "validation"),
        ("SoftMax+ReActOracle", "ood_oracle", None, "validation"),
        ("SoftMax+Mahalanobis", "ood_validation", "letters", None),
        ("SoftMax+ViM", "ood_validation", "letters", None),
    }
    same = {(r.tuning_ood, r.ood_dataset) for r in done.records if r.same_source}
    assert same == {("letters", "letters")}
    costs = {cost.method: cost.ood_or_adversarial_samples for cost in done.costs}
    assert costs == {name: name != "SoftMax+MSP" for name in METHODS}
    chosen = {r.method: r.detector_params for r in done.records}
    assert chosen["SoftMax+ViM"]["dim"] == 16
    assert chosen["SoftMax+GEN"]["top_m"] == 10, "10 classes: 50 has no effect"


def test_run_json_and_notes(done: Run) -> None:
    described = json.loads((done.folder / "run.json").read_text())
    methods = {each["name"]: each for each in described["methods"]}
    react, gen = methods["SoftMax+ReAct"], methods["SoftMax+GEN"]
    assert (react["fit_split"], react["tuning_ood"], react["same_source"]) == (
        "validation",
        "letters",
        ["letters"],
    )
    assert (gen["fit_split"], methods["SoftMax+MSP"]["tuning_ood"]) == ("", "")
    assert set(described["checksums"]["data"]["letters"]) == {"test", "validation"}
    assert set(described["checksums"]["data"]["uniform-noise"]) == {"test"}
    notes = {name.partition("/")[0]: each for name, each in described["notes"].items()}
    (note,) = notes["SoftMax+GEN"]
    assert note == (
        "tuned without 2 of 4 settings, which score the tuning images as others do: top_m 50 as "
        "top_m 10"
    )
    (note,) = notes["SoftMax+ViM"]
    assert note.startswith("tuned without 1 of 2 settings, which failed: a principal")


def test_every_format_says_it(done: Run) -> None:
    board = done.leaderboard()
    texts = {
        "text": board.to_text(width=220),
        "md": board.to_markdown(),
        "html": board.to_html(),
        "latex": board.to_latex(),
    }
    for name, text in texts.items():
        said = plain(text)
        assert "OOD validation (letters)" in said, name
        for note in (SAME, FITTED):
            assert note in said, f"{name} has no note: {note}"
    rows = {row["method"]: row for row in json.loads(board.to_json())["methods"]}
    react = rows["SoftMax+ReAct"]
    assert (react["tuned_on"], react["tuning_ood"], react["fit_split"], react["same_source"]) == (
        "ood_validation",
        "letters",
        "validation",
        ["letters"],
    )
    assert react["section"] == "ranked"
    lines = list(csv.DictReader(io.StringIO(board.to_csv())))
    found = {(line["method"], line["tuned_on"], line["tuning_ood"]) for line in lines}
    assert ("SoftMax+KNN", "ood_validation", "letters") in found
    assert ("SoftMax+MSP", "none", "") in found
    frame = board.to_pandas().set_index("method")
    assert frame.loc["SoftMax+ReAct", "fit_split"] == "validation"


def test_command_line(done: Run, command: Command) -> None:
    assert command("verify", "run").code == 0
    shown = command("report", "run")
    assert shown.code == 0
    assert "OOD validation" in shown.out
    planned = command("run", "tiny.yaml", "--dry-run", "--seeds", "1")
    assert planned.code == 0
    for words in ("validation OOD letters", SAME, FITTED):
        assert words in plain(planned.out)
    site = command("site", "run", "--out", "site")
    assert site.code == 0, site.err
    page = plain("".join(path.read_text() for path in sorted(Path("site").rglob("*.html"))))
    for words in ("OOD validation (letters)", SAME, FITTED, "Fitted on"):
        assert words in page


def test_verify_finds_changed_labels(done: Run, command: Command, tmp_path: Path) -> None:
    for field, value in (
        ('"tuning_ood":"letters"', '"tuning_ood":null'),
        ('"fit_split":"validation"', '"fit_split":null'),
        ('"same_source":true', '"same_source":null'),
    ):
        folder = tmp_path / field[1:5]
        folder.mkdir()
        for path in done.folder.rglob("*"):
            if path.is_file():
                target = folder / path.relative_to(done.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        records = folder / "records.jsonl"
        text = records.read_text()
        assert field in text
        records.write_text(text.replace(field, value, 1))
        checked = command("verify", str(folder))
        assert checked.code == 1
        assert field.split('"')[1] in checked.out


def test_comparison_of_protocols(done: Run, place: Path, command: Command) -> None:
    (place / "other").mkdir()
    (place / "other" / "tiny.yaml").write_text(
        TINY.replace("fit_split: {react: validation}", "fit_split: {}")
    )
    other = oodbench.run("other/tiny.yaml", out="moved", seeds=1, device="cpu", methods=["react"])
    assert other.complete
    compared = command("compare", "run", "moved")
    assert (
        "other protocol: fitted on the validation images in the base, train in the head"
        in plain(compared.out)
    )
    with pytest.raises(UserError, match=r"another state of 'tiny' \(fit_split\.react\)"):
        oodbench.run("other/tiny.yaml", out="run", seeds=1, device="cpu", resume=True)


def test_resumed_run_is_the_same(done: Run, place: Path) -> None:
    part = oodbench.run("tiny.yaml", out="part", seeds=1, device="cpu", methods=["knn", "gen"])
    whole = oodbench.run("tiny.yaml", out="part", seeds=1, device="cpu", resume=True)
    assert part.complete
    assert whole.complete
    for name in METHODS:
        values = [
            {(r.ood_dataset, r.metric): r.value for r in run.records if r.method == name}
            for run in (done, whole)
        ]
        assert values[0] == values[1], name
    assert np.isfinite([r.value for r in whole.records]).all()
