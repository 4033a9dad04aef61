"""A benchmark with vision-language models: run, reported, and refused with one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.small_clip import save_open_clip

import oodbench
from oodbench import UserError
from oodbench.results import Run

WORDS = [f"word{index}" for index in range(40)]
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a small CLIP; what it computes is kept."""
    found = tmp_path_factory.mktemp("content")
    save_open_clip(found / "clip")
    (found / "words.txt").write_text("\n".join(WORDS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OODBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield found


def benchmark(folder: Path, name: str = "small", **keys: str) -> Path:
    network = f"open_clip:local-dir:{folder / 'clip'}"
    lines = {"network": f'"{network}"', "prompts": '["the digit {c}", "a photo of {}"]', **keys}
    model = ", ".join(f"{key}: {value}" for key, value in lines.items() if value)
    text = f"""\
schema_version: 1
name: {name}
version: 1
title: Small
summary: A small CLIP with random weights
id: digits
ood: {{near: [letters], far: [uniform-noise]}}
models:
  CLIP: {{{model}}}
  SoftMax: {{network: resnet8, head: softmax,
            training: {{epochs: 1, batch_size: 64, learning_rate: 0.1}}}}
methods:
  CLIP+MSP: {{model: CLIP, detector: baseline}}
  CLIP+KNN: {{model: CLIP, detector: knn, parameters: {{k: 5}}}}
  CLIP+MCM: {{model: CLIP, detector: mcm}}
  CLIP+GL-MCM: {{model: CLIP, detector: gl_mcm}}
  CLIP+NegLabel:
    {{model: CLIP, detector: neglabel, parameters: {{words: "{folder / "words.txt"}", kept: 0.5}}}}
  SoftMax+MCM: {{model: SoftMax, detector: mcm}}
evaluation: {{resamples: 100, batch_size: 64}}
tuning: {{protocol: none}}
"""
    file = folder / f"{name}.yaml"
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return oodbench.run(benchmark(folder), out=folder / "run", limit=60, progress=False)


def test_a_run_scores_with_cosines_and_skips_classifiers(run: Run, folder: Path) -> None:
    records = run.records
    status = {each.method: (each.status, each.reason) for each in records}
    reason = "needs a vision-language model, such as CLIP; SoftMax has no text encoder"
    assert status.pop("SoftMax+MCM") == ("skipped", reason)
    assert {each[0] for each in status.values()} == {"ok"}
    scores = {
        name: np.load(run.folder / "scores" / f"CLIP+{name}" / "seed0.npz")["letters"]
        for name in ("MSP", "MCM", "GL-MCM", "NegLabel")
    }
    # The log-odds of the baseline are in the order of MCM's probabilities: one classifier.
    odds = np.log(scores["MCM"]) - np.log1p(-scores["MCM"])
    np.testing.assert_allclose(scores["MSP"], odds, rtol=1e-4, atol=1e-5)
    local = scores["GL-MCM"] - scores["MCM"]
    assert (local > 0.1).all()  # of ten classes, the largest probability
    assert (local < 1).all()
    assert ((scores["NegLabel"] > 0) & (scores["NegLabel"] < 1)).all()
    about = json.loads((run.folder / "run.json").read_text())
    assert about["benchmark"]["models"]["CLIP"]["prompts"] == ["the digit {c}", "a photo of {}"]
    assert "prompts" not in about["benchmark"]["models"]["SoftMax"]


def test_names_of_classes_come_from_a_file(folder: Path, run: Run) -> None:
    (folder / "names.txt").write_text("\n".join(DIGITS) + "\n")
    file = benchmark(folder, "named", class_names="names.txt")
    again = oodbench.run(file, out=folder / "named", limit=60, methods=["CLIP+MCM"], progress=False)
    place = Path("scores") / "CLIP+MCM" / "seed0.npz"
    first, second = (np.load(each.folder / place)["id"] for each in (run, again))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"class_names": "absent.txt"}, r"class_names: there is no file 'absent\.txt'; looked for"),
        ({"class_names": "few.txt"}, r"few\.txt has 2 names, the ID data set 'digits' has 10"),
        ({"class_names": "imagenet1k"}, "imagenet1k has 1,000 names, the ID data set 'digits'"),
        ({"prompts": '["a photo"]'}, "prompts: 'a photo' has no single place for the class name"),
        ({"training": "{epochs: 1, batch_size: 8, learning_rate: 1}"}, "comes with its weights"),
        ({"network": '"open_clip:ViT-B-23/x"'}, "open_clip has no model 'ViT-B-23'"),
        ({"network": "resnet8", "weights": "x", "head": "softmax"}, "prompts is for vision-lang"),
    ],
)
def test_bad_models_are_one_sentence(
    folder: Path, tmp_path: Path, keys: dict[str, str], message: str
) -> None:
    (folder / "few.txt").write_text("zero\none")
    file = benchmark(folder, "bad", **keys)
    with pytest.raises(UserError, match=message):
        oodbench.run(file, out=tmp_path / "bad", limit=60, methods=["CLIP+MCM"], progress=False)


def test_a_manifest_without_names_says_what_to_write(folder: Path) -> None:
    file = benchmark(folder, "nameless")
    text = file.read_text().replace("id: digits\n", "id: digits-known\n")
    file.write_text(text.replace("letters", "digits-unknown"))
    with pytest.raises(UserError, match="the manifest of 'digits-known' has none") as caught:
        oodbench.run(file, out=folder / "nameless", limit=60, methods=["CLIP+MCM"], progress=False)
    assert "classes: [...]" in caught.value.hint


def test_a_changed_word_list_is_used_when_a_run_is_resumed(folder: Path, run: Run) -> None:
    """Files that parameters name are part of a detector's checksum; other methods are kept."""
    words, file = folder / "words.txt", benchmark(folder)
    kept = {
        name: (run.folder / "scores" / f"CLIP+{name}" / "seed0.npz").read_bytes()
        for name in ("MCM", "NegLabel")
    }
    words.write_text("\n".join(f"other{word}" for word in WORDS))
    try:
        again = oodbench.run(file, out=run.folder, limit=60, resume=True, progress=False)
    finally:
        words.write_text("\n".join(WORDS))
    now = {
        name: (again.folder / "scores" / f"CLIP+{name}" / "seed0.npz").read_bytes() for name in kept
    }
    assert now["MCM"] == kept["MCM"]
    assert now["NegLabel"] != kept["NegLabel"]
