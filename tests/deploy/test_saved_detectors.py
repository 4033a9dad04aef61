"""Saving and loading: scores are the same, bit for bit; another model or detector is refused."""

from __future__ import annotations

import copy
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deploy.conftest import CPU, SCALING, Fitted, data, fitted_on
from helpers.kills import killed_at, needs_fork
from torch import nn

import oodbench
from oodbench import FittedDetector, UserError
from oodbench.plugins.catalog import Catalog
from oodbench.storage.description import sealed
from oodbench.storage.fitted_state.detector_state import stored_state
from oodbench.storage.fitted_state.state_reading import detector_of

# With a step, its gradients, a model of its own, maps, layers, dropout, logits alone.
_WHOLE = ("odin", "mahalanobis", "gram", "mcd", "knn", "lts", "energy")


def test_scores_before_saving_and_after_loading_are_equal(fitted: Fitted) -> None:
    before = {name: each.detector for name, each in fitted.detectors.items()}
    expected, loaded = fitted.scores(before), {}
    for name, detector in before.items():
        state, tensors = stored_state(detector)
        loaded[name] = detector_of(type(detector), json.loads(json.dumps(state)), tensors, CPU)
    found = fitted.scores(loaded)
    assert [n for n in expected if not np.array_equal(found[n], expected[n])] == []
    assert len({float(each[0]) for each in expected.values()}) > len(expected) / 2


def test_every_detector_is_among_them() -> None:
    networks = ("cnn", "vit", "dismax", "ensemble")
    names = {name for network in networks for name in fitted_on(network).detectors}
    assert names == {*Catalog().detectors}


@pytest.mark.parametrize("name", _WHOLE)
def test_a_saved_detector_scores_and_decides_as_before(
    fitted: Fitted, name: str, tmp_path: Path
) -> None:
    detector, images = fitted.detectors[name], data(40, 4).tensors[0]
    detector.threshold = None
    before = detector.score(images)
    detector.calibrate(images, accept=0.9)
    loaded = oodbench.load_fitted(detector.save(tmp_path / "a"), fitted.model, device="cpu")
    decisions = loaded.predict(images)
    assert np.array_equal(decisions.scores, before)
    assert detector.threshold is not None
    assert np.array_equal(decisions.accepted, before >= detector.threshold.value)
    assert decisions.accepted.sum() == 37  # the fourth of 40 is the threshold: k = 41 * 0.1
    assert loaded.threshold == detector.threshold
    assert loaded.threshold_set_on == "40 ID images given to calibrate"


def test_the_ensemble(tmp_path: Path) -> None:
    fitted = fitted_on("ensemble")
    detector, images = fitted.detectors["ensemble"], data(40, 4)
    loaded = oodbench.load_fitted(detector.save(tmp_path / "a"), fitted.model)
    assert np.array_equal(loaded.score(images), detector.score(images))


def test_in_another_process(tmp_path: Path) -> None:
    names = ("mahalanobis", "mcd", "gram", "ash")
    model = fitted_on("cnn").model
    # Its head is computed by a solver, which may round otherwise in another process.
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    for name in names:
        detector = fitted_on("cnn").detectors[name]
        detector.save(tmp_path / name)
        np.save(tmp_path / f"{name}.npy", detector.score(data(40, 4)))
    code = (
        "import sys, numpy, oodbench, torch; sys.path.insert(0, sys.argv[1])\n"
        "from deploy.conftest import NETWORKS, data\n"
        "model = NETWORKS['cnn']()\n"
        "model.load_state_dict(torch.load(f'{sys.argv[2]}/weights.pt'))\n"
        "for name in sys.argv[3:]:\n"
        "    place = f'{sys.argv[2]}/{name}'\n"
        "    found = oodbench.load_fitted(place, model, device='cpu')\n"
        "    assert numpy.array_equal(found.score(data(40, 4)), numpy.load(place + '.npy')), name"
    )
    tests = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", code, tests, str(tmp_path), *names], check=True)


def test_the_model_comes_back_as_it_was(tmp_path: Path) -> None:
    fitted = fitted_on("cnn")
    model = fitted.model
    model.get_submodule("first").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = [tensor.data_ptr() for tensor in model.state_dict().values()]
    loaded = oodbench.load_fitted(fitted.detectors["odin"].save(tmp_path / "a"), model)
    loaded.score(data(40, 4))
    assert model.get_submodule("first").training
    model.eval()
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [tensor.data_ptr() for tensor in after.values()] == places
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(part._forward_hooks for part in model.modules())


# --- what is refused -----------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, nn.Module]:
    """An artifact of kNN, and its model."""
    fitted = fitted_on("cnn")
    return fitted.detectors["knn"].save(tmp_path / "knn"), copy.deepcopy(fitted.model)


def refused(folder: Path, *given: Any, **named: Any) -> str:
    with pytest.raises(UserError) as caught:
        oodbench.load_fitted(folder, *given, **named)
    assert caught.value.hint
    return str(caught.value)


def test_no_model(saved: tuple[Path, nn.Module]) -> None:
    assert "without its model, SmallNetwork" in refused(saved[0])


def test_other_weights(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    with torch.no_grad():
        model.get_parameter("second.0.weight")[0, 0, 0, 0] += 1e-6
    text = refused(folder, model)
    assert "has other weights: 1 of" in text
    assert "'second.0.weight'" in text


def test_other_layers(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    model.second.append(nn.ReLU())  # type: ignore[operator, union-attr]
    assert "has 'second.2', which the fitted one has not" in refused(folder, model)


def test_other_options_of_a_layer(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    model.get_submodule("second.0").stride = (1, 1)  # type: ignore[assignment]
    text = refused(folder, model)
    assert "differs in 'second.0'" in text
    assert "stride=(2, 2)" in text


def test_another_number_of_classes(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    model.head = nn.Linear(24, 4)
    assert "has no 'head.rotations" in refused(folder, model)


def test_other_code_with_the_same_weights(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    forward = model.forward
    model.forward = lambda images: 2 * forward(images)  # type: ignore[method-assign]
    text = refused(folder, model)
    assert "with the same weights gives other logits" in text


def test_another_network(saved: tuple[Path, nn.Module]) -> None:
    assert "The model is not the one" in refused(saved[0], fitted_on("vit").model)


def test_other_normalization(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    text = refused(folder, model, normalization=((0.4, 0.5), (0.25, 0.25)))
    assert "mean [0.4, 0.5]" in text
    assert "mean [0.5, 0.5]" in text
    assert oodbench.load_fitted(folder, model, normalization=SCALING).name == "knn"


def _edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    path = folder / "artifact.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(sealed(content)))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.update(schema_version=2, oodbench="9.1"), "newer oodbench (9.1)"),
        (lambda a: a.pop("schema_version"), "cannot be read"),
        (lambda a: a.update(schema_version="1"), "schema_version"),
        (lambda a: a["detector"].update(state_version=0), "another form"),
        (lambda a: a["detector"].update(source="0" * 64), "another text"),
        (lambda a: a["detector"].update(name="nearest"), "'nearest', which is not among"),
        (lambda a: a["detector"].update(name="../knn"), "which is not among"),
        (lambda a: a["detector"].update(name="energy"), "another text"),
        (lambda a: a["files"].update({"../secret": "0" * 64}), "names other files"),
        (lambda a: a["files"].update({"detector.safetensors": "0" * 64}), "checksum differs"),
        (lambda a: a["model"].pop("weights"), "model.weights"),
        (lambda a: a["model"]["inputs"].update(shape=[2, -8]), "shape"),
        (lambda a: a["model"]["structure"].update(functions=["output"]), "output=..."),
        (lambda a: a["threshold"].update(value="all"), "threshold"),
    ],
)
def test_descriptions(saved: tuple[Path, nn.Module], change: Any, words: str) -> None:
    folder, model = saved
    threshold = {"value": 0.5, "accept": 0.9, "images": 9, "guaranteed": 0.9}
    _edited(folder, lambda content: content.update(threshold=threshold))
    assert words in refused(_edited(folder, change), model)


def test_a_changed_threshold_is_refused(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    threshold = {"value": 0.5, "accept": 0.9, "images": 9, "guaranteed": 0.9, "set_on": "x"}
    path = _edited(folder, lambda content: content.update(threshold=threshold)) / "artifact.json"
    found = oodbench.load_fitted(folder, model).threshold
    assert found is not None
    assert found.value == 0.5
    whole = path.read_text()
    for text in (whole.replace('"value": 0.5', '"value": 0.4'), whole.replace('"seal"', '"sea"')):
        path.write_text(text)
        assert "have no digest, or another one" in refused(folder, model)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema_version": 1}', b"\xff\xfe"])
def test_damaged_descriptions(saved: tuple[Path, nn.Module], content: bytes) -> None:
    folder, model = saved
    (folder / "artifact.json").write_bytes(content)
    assert "artifact.json" in refused(folder, model)


def test_damaged_and_swapped_files(saved: tuple[Path, nn.Module], tmp_path: Path) -> None:
    folder, model = saved
    path = folder / "detector.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert "checksum differs" in refused(folder, model)
    other = fitted_on("cnn").detectors["vim"].save(tmp_path / "vim")
    path.write_bytes((other / "detector.safetensors").read_bytes())
    assert "checksum differs" in refused(folder, model)
    path.unlink()
    assert "cannot be read" in refused(folder, model)
    (folder / "artifact.json").unlink()
    assert "has no file artifact.json" in refused(folder, model)
    assert "is not a folder" in refused(tmp_path / "nowhere", model)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 100, b"\xff" * 8 + b"{}", b"\x08" + b"\x00" * 7 + b'{"a":{}}']
)
def test_files_that_hold_no_tensors(saved: tuple[Path, nn.Module], content: bytes) -> None:
    import hashlib

    folder, model = saved
    (folder / "detector.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    _edited(folder, lambda a: a["files"].update({"detector.safetensors": digest}))
    assert "detector.safetensors" in refused(folder, model)


def test_a_model_that_changed_since_is_not_saved(tmp_path: Path) -> None:
    model = copy.deepcopy(fitted_on("cnn").model)
    detector = oodbench.fit(model, "energy", fit_data=data(30, 1), device="cpu", progress=False)
    with torch.no_grad():
        model.get_parameter("head.bias").add_(1)
    with pytest.raises(UserError, match=r"has changed since 'energy'.*'head\.bias'"):
        detector.save(tmp_path / "a")


def test_a_folder_with_other_files_is_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(UserError, match=r"other files: thesis\.tex"):
        fitted_on("cnn").detectors["energy"].save(tmp_path)


@needs_fork
def test_an_artifact_stays_until_the_next_one_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves the old one; what a killed process left does not matter."""
    detectors, model = fitted_on("cnn").detectors, fitted_on("cnn").model
    folder = detectors["energy"].save(tmp_path / "a")
    held = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            detectors["knn"].save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == held
    killed_at("fsync", lambda: detectors["knn"].save(folder))
    assert list(folder.glob(".writing-*/.writing-*"))
    detectors["knn"].save(folder)
    assert {path.name for path in folder.iterdir()} == held.keys()
    assert oodbench.load_fitted(folder, model, device="cpu").name == "knn"


def test_functions_are_known_by_their_logits(tmp_path: Path) -> None:
    net = fitted_on("vit").model

    def function(images: torch.Tensor) -> Any:
        return {"answer": net.eval()(images)}

    def logits(out: Any) -> Any:
        return out["answer"]

    detector = oodbench.fit(
        function, "energy", fit_data=data(30, 1), output=logits, device="cpu", progress=False
    )
    folder = detector.save(tmp_path / "a")
    assert "Give it again: load_fitted(folder, model, output=...)" in refused(folder, function)
    loaded: FittedDetector = oodbench.load_fitted(folder, function, output=logits)
    assert np.array_equal(loaded.score(data(40, 4)), detector.score(data(40, 4)))
    text = refused(folder, lambda images: {"answer": -net(images)}, output=logits)
    assert "gives other logits for fixed inputs" in text
