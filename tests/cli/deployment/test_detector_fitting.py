"""`oodbench fit`: a method of a run is fitted again as it was, or the reason why it cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import Command
from helpers.finished_run import forget
from helpers.tiers import by_default
from helpers.tiny_content import check_refusal

import oodbench
from oodbench.data.splits import load_split
from oodbench.metrics.thresholds import acceptance
from oodbench.plugins.catalog import Catalog

pytestmark = pytest.mark.usefixtures("one_thread", "kept_networks", "empty_folder")


def described(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "run.json").read_text())
    return found


@pytest.mark.parametrize(
    ("method", "used"),
    by_default(
        [("SoftMax+KNN", ""), ("SoftMax+Mahalanobis", "was tuned on the images")],
        [
            ("SoftMax+KNN", ""),
            ("SoftMax+ODIN", "was tuned on the images"),
            ("SoftMax+Mahalanobis", "was tuned on the images"),
        ],
    ),
)
def test_it_scores_as_in_the_run(
    command: Command, run_of_methods: Path, tmp_path: Path, method: str, used: str
) -> None:
    """Fitted, tuned and calibrated; also after the artifact is loaded."""
    out = tmp_path / "artifact"
    done = command("fit", run_of_methods, method, "--out", out, "--device", "cpu")
    assert done.code == 0, done.err
    assert "scores of 64 ID test images" in done.err
    assert used in done.err
    assert bool(used) == ("warning" in done.err)
    fitted = oodbench.load_fitted(out, device="cpu")
    stored = np.load(run_of_methods / "scores" / fitted.name / "seed0.npz")
    images = load_split(Catalog().dataset("digits"), "test").images
    # Batches of another size are rounded otherwise.
    np.testing.assert_allclose(fitted.score(images), stored["id"], rtol=1e-6)
    limit = fitted.threshold
    assert limit is not None
    assert (limit.accept, limit.images) == (0.95, 300)
    assert f"Threshold {limit.value:.10g}, set on 300 ID validation images" in done.out
    for name, shown in (("id", "digits (ID)"), ("letters", "letters (near)")):
        line = next(line for line in done.out.splitlines() if line.startswith(shown))
        found = acceptance(stored[name], limit.value)
        rates = [f"{100 * rate:.1f}" for rate in (found.rate, found.low, found.high)]
        assert line.removeprefix(shown).split() == [*rates[:2], "to", rates[2], "600"]
    assert f"oodbench score {out} FOLDER" in done.out


def test_a_method_that_is_tuned_on_each_ood_set(
    command: Command, run_of_methods: Path, tmp_path: Path
) -> None:
    """The detector of an OOD set is fitted, which scored the ID images apart."""
    out = tmp_path / "artifact"
    done = command("fit", run_of_methods, "SoftMax+Oracle", "--out", out, "--ood", "letters")
    assert done.code == 0, done.err
    assert "scores of 64 ID test images" in done.err
    assert "tuned on letters" in done.out
    assert "digits (ID)" in done.out
    wrong = command("fit", run_of_methods, "SoftMax+Oracle", "--out", out, "--ood", "letter")
    check_refusal(wrong, "--ood", "'letter'", "Did you mean 'letters'?")


def test_another_rate_and_too_few_images_for_it(
    command: Command, run_of_methods: Path, tmp_path: Path
) -> None:
    out = tmp_path / "artifact"
    refused = command("fit", run_of_methods, "knn", "--out", out, "--accept", "0.999")
    check_refusal(refused, "--accept 0.999", "At least 999 are needed.", "at most --accept 0.996")
    assert not out.exists()
    lower = command("fit", run_of_methods, "knn", "--out", out, "--accept", "0.8")
    assert "accept 80 % of ID images" in lower.out
    assert json.loads((out / "artifact.json").read_text())["threshold"]["accept"] == 0.8


def test_scores_of_the_run_are_missing_or_others(
    command: Command, run_of_methods: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run_of_methods, tmp_path / "copy"))
    path = copy / "scores" / "SoftMax+KNN" / "seed0.npz"
    arrays = dict(np.load(path))
    np.savez(path, **{**arrays, "id": arrays["id"] + 1})
    done = command("fit", copy, "knn", "--out", tmp_path / "a")
    assert done.code == 0
    assert "warning: Scores of the first 64 ID test images differ" in done.err
    assert "seed0.npz changed after the run" in done.err
    path.unlink()
    done = command("fit", copy, "knn", "--out", tmp_path / "a")
    assert done.code == 0
    assert "The scores of the run are not compared" in done.err
    assert "digits (ID)" not in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["KNM"], ["no method 'KNM'", "Did you mean 'knn'?"]),
        (["SoftMax+DisMaxEntropy"], ["was skipped", "needs a DisMax head"]),
        (["odin"], ["several methods", "SoftMax+ODIN, SoftMax+Oracle"]),
        (["knn", "--seed", "1"], ["--seed", "with seed 1", "for 0"]),
        (["knn", "--ood", "letters"], ["--ood", "not tuned on each OOD set"]),
        (["knn", "--accept", "95"], ["--accept", "0.95"]),
        (["knn", "--device", "gpu"], ["device"]),
    ],
)
def test_bad_arguments(
    command: Command, run_of_methods: Path, arguments: list[str], said: list[str]
) -> None:
    check_refusal(command("fit", run_of_methods, *arguments, "--out", "artifact"), *said)
    assert not Path("artifact").exists()


def test_a_detector_that_the_run_left_out(
    command: Command, run_of_methods: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run_of_methods, tmp_path / "copy"))
    description = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(description | {"left_out": ["nci"]}))
    refused = command("fit", copy, "nci", "--out", "a")
    check_refusal(refused, "no method 'nci'", "left out", f"{copy} --resume --methods nci")


def test_bad_places(
    command: Command, run_of_methods: Path, suite_run: tuple[object, Path], tmp_path: Path
) -> None:
    check_refusal(command("fit", tmp_path, "knn", "--out", "a"), "holds no run")
    check_refusal(command("fit", suite_run[1], "knn", "--out", "a"), "of a suite", "one of its")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    check_refusal(command("fit", run_of_methods, "knn", "--out", "full"), "full")
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_a_model_or_images_that_are_not_those_of_the_run(
    command: Command, run_of_methods: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(run_of_methods, tmp_path / "copy"))
    text = (copy / "run.json").read_text()
    checksums = json.loads(text)["checksums"]
    for now, said in (
        (checksums["checkpoints"]["SoftMax/seed0"], "The checkpoint of SoftMax, seed 0, is not"),
        (checksums["data"]["digits"]["train"], "The train images of 'digits' are not those"),
    ):
        (copy / "run.json").write_text(text.replace(now, "0" * 64))
        check_refusal(command("fit", copy, "knn", "--out", "a"), said, now[:16], "0" * 16)
    (copy / "run.json").write_text(text)
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "empty"))
    refused = command("fit", copy, "knn", "--out", "a")
    check_refusal(refused, "not in the cache", "oodbench train tiny --model SoftMax --seed 0")


def test_without_results_or_plug_ins(
    command: Command, run_of_methods: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run_of_methods, tmp_path / "copy"))
    forget(copy, lambda record: record["method"] != "SoftMax+KNN")
    check_refusal(command("fit", copy, "knn", "--out", "a"), "no results", "did not run")
    description = described(copy)
    description["plugins"] = ["gone"]
    (copy / "run.json").write_text(json.dumps(description))
    check_refusal(
        command("fit", copy, "SoftMax+ODIN", "--out", "a"), "gone, is not there", "--plugins"
    )
