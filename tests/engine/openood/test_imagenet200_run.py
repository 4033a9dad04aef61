"""The ImageNet-200 benchmark with covariate shift, without its training images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.openood_runs import standins, state_dict

import oodbench
from oodbench import models
from oodbench.plugins.catalog import Catalog

pytestmark = pytest.mark.usefixtures("one_thread")

LARGE = ("ssb-hard", "ninco", "inaturalist", "textures", "openimage-o")
SETS = ("imagenet200", "imagenet200-v2", "imagenet200-c", "imagenet200-r", *LARGE)


def test_imagenet200_without_its_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = standins(tmp_path, SETS, monkeypatch)
    (root / "images_largescale/imagenet_1k/train").rename(tmp_path / "elsewhere")
    published = Catalog().benchmark("openood-imagenet200").models["ResNet18"]
    for path in [each.path for each in published.checkpoint]:
        (root / str(path)).parent.mkdir(parents=True)
        network = models.create("torchvision:resnet18", 10, "softmax", 3)
        (root / str(path)).write_bytes(state_dict(network.module))
    run = oodbench.run(
        "openood-imagenet200-fs",
        out=tmp_path / "run",
        seeds=1,
        limit=10,
        methods=["msp", "kl_matching", "knn"],
        device="cpu",
    )
    assert not run.failures
    assert not run.complete, "knn was asked for by name"
    reasons = {r.detector: r.reason for r in run.records if r.status == "skipped"}
    assert reasons == {
        "knn": "no training images: "
        "the data root has no folder 'images_largescale/imagenet_1k/train'"
    }
    ok = [r for r in run.records if r.status == "ok"]
    assert {r.detector for r in ok} == {"baseline", "kl_matching"}
    assert {r.n_id for r in ok} == {40}, "ID, V2, C and R"
    checksums = json.loads((run.folder / "run.json").read_text())["checksums"]["data"]
    assert set(checksums["imagenet200"]) == {"validation", "test"}
