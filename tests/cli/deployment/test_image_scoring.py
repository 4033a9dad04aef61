"""`oodbench score`: lines as they are computed, what is skipped, and the page."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import Command, Done
from helpers.tiny_content import check_refusal

import oodbench
from oodbench.cli.streams import ReaderLeft
from oodbench.deploy.deployed_model import Preparation
from oodbench.models.classifier import Classifier
from oodbench.plugins.catalog import Catalog
from oodbench.specs import ModelSpec

pytestmark = pytest.mark.usefixtures("one_thread", "empty_folder")


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def score(command: Command, *arguments: str | Path) -> Done:
    return command("score", *arguments, "--device", "cpu", "--workers", "0")


def test_a_line_an_image(command: Command, artifact: Path, images: Path) -> None:
    """In the order of the files, with the scores and the decisions of the artifact."""
    done = score(command, artifact, images / "digits")
    assert done.code == 0, done.err
    found = rows(done.out)
    paths = sorted((images / "digits").rglob("*.png"), key=str)
    assert [row["path"] for row in found] == list(map(str, paths))
    fitted = oodbench.load_fitted(artifact, device="cpu")
    wanted = fitted.predict(images / "digits")
    assert [float(row["score"]) for row in found] == wanted.scores.tolist()
    assert [row["decision"] == "accept" for row in found] == wanted.accepted.tolist()
    assert {row["decision"] for row in found} <= {"accept", "reject"}
    classes = fitted.model.classes
    assert [classes.index(row["prediction"]) for row in found] == wanted.predictions.tolist()
    accepted = int(wanted.accepted.sum())
    assert f"40 images scored; {accepted} accepted" in done.err
    lines = score(command, artifact, images / "digits", "--format", "jsonl")
    assert [json.loads(line) for line in lines.out.splitlines()] == [
        {**row, "score": float(row["score"])} for row in found
    ]


def test_a_file_of_lines_in_batches(command: Command, artifact: Path, images: Path) -> None:
    done = score(command, artifact, images / "digits", "--out", "new/s.csv", "--batch-size", "7")
    assert done.code == 0, done.err
    assert done.out == ""
    found = rows(Path("new/s.csv").read_text())
    again = rows(score(command, artifact, images / "digits").out)
    assert [row["path"] for row in found] == [row["path"] for row in again]
    for column, row in zip(again, found, strict=True):
        assert float(row["score"]) == pytest.approx(float(column["score"]), rel=1e-5)


def test_what_cannot_be_read_is_reported(
    command: Command, artifact: Path, images: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(images / "digits/one", tmp_path / "one"))
    good = sorted(map(str, folder.iterdir()))
    (folder / "00.png").write_bytes(Path(good[0]).read_bytes()[:50])
    (folder / "zz.jpg").write_text("no image")
    (folder / "notes.md").write_text("no image")
    done = score(command, artifact, folder)
    assert done.code == 3
    assert [row["path"] for row in rows(done.out)] == good
    assert "00.png is skipped: image file is truncated." in done.err
    assert "zz.jpg is skipped: it is not an image of a known format." in done.err
    assert "1 file without the suffix of an image left out (.md)." in done.err
    assert "2 skipped." in done.err
    alone = score(command, artifact, folder / "zz.jpg", "--explain", "page.html")
    assert alone.code == 3
    assert alone.out == "path,prediction,score,decision\n"
    assert "0 images scored; 1 skipped." in alone.err
    assert "zz.jpg" in Path("page.html").read_text()


def test_truth_and_the_page(command: Command, artifact: Path, images: Path) -> None:
    done = score(
        *(command, artifact, images / "digits", "--labels", "--ood", images / "letters"),
        *("--explain", "page.html"),
    )
    assert done.code == 0, done.err
    found = rows(done.out)
    assert [row["truth"] for row in found[40:]] == ["OOD"] * 40
    assert all(row["truth"] == Path(row["path"]).parent.name for row in found[:40])
    right = np.mean([row["truth"] == row["prediction"] for row in found[:40]])
    assert f"{100 * right:.1f} % of the ID images are classified correctly." in done.err
    for name, part in (("ID", found[:40]), ("OOD", found[40:])):
        rate = np.mean([row["decision"] == "accept" for row in part])
        assert f"{100 * rate:.1f} % of the {name} images are accepted" in done.err
    page = Path("page.html").read_text()
    for text in ("Nearest to the threshold", "Least in-distribution", "data:image/png;base64,"):
        assert text in page


def test_labels_of_lists_and_numbers(
    command: Command, artifact: Path, images: Path, tmp_path: Path
) -> None:
    one = next((images / "digits/one").iterdir())
    (tmp_path / "list.txt").write_text(f"{one}\t1\n")
    assert rows(score(command, artifact, "list.txt", "--labels").out)[0]["truth"] == "one"
    (tmp_path / "list.txt").write_text(f"{one}\tones\n")
    check_refusal(score(command, artifact, "list.txt", "--labels"), "'ones'", "'one'", "--ood")
    check_refusal(score(command, artifact, one, "--labels"), "--labels", "has no class")


def test_without_a_threshold_decisions_are_empty(
    command: Command, artifact: Path, images: Path, tmp_path: Path
) -> None:
    fitted = oodbench.load_fitted(artifact, device="cpu")
    fitted.threshold = None
    fitted.save(tmp_path / "other")
    done = score(command, tmp_path / "other", images / "digits/one", "--explain", "page.html")
    assert done.code == 0, done.err
    assert {row["decision"] for row in rows(done.out)} == {""}
    assert done.err.count("no threshold") == 1
    assert "accepted" not in done.err
    assert "Threshold: none" in Path("page.html").read_text()


def test_code_of_the_users_runs_if_it_is_named(
    command: Command, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(
        "from oodbench import models\n\n"
        "def build():\n    return models.create('resnet8', 10, 'softmax', 1)\n"
    )
    name = f"{tmp_path / 'net.py'}:build"
    network = oodbench.models.create("resnet8", 10, "softmax", 1)
    given = {"network": name, "head": "softmax", "checkpoint": [{"path": "weights.pt"}]}
    fitted = oodbench.FittedDetector.of_classifier(
        "Energy",
        Catalog().load_detector("energy"),
        Classifier(network, (0.3,), (0.3,)).eval(),
        ModelSpec.model_validate(given),
        Preparation((1, 8, 8), None),
        num_classes=10,
    )
    fitted.save(tmp_path / "own")
    refused = score(command, tmp_path / "own", images / "letters")
    check_refusal(refused, "code of your own", f"--model {name}")
    done = score(command, tmp_path / "own", images / "letters", "--model", name)
    assert done.code == 0, done.err
    scores = [float(row["score"]) for row in rows(done.out)]
    assert scores == fitted.score(images / "letters").tolist()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "img"], ["nowhere", "no saved detector"]),
        (["nowhere", "img", "lost"], ["no saved detector nowhere, and no file or folder lost."]),
        (["img", "nowhere"], ["no file or folder nowhere"]),
        (["img", "img", "--workers", "-1"], ["--workers"]),
        (["img", "img", "--batch-size", "0"], ["--batch-size"]),
        (["img", "img", "--format", "xml"], ["--format"]),
        (["img"], ["FILE|DIR"]),
    ],
)
def test_bad_arguments(
    command: Command, images: Path, tmp_path: Path, arguments: list[str], said: list[str]
) -> None:
    (tmp_path / "img").symlink_to(images)
    check_refusal(command("score", *arguments), *said)


def test_a_file_that_cannot_be_written(command: Command, artifact: Path, images: Path) -> None:
    Path("there").mkdir()
    done = score(command, artifact, images / "digits", "--out", "there")
    check_refusal(done, "Cannot write there", "Is a directory")


def test_a_reader_that_leaves(
    command: Command, artifact: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `head` does."""

    def gone(text: str) -> int:
        raise ReaderLeft

    monkeypatch.setattr(sys.stdout, "write", gone, raising=False)
    done = score(command, artifact, images / "digits")
    assert (done.code, done.out) == (0, "")
    assert "Traceback" not in done.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_whole_lines(artifact: Path, images: Path, tmp_path: Path) -> None:
    """In a process of its own, which is stopped in the middle."""
    first = sorted((images / "digits").rglob("*.png"), key=str)
    names = [str(path) for path in first] * 200
    (tmp_path / "list.txt").write_text("\n".join(names))
    running = subprocess.Popen(
        [
            *(sys.executable, "-m", "oodbench", "score", artifact, "list.txt", "--out", "s.csv"),
            *("--batch-size", "4", "--workers", "1", "--device", "cpu"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell may ignore it
    )
    out = tmp_path / "s.csv"
    ended = time.monotonic() + 120
    while not (out.exists() and out.read_text().count("\n") > 20) and time.monotonic() < ended:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 3, said
    assert "Traceback" not in said
    text = out.read_text()
    assert text.endswith("\n")
    found = rows(text)
    assert 20 <= len(found) < len(names)
    assert said.endswith(f"Interrupted: {len(found):,} of 8,000 images scored.\n")
    assert all(row["decision"] in ("accept", "reject") for row in found)
