"""`images` of a benchmark: the images of all data sets as the weights of its models expect."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.small_clip import save_open_clip
from PIL import Image
from pydantic import ValidationError

import oodbench
from oodbench.data import load_split
from oodbench.data.store.image_cache import decisive
from oodbench.plugins.catalog import Catalog
from oodbench.specs import ImagesSpec, ResizeSpec

IMAGES = "images: {shape: [3, 16, 16], resize: {short_side: 20, filter: bicubic}}"
BENCHMARK = """\
schema_version: 1
name: prepared
version: 1
title: Prepared
summary: A small CLIP for images of 16x16
id: digits
ood: {near: [letters]}
IMAGES
models:
  CLIP: {network: "open_clip:local-dir:CLIP"}
methods:
  CLIP+MSP: {model: CLIP, detector: baseline}
evaluation: {resamples: 100}
tuning: {protocol: none}
"""


def test_every_manifest_gets_the_shape_of_the_benchmark() -> None:
    catalog = Catalog()
    images = ImagesSpec(shape=(3, 384, 384), resize=ResizeSpec(short_side=400, filter="bicubic"))
    benchmark = catalog.benchmark("openood-imagenet").model_copy(update={"images": images})
    for name in (benchmark.id, *benchmark.ood_groups):
        manifest = catalog.dataset(benchmark.manifest(name))
        decoded = benchmark.decoded(manifest)
        assert decoded.shape == (3, 384, 384)
        assert decoded.resize is not None
        assert (decoded.resize.short_side, decoded.resize.filter) == (400, "bicubic")
        assert decisive(decoded, "test") != decisive(manifest, "test")  # another place in the cache
    plain = benchmark.model_copy(update={"images": None})
    manifest = catalog.dataset("digits")
    assert plain.decoded(manifest) == manifest


def test_built_in_images_are_resized_as_pillow_does() -> None:
    catalog = Catalog()
    images = ImagesSpec(shape=(3, 16, 16), resize=ResizeSpec(short_side=20, filter="bicubic"))
    benchmark = catalog.benchmark("digits").model_copy(update={"images": images})
    manifest = catalog.dataset("digits")
    found = load_split(benchmark.decoded(manifest), "test")
    original = load_split(manifest, "test")
    assert found.images.shape == (600, 3, 16, 16)
    np.testing.assert_array_equal(found.labels, original.labels)
    for index in (0, 17):
        levels = np.rint(255 * original.images[index, 0]).astype(np.uint8)
        image = Image.fromarray(levels).convert("RGB").resize((20, 20), Image.Resampling.BICUBIC)
        expected = np.asarray(image.crop((2, 2, 18, 18))).transpose(2, 0, 1)
        np.testing.assert_array_equal(found.images[index], expected)


@pytest.mark.parametrize("images", ["", IMAGES])
def test_a_model_with_a_size_of_its_own_runs_only_on_prepared_images(
    images: str, tmp_path: Path
) -> None:
    save_open_clip(tmp_path / "clip", size=16, patch=8)
    file = tmp_path / "prepared.yaml"
    text = BENCHMARK.replace("IMAGES\n", f"{images}\n" if images else "")
    file.write_text(text.replace("local-dir:CLIP", f"local-dir:{tmp_path / 'clip'}"))
    if not images:
        with pytest.raises(oodbench.UserError, match="cannot take the images of 'digits'"):
            oodbench.run(file, out=tmp_path / "run", limit=40, progress=False)
        return
    run = oodbench.run(file, out=tmp_path / "run", limit=40, progress=False)
    assert {record.status for record in run.records} == {"ok"}
    about = json.loads((run.folder / "run.json").read_text())
    assert about["benchmark"]["images"]["shape"] == [3, 16, 16]
    assert "weights of CLIP, seed 0" not in about.get("warnings", {})


def test_a_short_side_covers_the_shape() -> None:
    with pytest.raises(ValidationError, match="short_side 200 is less than a side"):
        ImagesSpec(shape=(3, 224, 224), resize=ResizeSpec(short_side=200))
