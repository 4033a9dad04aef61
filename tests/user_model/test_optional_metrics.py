"""Metrics on request of `oodbench.evaluate`."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.user_network import Net, evaluated, made

from oodbench import metrics
from oodbench.errors import UserError
from oodbench.metrics import OPTIONAL
from oodbench.verification.run_verification import verify_run

pytestmark = pytest.mark.usefixtures("quick_evaluation")


def test_with_labels(trained: Net) -> None:
    result = evaluated(trained, ["energy"], metrics=["oscr", "ece"])
    known, scores = result.predictions["Net"], result.scores["energy"]
    oscr = metrics.oscr(scores["id"], known.correct, scores["noise"])
    found = {(r.metric, r.ood_dataset): r.value for r in result.records}
    assert found["oscr", "noise"] == pytest.approx(oscr)
    assert found["ece", None] == pytest.approx(metrics.ece(known.confidence, known.correct))
    assert "OSCR" in result.to_text()
    assert "OSCR" not in evaluated(trained, ["energy"]).to_text()


def test_without_labels(trained: Net) -> None:
    images, _ = made(60, 1)
    result = evaluated(trained, ["energy"], id_data=list(images), metrics="all")
    assert result.predictions == {}
    values = {r.metric for r in result.records if r.value is not None} & OPTIONAL.keys()
    assert values == {"autc"}
    (warning,) = [each for each in result.leaderboard().warnings if "have no value" in each]
    assert "OSCR" in warning
    assert "they have no labels" in warning
    assert "AUTC" in result.to_text()


def test_an_unknown_name(trained: Net) -> None:
    with pytest.raises(UserError, match="Did you mean 'aurc'"):
        evaluated(trained, ["energy"], metrics="aurcc")


def test_thresholds_are_set_on_validation_data(trained: Net, tmp_path: Path) -> None:
    result = evaluated(trained, ["energy", "temperature_scaling"], metrics="acceptance")
    validation = result.validation_scores["energy"]["id"]
    records = {(r.detector, r.metric, r.ood_dataset): r for r in result.records}
    record = records["energy", "acceptance_at_0.95", "noise"]
    threshold = metrics.conformal_threshold(validation, 0.95)
    assert record.threshold == threshold.value
    assert record.n_validation == validation.size
    scores = result.scores["energy"]
    assert scores.keys() == {"id", "noise", "inverted"}
    assert record.value == metrics.acceptance(scores["noise"], threshold.value).rate
    whole = records["temperature_scaling", "id_acceptance_at_0.95", None]
    assert whole.validation_use == ["fitted"]
    assert {"id", "class 0"} <= (whole.accepted_counts or {}).keys()
    assert "Threshold transfer" in result.to_text()
    assert "Threshold transfer" in result.to_markdown()
    found = verify_run(result.save(tmp_path / "run"))
    assert not found.discrepancies, str(found)


def test_without_validation_data_there_is_no_threshold(trained: Net) -> None:
    result = evaluated(trained, ["energy"], metrics="acceptance", validation_data=None)
    assert result.validation_scores == {}
    (warning,) = [each for each in result.leaderboard().warnings if "have no value" in each]
    assert "validation_data, which were not given" in warning
