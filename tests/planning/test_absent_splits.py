"""Plans on a machine without images that only the user can provide."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from helpers.plans import TRAINING, benchmark, plan, statuses

from oodbench.data.decoding_choice import is_large
from oodbench.data.loaded_splits import LoadedSplits, declared_checksum
from oodbench.engine.recording.planned_work import data_checksums
from oodbench.planning.absent_splits import with_images_here
from oodbench.planning.plan import Plan
from oodbench.planning.planned_splits import planned_splits
from oodbench.planning.workload import passes_of
from oodbench.plugins.catalog import Catalog
from oodbench.specs import SplitName

FOLDER = "images_largescale/imagenet_1k/train"
REASON = f"no training images: the data root has no folder '{FOLDER}'"


def imagenet(methods: list[str] | None = None, **model: Any) -> Plan:
    weights = {"network": "torchvision:resnet18", "head": "softmax", "weights": "IMAGENET1K_V1"}
    spec = benchmark(
        id="imagenet",
        datasets={"imagenet": "openood-imagenet", "textures": "openood-textures"},
        ood={"far": ["textures"]},
        models={"Net": {**weights, **model}},
        methods={"Net+MSP": {"model": "Net", "detector": "baseline"}},
        matrix={"detectors": ["entropy", "knn", "klm"]},
        exclude=[],
        tuning={"protocol": "none"},
    )
    known = Catalog().detectors
    chosen = statuses(knn=known["knn"], kl_matching=known["kl_matching"])
    return plan(spec, methods=methods, known=chosen)


def test_methods_without_their_training_images_are_skipped(tmp_path: Path) -> None:
    whole = imagenet()
    assert [m.name for m in whole.methods] == [
        "Net+MSP",
        "Net+Entropy",
        "Net+KNN",
        "Net+KLMatching",
    ]
    here = with_images_here(whole, tmp_path)
    assert [m.name for m in here.methods] == ["Net+MSP", "Net+Entropy", "Net+KLMatching"]
    (skip,) = here.skips
    assert (skip.method, skip.reason, skip.asked_for) == ("Net+KNN", REASON, False)
    assert {(each.split, each.purpose) for each in passes_of(here)} == {
        ("validation", "fit"),
        ("test", "score"),
    }
    assert set(here.datasets["imagenet"].splits) == {"validation", "test"}


def test_a_skip_of_a_method_that_was_asked_for_is_marked(tmp_path: Path) -> None:
    (skip,) = with_images_here(imagenet(["knn", "baseline"]), tmp_path).skips
    assert skip.asked_for


def test_the_plan_still_names_the_absent_split(tmp_path: Path) -> None:
    found = planned_splits(with_images_here(imagenet(), tmp_path))
    assert [(each.role, each.images, each.at_most, each.absent) for each in found] == [
        ("ID train", 1_281_167, False, True),
        ("ID validation", 5_000, False, False),
        ("ID test", 45_000, False, False),
        ("far-OOD", 5_160, False, False),
    ]


@pytest.mark.parametrize("folder", [FOLDER, "imagenet/train", f"data/{FOLDER}"])
def test_a_folder_of_the_users_is_found(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    whole = imagenet()
    assert with_images_here(whole, tmp_path) is whole


def test_a_network_that_is_trained_needs_its_images(tmp_path: Path) -> None:
    whole = imagenet(network="resnet18", weights=None, training=TRAINING)
    assert with_images_here(whole, tmp_path) is whole, "reading them is an error"


def test_a_run_without_images_can_be_resumed_once_they_are_there(tmp_path: Path) -> None:
    class Data:
        """Of large splits that only some methods read, what the manifest declares counts."""

        def __init__(self, of: Plan) -> None:
            self.plan = of

        def is_large(self, name: str, split: SplitName) -> bool:
            return is_large(self.plan.datasets[name], split)

        def declared(self, name: str, split: SplitName) -> str:
            return declared_checksum(self.plan.datasets[name], split, None)

        def checksum(self, name: str, split: SplitName) -> str:
            return f"{name} {split}"

    whole = imagenet()
    here = with_images_here(whole, tmp_path)
    assert "train" not in here.datasets["imagenet"].splits
    before, after = (
        data_checksums(each, cast("LoadedSplits", Data(each))) for each in (here, whole)
    )
    assert before == after
    assert "train" in before["imagenet"]
