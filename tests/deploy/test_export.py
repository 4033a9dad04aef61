"""Files that an export writes: names, decision, metadata; what cannot be exported says why."""

from __future__ import annotations

import copy
import importlib.util
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.exported_graphs import fit_all, own_scores
from torch import Tensor, nn

from oodbench import UserError, load_detector
from oodbench.deploy.export import Export, write_export
from oodbench.deploy.graph.onnx_arithmetic import OPERATIONS
from oodbench.detector import Detector, Outputs, register
from oodbench.models import adapt
from oodbench.models.classifier import Classifier
from oodbench.testing.small_network import CLASSES, small_classifier, small_images
from oodbench.version import __version__

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.from_numpy(small_images(30, seed=4).images)


def detector(name: str, **parameters: Any) -> Detector:
    made = load_detector(name, **parameters)
    fit_all(small_classifier("linear"), {name: made}, small_images(60, 1), small_images(60, 2), 3)
    return made


def exported(path: Path, made: Detector, **options: Any) -> Export:
    options = {"metadata": {}} | options
    return write_export(small_classifier("linear"), made, path, IMAGES[:4], **options)


def refused(path: Path, made: Detector | str = "energy", **options: Any) -> UserError:
    made = detector(made) if isinstance(made, str) else made
    before = sorted(path.parent.glob("*")) if path.parent.exists() else []
    with pytest.raises(UserError) as caught:
        exported(path, made, **options)
    assert (sorted(path.parent.glob("*")) if path.parent.exists() else []) == before
    return caught.value


@register("sliced")
class Sliced(Detector):
    """With a tensor that is a part of another one, as banks of features are."""

    weight: Tensor

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.logits @ self.weight


@pytest.fixture(scope="module")
def knn() -> Detector:
    return detector("knn", k=3)


def test_onnx_file(tmp_path: Path, knn: Detector) -> None:
    own = own_scores(small_classifier("linear"), {"knn": knn}, IMAGES)["knn"]
    threshold = float(np.sort(own)[10]) / 3 * 3
    path = tmp_path / "new" / "model.onnx"
    written = exported(path, knn, threshold=threshold, metadata={"artifact": "abc"})
    assert written.path == path
    assert written.outputs == ("logits", "score", "accepted")
    assert 0 <= written.difference < 1e-5
    assert [each.name for each in path.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert {each.key: each.value for each in model.metadata_props} == {
        "oodbench.detector": "knn",
        "oodbench.parameters": '{"k": 3, "bank_size": 50000, "layers": null, "combine": "mean"}',
        "oodbench.threshold": repr(threshold),
        "oodbench.version": __version__,
        "torch.version": torch.__version__,
        "oodbench.artifact": "abc",
    }
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()
    bank = [60, 25]  # directions, each with half its square
    assert sum([*each.dims] == bank for each in model.graph.initializer) == 1
    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(float)", [2, 8, 8])
    assert isinstance(given.shape[0], str)
    assert [(each.name, each.type) for each in session.get_outputs()] == [
        ("logits", "tensor(float)"),
        ("score", "tensor(double)"),
        ("accepted", "tensor(bool)"),
    ]
    for size in (1, 2, 7, 30):
        logits, score, accepted = session.run(None, {"images": IMAGES[:size].numpy()})
        assert logits.shape == (size, CLASSES)
        assert np.abs(score - own[:size]).max() <= 1e-5 * np.abs(own).max()
        assert np.array_equal(accepted, score >= threshold)  # both in float64
    assert 0 < accepted.sum() < 30


def test_torch_export_file_without_a_threshold(tmp_path: Path, knn: Detector) -> None:
    own = own_scores(small_classifier("linear"), {"knn": knn}, IMAGES)["knn"]
    path = tmp_path / "model.pt2"
    written = exported(path, knn, metadata={"artifact": "abc"})
    assert written.outputs == ("logits", "score")
    with zipfile.ZipFile(path) as files:
        content = b"".join(map(files.read, files.namelist()))
    assert str(Path(__file__).parents[2]).encode() not in content
    kept = dict.fromkeys(["oodbench.detector", "oodbench.threshold", "oodbench.artifact"], "")
    graph = torch.export.load(path, extra_files=kept).module()
    assert kept["oodbench.detector"] == "knn"
    assert kept["oodbench.threshold"] == ""
    assert kept["oodbench.artifact"] == "abc"
    for size in (1, 2, 7):
        logits, score = graph(IMAGES[:size])
        assert logits.shape == (size, CLASSES)
        assert np.abs(score.numpy() - own[:size]).max() <= 1e-5 * np.abs(own).max()


def test_a_part_of_a_tensor_is_exported_without_warnings(tmp_path: Path) -> None:
    """Warnings of torch's exporters are not for users: the file is read and compared."""
    sliced = Sliced()
    sliced.weight = torch.arange(2.0 * CLASSES, dtype=torch.float64)[1 : CLASSES + 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert exported(tmp_path / "model.pt2", sliced).difference < 1e-6


def test_the_classifier_is_as_before(tmp_path: Path, knn: Detector) -> None:
    classifier = small_classifier("linear")
    before = {name: (id(each), each.clone()) for name, each in classifier.named_parameters()}
    hooks = [len(part._forward_hooks) for part in classifier.modules()]
    modes = [part.training for part in classifier.modules()]
    length, fast = len, torch.backends.mha.get_fastpath_enabled()
    exported(tmp_path / "model.pt2", knn)
    assert [len(part._forward_hooks) for part in classifier.modules()] == hooks
    assert [part.training for part in classifier.modules()] == modes
    for name, each in classifier.named_parameters():
        assert id(each) == before[name][0]
        assert torch.equal(each, before[name][1])
    assert len is length
    assert torch.backends.mha.get_fastpath_enabled() is fast


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "model.pt", "model.onnx.gz"])
def test_unknown_suffix(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path / name)
    assert name in error.message
    assert ".onnx" in error.hint
    assert ".pt2" in error.hint


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Cannot write" in refused(tmp_path / "file" / "model.onnx").message
    (tmp_path / "folder.onnx").mkdir()
    assert "folder.onnx" in refused(tmp_path / "folder.onnx").message


def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    error = refused(tmp_path / "model.onnx")
    assert "needs onnxscript" in error.message
    assert "pip install 'oodbench[onnx]'" in error.hint


def test_detector_with_gradients(tmp_path: Path) -> None:
    error = refused(tmp_path / "model.onnx", "odin")
    assert "'odin' cannot be exported" in error.message
    assert "gradient" in error.message


class Plain(nn.Module):
    """A classifier of 2 x 8 x 8 images whose forward is given."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.fc = nn.Linear(128, CLASSES)
        self._way = forward

    def forward(self, images: Tensor) -> Any:
        return self._way(self, images)


def looks_at_values(module: Plain, images: Tensor) -> Tensor:
    flat = images.flatten(1)
    if flat.mean() > 0:
        flat = flat * 2
    return module.fc(flat)  # type: ignore[no-any-return]


def leaves_torch(module: Plain, images: Tensor) -> Tensor:
    return module.fc(torch.from_numpy(np.sqrt(images.flatten(1).abs().numpy())))  # type: ignore[no-any-return]


def one_batch_size(module: Plain, images: Tensor) -> Tensor:
    return module.fc(images.flatten(1) + torch.zeros(4, 1))  # type: ignore[no-any-return]


def draws(module: Plain, images: Tensor) -> Tensor:
    flat = images.flatten(1)
    return module.fc(flat + torch.randn_like(flat))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (looks_at_values, ["values of a tensor", "test_export.py", "if flat.mean() > 0"]),
        (leaves_torch, ["test_export.py", ".numpy()"]),
        (one_batch_size, ["one batch size"]),
        (draws, ["other scores"]),
    ],
)
def test_model_that_cannot_be_traced(tmp_path: Path, forward: Any, words: list[str]) -> None:
    classifier = Classifier(adapt(Plain(forward)), (0.5, 0.5), (0.25, 0.25))
    energy = load_detector("energy")
    with pytest.raises(UserError) as caught:
        write_export(classifier, energy, tmp_path / "m.pt2", IMAGES[:4], metadata={})
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in caught.value.message
    assert "Plain" in caught.value.message or forward is draws
    assert not [*tmp_path.iterdir()]


@register("looking", label="L", title="A detector that looks at values")
class Looking(Detector):
    def score(self, outputs: Outputs) -> Tensor:
        largest = outputs.logits.amax(dim=1)
        return largest * 2 if largest.sum() > 0 else largest


def test_detector_that_cannot_be_traced(tmp_path: Path) -> None:
    error = refused(tmp_path / "model.onnx", Looking())
    assert "Detector 'looking' cannot be exported" in error.message
    assert "largest.sum() > 0" in error.message


def test_float64_model_is_refused_for_onnxruntime(tmp_path: Path) -> None:
    classifier = copy.deepcopy(small_classifier("linear")).double()
    energy = load_detector("energy")
    with pytest.raises(UserError) as caught:
        write_export(classifier, energy, tmp_path / "m.onnx", IMAGES[:4].double(), metadata={})
    assert "onnxruntime cannot run" in caught.value.message
    assert not [*tmp_path.iterdir()]


# --- arithmetic ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("log1p", [-1, -1 + 1e-16, -0.5, -1e-20, 0, 1e-300, 1e-17, 1e-9, 0.3, 7, 1e300, np.inf]),
        ("expm1", [-np.inf, -800, -40, -1, -1e-9, -1e-300, 0, 1e-17, 1e-8, 0.5, 30, 800, np.inf]),
        ("softplus", [-np.inf, -800, -50, -1, 0, 1e-9, 3, 19.9, 20.1, 900, np.inf]),
    ],
)
def test_operations_of_one_argument(name: str, values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    operation = getattr(torch.ops.aten, name).default
    torch.testing.assert_close(OPERATIONS[operation](x), operation(x), rtol=4e-16, atol=0)


def test_logaddexp() -> None:
    values = torch.tensor([-np.inf, -1000, -3, 0, 1e-9, 5, 1000, np.inf], dtype=torch.float64)
    a, b = torch.meshgrid(values, values, indexing="ij")
    found = OPERATIONS[torch.ops.aten.logaddexp.default](a, b)
    torch.testing.assert_close(found, torch.logaddexp(a, b), rtol=4e-16, atol=1e-16)


def test_moving_average() -> None:
    x = torch.rand(2, 1, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = OPERATIONS[torch.ops.aten.avg_pool1d.default](x, [4], [1])
    torch.testing.assert_close(found, nn.functional.avg_pool1d(x, 4, stride=1))
    assert OPERATIONS[torch.ops.aten.avg_pool1d.default](x, [4], [2]) is NotImplemented


@pytest.mark.parametrize("right", [False, True])
def test_places_in_ordered_values(right: bool) -> None:
    ordered, values = torch.tensor([0.0, 1, 1, 2]), torch.tensor([-1.0, 0, 0.5, 1, 2, 3])
    found = OPERATIONS[torch.ops.aten.searchsorted.Tensor](ordered, values, right=right)
    assert torch.equal(found, torch.searchsorted(ordered, values, right=right))


def test_distances() -> None:
    points, centers = torch.rand(4, 6), torch.rand(3, 6)
    found = OPERATIONS[torch.ops.aten.cdist.default](points, centers)
    torch.testing.assert_close(found, torch.cdist(points, centers))
