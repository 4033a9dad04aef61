"""Full-spectrum benchmarks: images of csID sets count as ID in every metric and in the accuracy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.plans import benchmark as mine
from helpers.plans import plan as plan_of
from helpers.recorders import recorder
from helpers.tiny_benchmark import tiny_benchmark

import oodbench
from oodbench import metrics
from oodbench.data import load_split
from oodbench.data.loaded_splits import LoadedSplits
from oodbench.engine.method_results import Evaluation, MethodResult
from oodbench.errors import UserError
from oodbench.planning.workload import passes_of
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Silent
from oodbench.report import differences
from oodbench.report.joint_leaderboard import join
from oodbench.results import Run
from oodbench.run_comparison import delong
from oodbench.storage.predictions import Predictions
from oodbench.storage.run_directory import RunDirectory, arrays_content, scores_name
from oodbench.storage.stored_run import read_stored_run
from oodbench.training.trained_models import ModelStore
from oodbench.verification.run_verification import verify_run

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = ("SoftMax+MSP", "SoftMax+Entropy")
SHIFTED = """\
schema_version: 1
name: {name}
title: Noisy digits
summary: Digits with noise
kind: npz
paths: {{test: test.npz}}
shape: [1, 8, 8]
{classes}
splits: {{test: {images}}}
license: CC0-1.0
citation: none
"""
IMAGES = {"noisy": 240, "noisier": 90}


def write_content(folder: Path) -> None:
    """Two csID sets of digits with noise, and benchmarks with and without them."""
    digits = load_split(Catalog().dataset("digits"), "test")
    assert digits.labels is not None
    generator = np.random.default_rng(3)
    for strength, (name, count) in enumerate(IMAGES.items(), start=1):
        (folder / "data" / name).mkdir(parents=True)
        chosen = generator.permutation(len(digits))[:count]
        noise = generator.normal(0, 0.2 * strength, size=digits.images[chosen].shape)
        images = (255 * np.clip(digits.images[chosen] + noise, 0, 1)).astype(np.uint8)[:, 0]
        np.savez(folder / "data" / name / "test.npz", images=images, labels=digits.labels[chosen])
    for part in ("benchmarks", "data_manifests"):
        (folder / part).mkdir()
    for name, images in {**IMAGES, "unlabeled": 10}.items():
        classes = "" if name == "unlabeled" else "num_classes: 10"
        text = SHIFTED.format(name=name, images=images, classes=classes)
        (folder / "data_manifests" / f"{name}.yaml").write_text(text)
    text = tiny_benchmark(
        {"SoftMax+MSP": "baseline", "SoftMax+Entropy": "entropy"},
        ood="{near: [letters], far: [uniform-noise]}",
        tuning="{protocol: none}",
        training="{epochs: 3, batch_size: 128, learning_rate: 0.1, test_accuracy: last}",
    )
    (folder / "benchmarks" / "tiny.yaml").write_text(text)
    sets = json.dumps(list(IMAGES))
    (folder / "benchmarks" / "tiny-fs.yaml").write_text(
        f"extends: tiny\nname: tiny-fs\ncsid: {sets}\n"
    )
    (folder / "other").mkdir()
    (folder / "other" / "tiny-fs.yaml").write_text("extends: tiny\nname: tiny-fs\ncsid: [noisy]\n")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("spectrum")
    write_content(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OODBENCH_CACHE", str(folder / "cache"))
        patch.setenv("OODBENCH_PLUGINS", str(folder))
        patch.setenv("OODBENCH_DATA", str(folder / "data"))
        yield folder


def run(out: Path, name: str = "tiny-fs", **options: Any) -> Run:
    return oodbench.run(name, out=out, device="cpu", **({"seeds": 2} | options))


@pytest.fixture(scope="module")
def done(content: Path) -> Run:
    found = run(content / "run")
    assert found.complete, found.failures
    return found


# --- by hand ------------------------------------------------------------------------------------


def hand_made(csid: tuple[str, ...]) -> dict[str, tuple[float | None, int | None]]:
    """Metric -> value and number of ID images, of six images."""
    (method,) = plan_of(mine(), methods=["SoftMax+MSP"]).methods
    result = MethodResult()
    detector = oodbench.load_detector("baseline")
    result.detectors = {"far": detector}
    result.scores = {
        "id": np.array([3.0, 5.0]),
        "shifted": np.array([1.0, 4.0]),
        "far": np.array([2.0, 0.0]),
    }
    sure = np.full(2, 0.9)
    predictions = {"id": Predictions(np.array([True, True]), sure)}
    predictions |= {name: Predictions(np.array([False, True]), sure) for name in csid}
    if not csid:
        del result.scores["shifted"]
    records = list(
        recorder(csid).quality(method, 0, Evaluation({method.name: result}, predictions))
    )
    assert {tuple(record.csid or ()) for record in records} == {csid}
    return {record.metric: (record.value, record.n_id) for record in records}


def test_scores_of_six_images() -> None:
    """ID 3, 5; csID 1, 4; OOD 2, 0: of the 8 pairs only (1, 2) is in the wrong order."""
    plain, full = hand_made(()), hand_made(("shifted",))
    assert plain["auroc"] == (1.0, 2)
    assert full["auroc"] == (7 / 8, 4)
    # To accept 95 % of the four ID images, the threshold is 1, which accepts the OOD image 2.
    assert plain["tnr_at_95_tpr"] == (1.0, 2)
    assert full["tnr_at_95_tpr"] == (0.5, 4)
    # To reject both OOD images, the threshold is above 2, which rejects the csID image 1.
    assert plain["fpr95_ood_positive"] == (0.0, 2)
    assert full["fpr95_ood_positive"] == (0.25, 4)
    # At the threshold 1 + (1 + 1/2) / 2, at 3 + (3/4 + 1) / 2: the better one.
    assert plain["dtacc"] == (1.0, 2)
    assert full["dtacc"] == (0.875, 4)
    # Three of the four images that count as ID are classified right.
    assert plain["id_accuracy"] == (1.0, 2)
    assert full["id_accuracy"] == (0.75, 4)


def test_joined_scores_keep_the_order_of_the_benchmark() -> None:
    scores = {name: np.array([value]) for value, name in enumerate(["far", "b", "id", "a"])}
    found = differences.joined(scores, ("a", "b"))
    assert {name: list(values) for name, values in found.items()} == {"far": [0], "id": [2, 3, 1]}
    assert differences.joined(scores, ()) is scores
    with pytest.raises(UserError, match="scores of 'c', whose images count as ID, are missing"):
        differences.joined(scores, ("a", "c"))


# --- a run --------------------------------------------------------------------------------------


def test_csid_sets_are_stored_apart_and_counted_together(done: Run) -> None:
    for method in METHODS:
        scores = done.scores(method, 1)
        assert {name: len(values) for name, values in scores.items()} == {
            "id": 600,
            **IMAGES,
            "letters": 600,
            "uniform-noise": 600,
        }
        known = np.concatenate([scores["id"], scores["noisy"], scores["noisier"]])
        for ood in ("letters", "uniform-noise"):
            (record,) = (
                r
                for r in done.records
                if (r.method, r.seed, r.ood_dataset, r.metric) == (method, 1, ood, "auroc")
            )
            higher = (known[:, None] > scores[ood]).mean() + (
                known[:, None] == scores[ood]
            ).mean() / 2
            assert record.value == pytest.approx(higher, abs=1e-12)
            assert record.n_id == 930
            assert record.csid == list(IMAGES)


def test_accuracy_is_that_of_all_images_that_count_as_id(done: Run) -> None:
    spec = Catalog().benchmark("tiny-fs")
    manifests = {name: Catalog().dataset(name) for name in spec.names}
    data = LoadedSplits(manifests)
    classifier = ModelStore(spec, data, torch.device("cpu"), Silent()).trained("SoftMax", 0)
    right = []
    for name in ("digits", *IMAGES):
        images = data.get(name, "test")
        pixels = torch.from_numpy(np.array(images.images))
        with torch.no_grad():
            logits = classifier(pixels if pixels.is_floating_point() else pixels / 255)
        right.append(logits.argmax(dim=1).numpy() == images.labels)
    found = {r.value for r in done.records if r.metric == "id_accuracy" and r.seed == 0}
    assert found == {float(np.concatenate(right).mean())}
    assert right[0].mean() > right[1].mean() > right[2].mean(), "noise makes errors"


def test_reports_say_what_counts_as_id(done: Run) -> None:
    board = done.leaderboard()
    assert (board.csid, board.id_images) == (tuple(IMAGES), 930)
    text = board.to_markdown()
    said = "digits; images of noisy, noisier (csID) count as ID, 930 test images in all."
    assert said in text
    assert "Test accuracy of the models on all of these ID images: SoftMax " in text
    assert json.loads(board.to_json())["csid"] == list(IMAGES)


def test_a_run_is_verified_and_resumed(done: Run) -> None:
    assert not verify_run(done.folder).discrepancies
    before = (done.folder / "records.jsonl").read_bytes()
    assert run(done.folder, resume=True).complete
    assert (done.folder / "records.jsonl").read_bytes() == before


def test_a_changed_csid_score_is_found(done: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(done.folder, tmp_path / "copy"))
    key = ("SoftMax+MSP", 0)
    scores = RunDirectory(folder).read_scores(key)
    scores["noisier"] = scores["noisier"] - 10
    directory = RunDirectory(folder)
    directory.write(directory.read_description(), {scores_name(key): arrays_content(scores)})
    found = verify_run(folder).discrepancies
    assert any(each.field == "value" and "SoftMax+MSP" in each.record for each in found), found
    del scores["noisier"]
    directory.write(directory.read_description(), {scores_name(key): arrays_content(scores)})
    said = [each.reason for each in verify_run(folder).discrepancies]
    assert "The scores of 'noisier', whose images count as ID, are missing" in said, said
    with pytest.raises(UserError, match="'noisier', whose images count as ID"):
        oodbench.compare(done.folder, folder)


def test_records_with_other_csid_sets_are_found(done: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(done.folder, tmp_path / "copy"))
    text = (folder / "records.jsonl").read_text()
    directory = RunDirectory(folder)
    changed = text.replace('"csid":["noisy","noisier"],', "")
    assert changed != text
    directory.write(directory.read_description(), {"records.jsonl": changed})
    assert any(each.field == "csid" for each in verify_run(folder).discrepancies)


def test_paired_differences_are_those_of_the_joined_scores(done: Run) -> None:
    """Computed from the scores again, and by DeLong's method from the scores alone."""
    stored = done.differences
    directory = RunDirectory(done.folder)
    again = differences.from_scores(done.records, directory.read_scores, 100)
    assert [replace(each, run_id="") for each in again] == [
        replace(each, run_id="") for each in stored
    ]
    comparison = oodbench.compare(done.folder, done.folder)
    changes = [each for each in comparison.changes if each.metric == "auroc"]
    assert changes
    scores = differences.joined(done.scores("SoftMax+MSP", 0), tuple(IMAGES))
    parts = delong.components(scores["id"], scores["letters"])
    assert len(parts.id) == 930
    assert parts.id.mean() == pytest.approx(metrics.auroc(scores["id"], scores["letters"]))


def test_runs_with_other_csid_sets_are_not_compared(
    done: Run, content: Path, tmp_path: Path
) -> None:
    other = run(tmp_path / "other", str(content / "other" / "tiny-fs.yaml"), seeds=1)
    comparison = oodbench.compare(done.folder, other.folder)
    reasons = {each.reason for each in comparison.changes}
    assert reasons == {
        "other csID sets, which count as ID: noisy, noisier in the base, noisy in the head"
    }
    with pytest.raises(UserError) as raised:
        join([read_stored_run(each.folder) for each in (done, other)])
    assert "the csID is noisy, noisier in one and noisy in the other" in raised.value.message


def test_two_runs_are_on_one_leaderboard(done: Run, tmp_path: Path) -> None:
    other = run(tmp_path / "other")
    board = join([read_stored_run(each.folder) for each in (done, other)])
    assert board.tested
    assert board.csid == tuple(IMAGES)


# --- plans --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("content")
def test_a_pass_over_each_csid_set_is_planned() -> None:
    planned = plan_of(mine(csid=["noisy"]), catalog=Catalog(), methods=["SoftMax+MSP"])
    tested = {each.dataset: each.images for each in passes_of(planned) if each.purpose == "score"}
    assert tested == {
        "digits": 600,
        "noisy": 240,
        "letters": 600,
        "photo-patches": 600,
        "uniform-noise": 600,
    }


@pytest.mark.usefixtures("content")
def test_a_csid_set_has_the_classes_of_the_id_set() -> None:
    with pytest.raises(UserError) as raised:
        plan_of(mine(csid=["unlabeled"]), catalog=Catalog())
    said = "csid: 'unlabeled' has no classes, the ID set 'digits' 10."
    assert said in raised.value.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"csid": ["letters"]}, "csid: 'letters' is an OOD set"),
        ({"csid": ["digits"]}, "csid: 'digits' is the in-distribution data set"),
        ({"csid": ["noisy", "noisy"]}, "csid: 'noisy' is listed twice"),
        ({"csid": ["id"]}, "csid: 'id' is reserved"),
        ({"csid": ["noisy"], "tuning": {"protocol": "ood_oracle"}}, "csid: not together with"),
    ],
)
def test_csid_sets_that_cannot_be(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as raised:
        mine(**changes)
    assert said in raised.value.message
