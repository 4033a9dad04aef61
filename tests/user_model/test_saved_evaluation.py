"""`EvaluationResult.save`: a run directory like that of a benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.user_network import Net, evaluated, pairs
from torch import nn

import oodbench
from oodbench import EvaluationResult, Run, UserError
from oodbench.cli.main import main
from oodbench.run_comparison.changes import Verdict
from oodbench.training.state import tensors_digest
from oodbench.user_model.evaluation_description import weights_digest

pytestmark = pytest.mark.usefixtures("quick_evaluation")


@pytest.fixture
def result(trained: Net) -> EvaluationResult:
    return evaluated(trained, {"e": "energy", "mmles": "mmles", "k": "knn"}, metrics="aurc")


def opened(folder: Path) -> Run:
    run = oodbench.open_run(folder)
    assert isinstance(run, Run)
    return run


def test_what_is_saved_is_what_was_measured(
    result: EvaluationResult, trained: Net, tmp_path: Path
) -> None:
    run = opened(result.save(tmp_path / "run"))
    assert run.records == result.records
    assert run.differences == result.differences
    assert run.warnings == result.warnings
    for name, by_set in result.scores.items():
        found = run.scores(name)
        assert found.keys() == by_set.keys()
        for data, scores in by_set.items():
            np.testing.assert_array_equal(found[data], scores)
    verified = oodbench.verify(run.folder)
    assert not verified.discrepancies
    assert not [line for line in verified.unchecked if "costs" not in line]
    files = {path.name for path in run.folder.iterdir()}
    assert {"leaderboard.md", "summary.json", "quality.json", "cost.md"} <= files
    described = result.description
    assert described.status == "incomplete", "mmles was asked for and cannot run"
    assert described.benchmark["counts"]["fit_data"] == 256
    assert described.checksums.checkpoints == {"Net/seed0": weights_digest(trained)}
    assert described.checksums.data["id"].keys() == {"test", "train"}, "all that were read"


def test_changed_scores_are_found(result: EvaluationResult, tmp_path: Path) -> None:
    folder = result.save(tmp_path)
    (folder / "scores/e/seed0.npz").write_bytes((folder / "scores/k/seed0.npz").read_bytes())
    found = oodbench.verify(folder).discrepancies
    assert {"records.jsonl", "scores/e/seed0.npz"} <= {each.file for each in found}


def test_comparable_are_evaluations_of_the_same_images(trained: Net, tmp_path: Path) -> None:
    noise = {"noise": pairs(50, 2, "noise")}
    evaluated(trained, "energy", ood_data=noise).save(tmp_path / "one")
    evaluated(trained, "energy", ood_data=noise).save(tmp_path / "two")
    evaluated(trained, "energy", ood_data=noise, id_data=pairs(60, 7)).save(tmp_path / "other")
    same = oodbench.compare(tmp_path / "one", tmp_path / "two")
    assert {change.verdict for change in same.changes} == {Verdict.SAME}
    assert len(oodbench.leaderboard(tmp_path / "one", tmp_path / "two").rows) == 2
    other = oodbench.compare(tmp_path / "one", tmp_path / "other")
    assert {change.verdict for change in other.changes} == {Verdict.NOT_COMPARABLE}
    assert "id" in other.reason
    with pytest.raises(UserError, match="cannot share a leaderboard"):
        oodbench.leaderboard(tmp_path / "one", tmp_path / "other")


def test_images_without_labels_and_a_function(trained: Net, tmp_path: Path) -> None:
    unlabeled = [image for image, _ in pairs(30, 1)]
    model = trained.eval().__call__  # no weights are known
    for number, given in enumerate((trained, model)):
        found = evaluated(given, ["baseline"], id_data=unlabeled, validation_data=None)
        assert not oodbench.verify(found.save(tmp_path / str(number))).discrepancies
        assert bool(found.description.checksums.checkpoints) == (number == 0)


def test_a_lost_model_and_a_failed_detector(trained: Net, tmp_path: Path) -> None:
    models = {"good": trained, "bad": nn.Linear(3, 4)}
    found = evaluated(models, ["energy", "odin"], normalization=None)
    assert {record.status for record in found.records} == {"ok", "failed"}
    assert not oodbench.verify(found.save(tmp_path)).discrepancies
    assert found.description.status == "incomplete"


def test_a_folder_with_a_run_or_with_files_is_refused(
    result: EvaluationResult, tmp_path: Path
) -> None:
    result.save(tmp_path / "run")
    with pytest.raises(UserError, match="holds a run already"):
        result.save(tmp_path / "run")
    with pytest.raises(UserError, match="not empty"):
        result.save(tmp_path)


def test_a_label_that_is_no_name_of_a_folder(trained: Net, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a/b.*no name of a folder"):
        evaluated(trained, {"a/b": "energy"}).save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_made_again(
    result: EvaluationResult,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["fit", str(result.save(tmp_path / "run")), "k", "--out", str(tmp_path / "detector")]
    monkeypatch.setattr(sys, "argv", ["oodbench", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "saved evaluation" in message
    assert "result.fitted" in message


def test_digests_of_weights_in_half_precision() -> None:
    one = {"w": torch.arange(6.0).view(2, 3).to(torch.bfloat16), "n": torch.tensor(3)}
    other = {**one, "w": one["w"] + 1}
    assert tensors_digest(one) != tensors_digest(other)
    assert tensors_digest(one) == tensors_digest({**one, "w": one["w"].t().contiguous().t()})
