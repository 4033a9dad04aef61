"""A run whose large splits are decoded while they are read gives the records of one that caches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.notes import Notes
from PIL import Image

import oodbench
from oodbench import models
from oodbench.data.store.locations import decoded_root
from oodbench.engine.passes.image_sources import Batch
from oodbench.engine.tuning_data import in_memory
from oodbench.errors import InterruptedRun, UserError
from oodbench.results import Run
from oodbench.storage.run_directory import RunDirectory

CLASSES = 3
SPLITS = {"train": 60, "validation": 24, "test": 45}

BENCHMARK = """\
schema_version: 1
name: photos
version: 1
title: Photos
summary: For tests
id: shapes
ood: {near: [others]}
models:
  R:
    network: resnet8
    head: softmax
    normalization: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
    checkpoint: [{path: s0.pth}, {path: s1.pth}]
methods:
  MSP: {model: R, detector: baseline}
  KNN: {model: R, detector: knn}
  Gram: {model: R, detector: gram}
  ODIN: {model: R, detector: odin}
reference: MSP
tuning: {protocol: none}
evaluation: {resamples: 100, batch_size: 20}
"""

MANIFEST = """\
schema_version: 1
name: {name}
title: T
summary: T
kind: folder
paths: {{{paths}}}
shape: [3, 8, 8]
resize: {{short_side: 8}}
{more}
splits: {{{splits}}}
license: none
citation: none
"""


def write_image(path: Path, generator: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(generator.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark with published weights and two data sets, all splits of which are large."""
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OODBENCH_WORKERS", "1")
    monkeypatch.setattr("oodbench.data.decoding_choice.ALWAYS_CACHED", 0)
    generator = np.random.default_rng(0)
    for split, count in SPLITS.items():
        for index in range(count):
            write_image(tmp_path / f"data/shapes/{split}/{index % 3}/{index:02}.jpg", generator)
    for index in range(33):
        write_image(tmp_path / f"data/others/test/{index:02}.png", generator)
    for folder in ("benchmarks", "data_manifests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "benchmarks/photos.yaml").write_text(BENCHMARK)
    texts = {
        "shapes": MANIFEST.format(
            name="shapes",
            paths="train: train, validation: validation, test: test",
            more=f"num_classes: {CLASSES}",
            splits=", ".join(f"{name}: {count}" for name, count in SPLITS.items()),
        ),
        "others": MANIFEST.format(name="others", paths="test: test", more="", splits="test: 33"),
    }
    for name, text in texts.items():
        (tmp_path / f"data_manifests/{name}.yaml").write_text(text)
    for seed in (0, 1):
        torch.manual_seed(seed)
        weights = models.create("resnet8", CLASSES).state_dict()
        torch.save(weights, tmp_path / f"benchmarks/s{seed}.pth")
    return tmp_path


def run(content: Path, out: str, **options: Any) -> Run:
    done = oodbench.run(
        "photos",
        out=content / out,
        device="cpu",
        plugins=[content],
        data_root=content / "data",
        **({"seeds": 1} | options),
    )
    assert done.complete, done.failures
    return done


def records(folder: Path) -> list[dict[str, Any]]:
    """Without the identity of the run."""
    lines = (folder / "records.jsonl").read_text().splitlines()
    return [{**json.loads(line), "run_id": ""} for line in lines]


def decoded() -> list[str]:
    """Splits in the cache."""
    return sorted(path.name.rpartition("-")[0] for path in decoded_root().glob("[!.]*"))


def checksums(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())["checksums"]
    return found


def test_records_are_those_of_a_run_that_caches(
    content: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(content, "streamed")
    assert decoded() == [], "each split is read once, and none is stored"
    known = checksums(content / "streamed")
    assert known["pixels"].keys() == {"shapes", "others"}
    assert known["pixels"]["shapes"].keys() == {"train", "validation", "test"}
    assert known["fitted_on"]["shapes"].keys() == {"train", "validation"}
    monkeypatch.setattr("oodbench.data.decoding_choice.ALWAYS_CACHED", 2**29)
    run(content, "cached")
    assert decoded() == ["others-test", "shapes-test", "shapes-train", "shapes-validation"]
    assert records(content / "streamed") == records(content / "cached")
    for method in ("MSP", "KNN", "Gram", "ODIN"):
        one, other = (
            RunDirectory(content / out).read_scores((method, 0)) for out in ("streamed", "cached")
        )
        for name in ("id", "others"):
            np.testing.assert_array_equal(one[name], other[name])
    cached = checksums(content / "cached")
    assert "pixels" not in cached
    for name, splits in known["pixels"].items():
        for split, checksum in splits.items():
            assert cached["data"][name][split] == checksum


def test_more_seeds_cache_what_is_read_again(content: Path) -> None:
    """The choice is not part of the work: a run can be resumed with other seeds and methods."""
    run(content, "run", methods=["MSP"])
    assert decoded() == []
    before = checksums(content / "run")
    assert "fitted_on" not in before
    run(content, "run", methods=["MSP", "KNN"], seeds=2, resume=True)
    assert decoded() == ["others-test", "shapes-test", "shapes-train"]
    after = checksums(content / "run")
    assert after["data"] == before["data"]
    assert after["pixels"]["shapes"]["test"] == before["pixels"]["shapes"]["test"]
    run(content, "whole", methods=["MSP", "KNN"], seeds=2)
    assert records(content / "run") == records(content / "whole")


def test_training_images_are_not_needed_to_test(content: Path) -> None:
    (content / "data/shapes/train").rename(content / "data/elsewhere")
    run(content, "run", methods=["MSP"])
    with pytest.raises(UserError, match="split 'train': there is no folder"):
        run(content, "run", methods=["MSP", "KNN"], resume=True)


def test_other_files_are_other_work(content: Path) -> None:
    run(content, "run", methods=["KNN"])
    write_image(content / "data/shapes/train/0/00.jpg", np.random.default_rng(7))
    with pytest.raises(UserError, match="other data"):
        run(content, "run", methods=["KNN"], seeds=2, resume=True)


def test_images_of_two_sets_are_found_when_they_have_been_read(content: Path) -> None:
    image = (content / "data/shapes/train/0/00.jpg").read_bytes()
    (content / "data/others/test/00.png").write_bytes(image)
    with pytest.warns(UserWarning, match="1 of the 33 images of the test images of 'others'"):
        run(content, "run", methods=["KNN"])
    about = json.loads((content / "run/run.json").read_text())
    assert about["duplicates_of_id_images"] == {"others": 1}
    assert "1 of the 33 images" in about["warnings"]["data"][0]


def test_a_corrupt_image_ends_the_run_and_is_named(content: Path) -> None:
    path = content / "data/others/test/32.png"
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"split 'test': image test/32\.png cannot be decoded"):
        run(content, "run", methods=["MSP"])


def test_a_limited_run_decodes_only_what_it_reads(
    content: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"methods": ["MSP", "Gram"], "limit": 9, "seeds": 2}
    run(content, "streamed", **options)
    assert decoded() == [], "even what is read twice"
    monkeypatch.setattr("oodbench.data.decoding_choice.ALWAYS_CACHED", 2**29)
    run(content, "cached", **options)
    assert decoded() == ["others-test", "shapes-test", "shapes-train", "shapes-validation"]
    assert records(content / "streamed") == records(content / "cached")


def test_the_record_names_another_decoder(content: Path) -> None:
    """Images of twice the size and more are decoded at half of it: other pixels, another work."""
    generator = np.random.default_rng(3)
    for index in range(33):
        (content / f"data/others/test/{index:02}.png").unlink()
        pixels = generator.integers(0, 256, (33, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(content / f"data/others/test/{index:02}.jpg")
    run(content, "exact", methods=["MSP"])
    file = content / "benchmarks/photos.yaml"
    file.write_text(file.read_text().replace("batch_size: 20", "batch_size: 20, decoder: draft"))
    run(content, "draft", methods=["MSP"])
    exact, draft = (json.loads((content / f"{n}/run.json").read_text()) for n in ("exact", "draft"))
    assert exact["benchmark"]["evaluation"]["decoder"] == "exact"
    assert draft["benchmark"]["evaluation"]["decoder"] == "draft"
    for kind in ("data", "pixels"):
        assert exact["checksums"][kind]["others"] != draft["checksums"][kind]["others"]
    with pytest.raises(UserError, match=r"another state of 'photos' \(evaluation.decoder\)"):
        run(content, "exact", methods=["MSP"], resume=True)


def test_tuning_images_that_come_in_batches_stay_bytes() -> None:
    images = torch.arange(5 * 3 * 2 * 2, dtype=torch.uint8).view(5, 3, 2, 2)
    labels = np.arange(5)
    source = Batches([(images[:3], labels[:3]), (images[3:], labels[3:])])
    found = in_memory(source)
    np.testing.assert_array_equal(found.images, images.numpy())
    np.testing.assert_array_equal(found.labels, labels)


class Batches:
    """A source of given batches."""

    name, size = "toy", None

    def __init__(self, given: list[Batch]) -> None:
        self.given = given

    def first(self) -> Batch:
        return self.given[0]

    def batches(self) -> Iterator[Batch]:
        return iter(self.given)


class Stopping(Notes):
    """As a user who presses Ctrl-C when a stage begins."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage = stage

    def stage(self, text: str) -> None:
        if self._stage in text:
            raise KeyboardInterrupt


def test_what_is_scored_in_shards_is_cached(content: Path) -> None:
    """Also after a stop: what was read before it is known."""
    image = (content / "data/shapes/train/0/00.jpg").read_bytes()
    (content / "data/others/test/00.png").write_bytes(image)
    notes = Notes()
    run(content, "streamed", methods=["KNN"], progress=notes)
    with pytest.raises(InterruptedRun):
        run(content, "shards", methods=["KNN"], shard_images=20, progress=Stopping("shard 4 of"))
    run(content, "shards", methods=["KNN"], shard_images=20, resume=True, progress=notes)
    assert sum("1 of the 33 images" in each for each in notes.warnings) == 2
    assert decoded() == ["others-test", "shapes-test"]
    assert records(content / "shards") == records(content / "streamed")
    assert checksums(content / "shards") == checksums(content / "streamed")
    one, other = (
        json.loads((content / name / "run.json").read_text()) for name in ("shards", "streamed")
    )
    for key in ("duplicates_of_id_images", "warnings"):
        assert one[key] == other[key]


def test_what_a_shard_has_decoded_is_known_after_a_stop(content: Path) -> None:
    """A part of a large set is decoded while it is read: by the process that scores its shard."""
    options: dict[str, Any] = {"methods": ["MSP"], "limit": 9}
    run(content, "whole", **options)
    options["shard_images"] = 20
    with pytest.raises(InterruptedRun):
        run(content, "shards", **options, progress=Stopping("costs and records"))
    run(content, "shards", **options, resume=True)
    assert decoded() == []
    assert checksums(content / "shards") == checksums(content / "whole")
