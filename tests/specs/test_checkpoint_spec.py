"""Published weights in the spec of a model."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from oodbench.specs import ModelSpec

SHA = "0" * 64
TRAINING = {"epochs": 1, "batch_size": 8, "learning_rate": 0.1}
ARCHIVE = {"urls": ["http://x/w.zip"], "sha256": SHA, "unpacked_limit": 10}


def model(**values: Any) -> ModelSpec:
    return ModelSpec.model_validate({"network": "resnet8", "head": "softmax", **values})


def problem(**values: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        model(**values)
    return str(raised.value.errors()[0]["msg"])


def test_one_checkpoint_or_one_for_each_seed() -> None:
    assert model(checkpoint={"path": "a.pt"}).most_seeds == 1
    assert model(checkpoint=[{"path": "a.pt"}, {"path": "b.pt"}]).most_seeds == 2
    assert model(training=TRAINING).most_seeds is None
    assert model(network="timm:resnet18", weights="pretrained").most_seeds == 1


def test_a_file_is_named_by_its_address() -> None:
    file = {"urls": ["https://x/a/best-1.ckpt?download=1"], "sha256": SHA}
    spec = model(checkpoint={"files": [file]})
    assert spec.checkpoint[0].file_name == "best-1.ckpt"


def test_a_checkpoint_in_an_archive_that_several_share() -> None:
    seeds = [{"files": [ARCHIVE], "path": f"s{seed}/best.ckpt"} for seed in range(3)]
    spec = model(checkpoint=seeds)
    assert spec.most_seeds == 3
    assert {each.file_name for each in spec.checkpoint} == {"best.ckpt"}
    assert spec.checkpoint[0].files[0].name == "w.zip"


def test_a_spec_is_read_from_what_it_writes() -> None:
    for spec in (
        model(training=TRAINING),
        model(checkpoint=[{"files": [ARCHIVE], "path": "a.pt", "sha256": SHA, "entry": "model"}]),
        model(network="torchvision:resnet50", weights="IMAGENET1K_V1"),
    ):
        assert ModelSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_trained_models_have_the_identity_they_had() -> None:
    dumped = model(training=TRAINING).model_dump(mode="json")
    assert not {"checkpoint", "weights"} & set(dumped)
    assert "training" not in model(checkpoint={"path": "a.pt"}).model_dump(mode="json")


def test_epochs_of_published_weights_are_not_limited() -> None:
    spec = model(checkpoint={"path": "a.pt"})
    assert spec.with_at_most(1) is spec


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "training is missing; published weights take checkpoint or weights"),
        (
            {"training": TRAINING, "checkpoint": {"path": "a.pt"}},
            "give one of training and checkpoint",
        ),
        ({"checkpoint": {}}, "a checkpoint needs files or a path"),
        ({"checkpoint": {"path": "a.zip"}}, "'a.zip' is no checkpoint by its name"),
        ({"checkpoint": {"path": "weights"}}, "known: .pt, .pth, .th, .ckpt"),
        ({"checkpoint": {"files": [ARCHIVE]}}, "give the path of the checkpoint in the archives"),
        (
            {"checkpoint": {"files": [ARCHIVE], "path": "../a.pt"}},
            "'../a.pt' does not lie in the archives",
        ),
        (
            {"checkpoint": {"files": [{"name": "a.pt", "sha256": SHA}], "path": "b.pt"}},
            "files have no archive",
        ),
        (
            {"checkpoint": {"files": [{"name": "a.pt", "sha256": SHA}], "sha256": SHA}},
            "belongs in files",
        ),
        ({"checkpoint": {"files": [{"name": "a.pt"}]}}, "file 'a.pt' needs a checksum"),
        ({"weights": "pretrained"}, "weights are those of a library (torchvision, timm, hf, "),
    ],
)
def test_what_contradicts_itself(values: dict[str, Any], said: str) -> None:
    assert said in problem(**values)
