"""The state of detectors: every kind of value comes back as it was, or is refused by name."""

from __future__ import annotations

import enum
import json
import random
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench import Detector, Outputs, UserError, register
from oodbench.storage.fitted_state.detector_state import stored_state
from oodbench.storage.fitted_state.state_reading import detector_of

CPU = torch.device("cpu")


class Color(enum.Enum):
    RED = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True, slots=True)
class Slotted:
    value: Any
    others: list[Any] = field(default_factory=list)


class Linked:
    def __init__(self) -> None:
        self.itself = self


@register("keeper")
class Keeper(Detector):
    """Keeps whatever it is given."""

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.logits.sum(dim=1)


def again(**values: Any) -> Any:
    """A detector with these attributes, written as JSON and flat tensors and read again."""
    detector = Keeper()
    for name, value in values.items():
        setattr(detector, name, value)
    state, tensors = stored_state(detector)
    return detector_of(Keeper, json.loads(json.dumps(state)), tensors, CPU)


_VALUES = [
    *(
        None,
        True,
        3,
        -(2**70),
        0.1,
        -0.0,
        float("inf"),
        float("-inf"),
        "text \udc80",
        1 + 2j,
        b"\x00a",
    ),
    *((1, [2, (3,)]), [], (), {1, 2}, frozenset({"a"}), range(1, 9, 2), Path("a/b")),
    *({1: "a", "1": "b", (1, 2): [], None: 0.5, 1.5: {}}, OrderedDict(b=1, a=2), Counter("aab")),
    *(deque([1, 2], maxlen=3), defaultdict(list, {"a": [1]}), torch.Size([2, 3]), torch.float16),
    *(np.float32(0.1), np.int64(-3), np.bool_(True), np.str_("x"), Color.RED, Pair(1, [2])),
    Slotted((1,), [2]),
]


@pytest.mark.parametrize("value", _VALUES, ids=repr)
def test_plain_values(value: Any) -> None:
    found = again(value=value).value
    assert type(found) is type(value)
    assert found == value
    assert str(found) == str(value)  # -0.0, the order of mappings
    assert getattr(found, "maxlen", None) == getattr(value, "maxlen", None)


def test_nan() -> None:
    assert np.isnan(again(value=float("nan")).value)


_DTYPES = [
    *("?", "i1", "u2", "<i4", ">i4", "i8", "u8", "f2", "f4", ">f8", "c8", "c16"),
    *("U3", "S2", "M8[ns]", "m8[s]", "V3"),
]


@pytest.mark.parametrize("dtype", _DTYPES)
def test_arrays_of_every_type(dtype: str) -> None:
    array = np.frombuffer(bytes(range(1, 1 + 12 * np.dtype(dtype).itemsize)), np.uint8)
    array = (array % 2 if dtype == "?" else array % 100).astype(np.uint8).view(dtype).reshape(3, 4)
    found = again(value=array).value
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()
    assert found.flags.writeable


def test_structured_arrays_and_arrays_without_elements() -> None:
    array = np.zeros(2, dtype=[("a", "f4"), ("b", "i2", (2,))])
    array["b"] = [[1, 2], [3, 4]]
    found = again(value=array, empty=np.empty((0, 3), "f4"))
    assert found.value.dtype == array.dtype
    assert found.value.tobytes() == array.tobytes()
    assert found.empty.shape == (0, 3)


@pytest.mark.parametrize(
    "view",
    [lambda a: a.T, lambda a: a[::2, 1:], lambda a: a[::-1], lambda a: a[1:2], lambda a: a[2, 3]],
)
def test_arrays_keep_their_strides(view: Any) -> None:
    array = view(np.arange(24.0).reshape(4, 6))
    found = again(value=np.asarray(array)).value
    assert found.strides == array.strides
    assert np.array_equal(found, array)


_TYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8),
    *(torch.int16, torch.complex64, torch.float8_e4m3fn),
]


@pytest.mark.parametrize("dtype", _TYPES, ids=str)
def test_tensors_of_every_type(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).view(2, 3).to(dtype)
    found = again(value=tensor, scalar=tensor[0, 1], empty=tensor[:0])
    assert found.value.dtype == dtype
    assert found.value.tolist() == tensor.tolist() if dtype != torch.float8_e4m3fn else True
    assert torch.equal(found.value.view(torch.uint8), tensor.view(torch.uint8))
    assert found.scalar.shape == ()
    assert found.empty.shape == (0, 3)


def test_tensors_keep_their_strides_and_their_storage() -> None:
    whole = torch.arange(60.0).view(3, 4, 5)
    found = again(
        whole=whole,
        turned=whole.permute(2, 0, 1),
        part=whole[1:, ::2, 1:3],
        spread=torch.tensor([1.0, 2.0])[:, None].expand(2, 1000),
        image=torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
    )
    assert found.turned.stride() == whole.permute(2, 0, 1).stride()
    assert torch.equal(found.turned, whole.permute(2, 0, 1))
    assert found.part.stride() == whole[1:, ::2, 1:3].stride()
    assert torch.equal(found.part, whole[1:, ::2, 1:3])
    assert found.spread.stride() == (1, 0)
    assert found.image.is_contiguous(memory_format=torch.channels_last)
    found.whole[1, 0, 1] = -1  # the views are of the same storage
    assert found.part[0, 0, 0] == -1
    assert found.turned[1, 1, 0] == -1


def test_a_small_part_of_a_large_tensor_is_stored_alone() -> None:
    detector = Keeper()
    detector.value = torch.rand(1000, 1000)[5:7, 2:4].mT  # type: ignore[attr-defined]
    detector.turned = torch.rand(500, 600, 2)[::100].permute(2, 1, 0)  # type: ignore[attr-defined]
    state, tensors = stored_state(detector)
    assert sum(tensor.numel() for tensor in tensors.values()) < 10_000
    found: Any = detector_of(Keeper, state, tensors, CPU)
    assert torch.equal(found.value, detector.value)  # type: ignore[attr-defined]
    assert torch.equal(found.turned, detector.turned)  # type: ignore[attr-defined]


def test_expanded_values_are_read_again() -> None:
    """A file describes no tensor that is far larger than what it holds; such ones are stored."""
    found = again(
        tensor=torch.ones(1).expand(1200, 1000), array=np.broadcast_to(np.ones(1), (1200, 1000))
    )
    assert found.tensor.shape == found.array.shape == (1200, 1000)
    assert bool((found.tensor == 1).all())
    assert bool((found.array == 1).all())


def test_whole_numbers_of_any_length() -> None:
    """Python refuses decimal texts of more than 4,300 digits."""
    assert again(value=(10**5000, -(3**9000), 2**2048)).value == (10**5000, -(3**9000), 2**2048)


def test_what_is_shared_is_stored_once_and_stays_shared() -> None:
    bank, names = torch.rand(100), ["a"]
    detector = Keeper()
    detector.first = {"bank": bank, "names": names}  # type: ignore[attr-defined]
    detector.second = Slotted(bank, names)  # type: ignore[attr-defined]
    state, tensors = stored_state(detector)
    assert len(tensors) == 1
    found: Any = detector_of(Keeper, state, tensors, CPU)
    assert found.first["bank"] is found.second.value
    assert found.first["names"] is found.second.others


def test_what_contains_itself() -> None:
    inside: list[Any] = [1]
    inside.append((inside, {"self": inside}))
    found = again(value=inside, linked=Linked()).value
    assert found[1][0] is found
    assert found[1][1]["self"] is found
    linked = again(value=Linked()).value
    assert linked.itself is linked


def test_generators_go_on_where_they_were() -> None:
    made = {
        "numpy": np.random.default_rng(3),
        "legacy": np.random.RandomState(3),
        "torch": torch.Generator().manual_seed(3),
        "python": random.Random(3),
    }
    for each in (made["numpy"], made["legacy"]):
        each.normal(size=3)
    torch.rand(3, generator=made["torch"])
    made["python"].gauss(0, 1)
    found = again(**made)
    assert np.array_equal(found.numpy.normal(size=5), made["numpy"].normal(size=5))
    assert np.array_equal(found.legacy.normal(size=5), made["legacy"].normal(size=5))
    assert torch.equal(torch.rand(5, generator=found.torch), torch.rand(5, generator=made["torch"]))
    assert found.python.gauss(0, 1) == made["python"].gauss(0, 1)


def test_layers_of_torch_are_kept() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.BatchNorm1d(3)).eval()
    net[0].weight.requires_grad_(False)
    images = torch.rand(4, 2)
    found = again(net=net).net
    assert torch.equal(found(images), net(images))
    assert not found[0].weight.requires_grad
    assert found[0].bias.requires_grad
    assert not found.training


def _in_itself() -> Any:
    inside: list[Any] = []
    inside.append((inside, inside))
    return inside[0]


def _local() -> Any:
    class Local:
        pass

    return Local()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda: None, "function"),
        (print, "function"),
        (_local(), "Local"),
        (np.array([None]), "Python objects"),
        (torch.rand(2).to_sparse(), "sparse"),
        (torch.empty(2, device="meta"), "meta"),
        (UserError("text"), "UserError"),
        (defaultdict(lambda: 0), "defaultdict"),
        (random, "module"),
        (_in_itself(), "tuple that contains itself"),
        (Access.READ | Access.WRITE, "combination of flags"),
        (np.zeros(2, dtype=[(("title", "name"), "f4")]), "array of the type"),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_what_cannot_be_stored_is_named(value: Any, words: str) -> None:
    with pytest.raises(UserError, match=f"'keeper'.*'deep.key.1.*{words}"):
        again(deep={"key": [0, value]})


def test_too_deep() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(UserError, match="too deep"):
        again(value=nested)


_HOSTILE = [
    {"t": "object", "class": "subprocess:Popen", "v": {}},
    {"t": "object", "class": "oodbench.files:Path", "v": {}},
    {"t": "object", "class": "oodbench.numerics.bank:torch", "v": {}},
    {"t": "object", "class": "oodbench.numerics.bank:DirectionBank.__init__", "v": {}},
    {"t": "object", "class": "detector:.9:Keeper", "v": {}},
    {"t": "object", "class": "os:system", "v": {}},
    {"t": "object", "class": "torch.nn.modules.module:torch.nn", "v": {}},
    {"t": "object", "class": None, "v": {}},
    {"t": "named", "class": "oodbench.numerics.bank:DirectionBank", "v": [1]},
    {"t": "reduce", "v": ["os", "system", "true"]},
    {"t": "ref", "id": 99},
    {"t": "defaultdict", "v": [], "makes": "exec"},
    {"t": "generator", "v": {"t": "dict", "v": [["bit_generator", "system"]], "id": 7}},
    {"t": "array", "storage": "s", "dtype": "|O", "size": [1], "stride": [8], "offset": 0},
    {"t": "array", "storage": "s", "dtype": "<f8", "size": [9], "stride": [8], "offset": 0},
    {"t": "array", "storage": "s", "dtype": "<f8", "size": [2], "stride": [-8], "offset": 0},
    {"t": "array", "storage": "s", "dtype": "<f8", "size": [-1], "stride": [8], "offset": 0},
    {"t": "tensor", "storage": "s", "dtype": "uint8", "size": [99], "stride": [1], "offset": 0},
    {"t": "tensor", "storage": "s", "dtype": "uint8", "size": [10**15], "stride": [0], "offset": 0},
    {"t": "tensor", "storage": "s", "dtype": "uint8", "size": [1], "stride": [1], "offset": -1},
    {"t": "tensor", "storage": "../s", "dtype": "uint8", "size": [1], "stride": [1], "offset": 0},
    {"t": "tensor", "storage": "s", "dtype": "load", "size": [1], "stride": [1], "offset": 0},
    [1],
]


@pytest.mark.parametrize("node", _HOSTILE, ids=str)
def test_hostile_states_are_refused(node: Any) -> None:
    state = {"id": 0, "state": {"value": node}}
    with pytest.raises((UserError, KeyError, TypeError, ValueError, RuntimeError, AttributeError)):
        detector_of(Keeper, state, {"s": torch.zeros(16, dtype=torch.uint8)}, CPU)
