"""Models in `oodbench.evaluate`: types, wrappers, devices, and state that is restored."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.user_detectors import Ensemble, Learner, Typed
from helpers.user_network import (
    ALL,
    CLASSES,
    MEAN,
    STD,
    Net,
    evaluated,
    made,
    normalized,
    pairs,
    refused,
    snapshot,
    users,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import oodbench
from oodbench import UserError
from oodbench.deploy.restoration import given_back
from oodbench.models.user_classifier import UserClassifier, reorder

pytestmark = pytest.mark.usefixtures("quick_evaluation")


def test_the_model_is_given_back_as_it_was(trained: Net) -> None:
    model = users(trained)
    before = snapshot(model)
    result = evaluated(model, [*ALL, Ensemble(), Learner()], costs=True)
    assert result.failed == result.skipped == {}
    assert snapshot(model) == before
    F.cross_entropy(model(made(8, 0)[0]), made(8, 0)[1]).backward()  # and it trains on


@pytest.mark.parametrize("where", ["data", "model", "labels", "interrupt", "early"])
def test_the_model_is_given_back_when_something_raises(trained: Net, where: str) -> None:
    model = users(trained)

    class Failing(TensorDataset):
        def __getitem__(self, index: Any) -> Any:
            if index >= 300:
                raise KeyboardInterrupt if where == "interrupt" else OSError("gone")
            return super().__getitem__(index)

    images, labels = made(400, 2)
    data: Any = Failing(images, labels)
    if where == "model":
        images[350] *= torch.nan
        data = DataLoader(
            [(images[:300], labels[:300]), (images[300:, :1], labels)], batch_size=None
        )
    if where == "labels":
        data = TensorDataset(images, labels + 1)
    before = snapshot(model)
    expected = KeyboardInterrupt if where == "interrupt" else UserError
    bad = {"taps": ["fc2"]} if where == "early" else {"id_data": data}
    with pytest.raises(expected):
        evaluated(model, ALL, validation_data=None, **bad)
    assert snapshot(model) == before


def test_stand_ins_are_in_channels_last_order_and_the_models_own_are_not_touched() -> None:
    class Standardizing(nn.Conv2d):
        """As others write it: with a view of its weight."""

        def forward(self, images: Tensor) -> Tensor:
            scale = self.weight.view(len(self.weight), -1).std(dim=1)
            return F.conv2d(images, self.weight / scale[:, None, None, None])

    model = Net()
    model.add_module("others", Standardizing(2, 8, 3))
    own = model.conv1.weight
    with given_back(model, torch.device("cpu")):
        reorder(model)
        assert model.conv1.weight is not own
        assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
        assert model.get_parameter("others.weight").is_contiguous()
        assert not model.conv1.weight.requires_grad
        model.bn1.running_mean += 1  # type: ignore[operator]
    assert model.conv1.weight is own
    assert own.is_contiguous()
    assert model.bn1.running_mean is not None
    assert float(model.bn1.running_mean.abs().sum()) == 0


def test_what_a_model_keeps_in_a_pass_is_forgotten(trained: Net) -> None:
    """A cache filled in inference mode would break a training later."""

    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.cache = copy.deepcopy(trained), None
            self.last = torch.zeros(1)
            self.calls: list[int] = []

        def forward(self, images: Tensor) -> Tensor:
            self.last, self.new = images, images.mean()
            if self.cache is None:
                self.cache = torch.ones(2, 1, 1, device=images.device)
            self.calls.append(len(images))
            return self.net(images * self.cache)

    model = Caching()
    last = model.last
    evaluated(model, ["baseline"])
    assert model.cache is None
    assert model.last is last
    assert not hasattr(model, "new")
    assert model.calls


def test_tied_and_recurrent_weights() -> None:
    class Tied(nn.Module):
        """One weight under two names, and a layer that keeps references to its own weights."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
            self.second.weight = self.first.weight
            self.rnn = nn.GRU(12, 8, batch_first=True)
            self.fc = nn.Linear(8, CLASSES)

        def forward(self, images: Tensor) -> Any:
            rows = self.second(self.first(images)).permute(0, 2, 1, 3).flatten(2)
            return self.fc(self.rnn(rows)[0][:, -1])

    torch.manual_seed(0)
    model = Tied().eval()
    before = snapshot(model)
    expected = model(made(60, 1)[0]).detach()
    result = evaluated(model, ["max_logit"], normalization=None)
    np.testing.assert_allclose(result.scores["max_logit"]["id"], expected.amax(1), rtol=1e-5)
    assert snapshot(model) == before
    torch.testing.assert_close(model(made(60, 1)[0]).detach(), expected)
    assert model.second.weight is model.first.weight


def test_wrapped_models(trained: Net) -> None:
    expected = evaluated(trained, ["baseline"]).scores["baseline"]
    # As its constructor leaves it, which wants other processes.
    distributed = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(distributed)
    distributed.module = trained
    # On a machine with a GPU, DataParallel moves what it is given.
    for wrapped in (nn.DataParallel(copy.deepcopy(trained)), distributed):
        found = evaluated(wrapped, ["baseline"])
        assert found.model == "Net"
        np.testing.assert_array_equal(found.scores["baseline"]["id"], expected["id"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_types(trained: Net, dtype: torch.dtype) -> None:
    expected = evaluated(trained, ["max_logit", "odin"])
    model = copy.deepcopy(trained).to(dtype)
    spied: list[torch.dtype] = []
    model.conv1.register_forward_pre_hook(lambda module, inputs: spied.append(inputs[0].dtype))
    result = evaluated(model, ["max_logit", "odin", "mahalanobis", "vim", Typed()])
    assert result.failed == {}
    seen = result.detectors["typed"].seen  # type: ignore[attr-defined]
    assert seen == {torch.promote_types(dtype, torch.float32)}
    assert set(spied) == {dtype}
    tolerance = 1e-5 if dtype == torch.float64 else 0.1
    for label, scores in expected.scores.items():
        np.testing.assert_allclose(
            result.scores[label]["id"], scores["id"], rtol=tolerance, atol=tolerance
        )


def test_images_are_not_in_half_precision_before_they_are_normalized() -> None:
    """A step of 0.0014 would be lost in it."""
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        classifier = UserClassifier(
            oodbench.models.adapt(Net()),
            ((0.1, 0.1), (1.0, 1.0)),
            dtype=dtype,
            device=torch.device("cpu"),
            channels_last=True,
        )
        assert classifier.dtype == torch.promote_types(dtype, torch.float32)
        images = torch.full((1, 2, 3, 3), 0.3, dtype=classifier.dtype)
        expected = images.double() - 0.1
        assert classifier.normalized(images).dtype == dtype
        torch.testing.assert_close(classifier.normalized(images), expected.to(dtype))


def test_a_model_that_views_its_maps(trained: Net) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 4, 3), nn.Linear(64, CLASSES)

        def forward(self, images: Tensor) -> Any:
            return self.fc(self.conv(images).view(len(images), 64))

    torch.manual_seed(0)
    model = Views()
    result = evaluated(model, ["max_logit", "odin"])
    assert result.failed == {}
    expected = model(normalized(made(60, 1)[0])).detach().amax(1)
    np.testing.assert_allclose(result.scores["max_logit"]["id"], expected, rtol=1e-4)


def test_a_model_that_works_in_place_on_its_images(trained: Net) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = trained

        def forward(self, images: Tensor) -> Any:
            return self.net(images.sub_(0.5))

    given = made(60, 1)[0]
    kept = given.clone()
    batches = DataLoader([(given, made(60, 1)[1])], batch_size=None)  # the user's own tensors
    for options in ({"normalization": None}, {}):
        result = evaluated(InPlace(), ["baseline", "odin"], id_data=batches, **options)
        assert result.failed == {}
        torch.testing.assert_close(given, kept, rtol=0, atol=0)


def test_a_last_batch_of_one_image(trained: Net) -> None:
    whole = evaluated(trained, ["baseline", Learner()])
    given = {"id_data": DataLoader(pairs(60, 1), 59), "fit_data": DataLoader(pairs(256, 0), 255)}
    parts = evaluated(trained, ["baseline", Learner()], **given)
    for label, scores in whole.scores.items():
        np.testing.assert_allclose(parts.scores[label]["id"], scores["id"], rtol=1e-5)
    alone = evaluated(trained, ["baseline"], id_data=pairs(1, 1), ood_data={"one": pairs(1, 2)})
    assert len(alone.scores["baseline"]["one"]) == 1


class Squeezing(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Any:
        return self.net(images).squeeze()


BAD_MODELS: dict[str, tuple[Callable[[Net], Any], str]] = {
    "no module": (lambda net: "resnet18", "or a function that gives logits, not a str."),
    "a class": (lambda net: Net, "or a function that gives logits, not the class Net."),
    "other channels": (
        lambda net: nn.Sequential(nn.Conv2d(3, 4, 6), nn.Flatten(), nn.Linear(4, CLASSES)),
        "The model Sequential cannot take the images of id_data, of shape [2, 6, 6]: RuntimeError: "
        "Given groups=1",
    ),
    "other size": (
        lambda net: nn.Sequential(nn.Flatten(), nn.Linear(50, CLASSES)),
        "cannot take the images of id_data, of shape [2, 6, 6]: RuntimeError: ",
    ),
    "not a number": (
        lambda net: _changed(net, "fc.bias", torch.nan),
        "The model's logits for image 0 of id_data are not finite.",
    ),
    "on no device": (lambda net: net.to("meta"), "on the device 'meta', without values"),
}


def _changed(net: Net, name: str, value: float) -> Net:
    net.get_parameter(name).data[0] = value
    return net


@pytest.mark.parametrize("name", BAD_MODELS)
def test_models_that_are_not_classifiers(trained: Net, name: str) -> None:
    make, said = BAD_MODELS[name]
    assert said in refused(make(copy.deepcopy(trained))).message


def test_a_model_that_forgets_the_batch_of_one(trained: Net) -> None:
    batches = DataLoader(pairs(61, 1), 60)
    error = refused(Squeezing(trained), id_data=batches)
    assert error.message == (
        "At image 60 of id_data: The network Squeezing returned a tensor of shape [4] for a batch "
        "of one image, not logits [images, classes]."
    )
    assert "flatten(1)" in error.hint


def test_an_image_that_makes_logits_infinite_is_named(trained: Net) -> None:
    """Also where the batch is computed in parts because it does not fit in memory."""

    class Fragile(nn.Module):
        def __init__(self, most: int) -> None:
            super().__init__()
            self.net, self.most = trained, most

        def forward(self, images: Tensor) -> Tensor:
            if len(images) > self.most:
                raise torch.OutOfMemoryError
            logits: Tensor = self.net(images)
            return logits / (images[:, 0, 0, 0] > 0.001)[:, None]

    images, labels = made(60, 1)
    images[:, 0, 0, 0] = 0.5
    images[37, 0, 0, 0] = 0.0
    data = TensorDataset(images, labels)
    for most in (1000, 7):
        for loader in (data, DataLoader(data, 16)):
            for name, given in {
                "id_data": {"id_data": loader},
                "ood_data['x']": {"ood_data": {"x": loader}},
                "fit_data": {"fit_data": loader},
            }.items():
                if most == 7 and name == "id_data" and loader is data:
                    continue  # one of these is enough
                error = refused(Fragile(most), [Learner()], normalization=None, **given)
                assert error.message == f"The model's logits for image 37 of {name} are not finite."


class LowRank(nn.Linear):
    """With an update that its weight does not hold."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) + 0.1 * features.sum(1, keepdim=True).expand(-1, CLASSES)


def test_a_last_layer_whose_weights_are_not_all_there_is_to_it() -> None:
    torch.manual_seed(0)
    result = evaluated(Net(LowRank), ["energy", "dice"])
    assert result.skipped == {
        "dice": "needs the weights of a linear last layer; the logits of the model do not come "
        "from one"
    }
    assert result.failed == {}


def test_a_model_whose_logits_are_not_of_the_image_alone(trained: Net) -> None:
    model = copy.deepcopy(trained)
    model.bn1 = nn.BatchNorm2d(8, track_running_stats=False)
    result = evaluated(model, ["energy"])
    assert [n.split(",")[0] for n in result.notes] == [
        "The logits of an image depend on the other images of its batch"
    ]
    assert "BatchNorm without running statistics" in " ".join(str(result).split())

    class Dropping(Net):
        def forward(self, images: Tensor) -> Any:
            return super().forward(F.dropout(images, 0.5))

    dropping = Dropping()
    dropping.load_state_dict(trained.state_dict())
    (note,) = evaluated(dropping, ["energy"]).notes
    assert note.startswith("The logits of an image differ from call to call")
    assert evaluated(trained, ["energy"]).notes == ()


def test_the_order_of_a_sampler_is_noted(trained: Net) -> None:
    data = pairs(60, 1)
    loader = DataLoader(data, 16, sampler=WeightedRandomSampler([1.0] * 60, 60))
    (note,) = evaluated(trained, ["energy"], id_data=loader).notes
    assert note.startswith("id_data was read in the order of its own sampler")


def test_in_autocast_nothing_is_different(trained: Net) -> None:
    expected = evaluated(trained, ["energy", Learner()])
    with torch.autocast("cpu", torch.bfloat16):
        result = evaluated(trained, ["energy", Learner()])
        assert torch.is_autocast_enabled("cpu")
    for label, scores in expected.scores.items():
        np.testing.assert_array_equal(result.scores[label]["id"], scores["id"])


def test_features_that_are_worked_on_after_the_last_layer(trained: Net) -> None:
    class Spoiling(Net):
        def forward(self, images: Tensor) -> Any:
            x = self.relu(self.bn1(self.conv1(images)))
            x = self.relu(self.bn2(self.conv2(x))).mean(dim=(2, 3))
            logits = self.fc(x)
            x.zero_()
            return logits

    spoiling = Spoiling()
    spoiling.load_state_dict(trained.state_dict())
    expected = evaluated(trained, [Learner()]).scores["learner"]
    found = evaluated(spoiling, [Learner(), "dice"])
    assert found.skipped == {}, "the layer is seen to be linear"
    for name, scores in found.scores["learner"].items():
        np.testing.assert_allclose(scores, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("made_by", ["weight norm", "spectral norm", "pruning"])
def test_a_convolution_whose_weight_is_made_in_each_pass(trained: Net, made_by: str) -> None:
    model = copy.deepcopy(trained)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old ways that many networks are written in
        if made_by == "weight norm":
            nn.utils.weight_norm(model.conv1)
        elif made_by == "spectral norm":
            nn.utils.spectral_norm(model.conv1)
        else:
            prune.l1_unstructured(model.conv1, "weight", 0.1)
    result = evaluated(model, ["energy"])
    expected = model.eval()(normalized(made(60, 1)[0])).detach().logsumexp(1)
    np.testing.assert_allclose(result.scores["energy"]["id"], expected, rtol=1e-4)


def test_a_body_in_half_precision_with_a_head_that_is_not(trained: Net) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = copy.deepcopy(trained).bfloat16(), copy.deepcopy(trained.fc)
            self.body.fc = nn.Identity()  # type: ignore[assignment]

        def forward(self, images: Tensor) -> Any:
            return self.fc(self.body(images).float())

    result = evaluated(Mixed(), ["energy", "react"], normalization=(MEAN, STD))
    assert result.failed == {}
    expected = evaluated(trained, ["energy"]).scores["energy"]["id"]
    assert float(np.abs(result.scores["energy"]["id"] - expected).max()) < 0.1


def test_lazy_layers_that_have_not_been_run(trained: Net) -> None:
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES))
    assert "lazy layers that have not been run" in refused(lazy).message


def test_a_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        torch.manual_seed(0)
        model = Net()
    assert evaluated(model, ["energy", "odin"]).failed == {}


def test_devices(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    assert evaluated(trained, ["baseline"], device="cpu").failed == {}
    assert evaluated(trained, ["baseline"], device=torch.device("cpu")).failed == {}
    error = refused(trained, device="cudnn")
    assert error.message == "device: expected auto, cpu, cuda or cuda:i, not 'cudnn'."
    missing = f"cuda:{torch.cuda.device_count()}"
    error = refused(trained, device=missing)
    assert error.message.startswith(f"device: there is no '{missing}': torch finds")
    assert "the device cpu" in error.hint
    spread = copy.deepcopy(trained)
    spread.fc.to("meta")
    assert "on several devices: cpu, meta" in refused(spread).message


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("at", "asked"), [("cpu", "auto"), ("cuda", "cpu"), ("cuda", "auto")])
def test_a_model_on_another_device_than_asked(trained: Net, at: str, asked: str) -> None:
    model = users(trained).to(at)
    before = snapshot(model)
    result = evaluated(model, [*ALL, Ensemble()], device=asked, costs=True)
    assert result.failed == {}
    assert snapshot(model) == before
    expected = evaluated(users(trained), ["baseline"], device="cpu").scores["baseline"]["id"]
    np.testing.assert_allclose(result.scores["baseline"]["id"], expected, rtol=1e-4)
