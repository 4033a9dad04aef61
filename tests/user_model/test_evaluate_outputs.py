"""What models return in `oodbench.evaluate`, and where the logits are in it."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.user_sequence import CLASSES, Returning, assert_same_scores, classifier, evaluated
from torch import Tensor, nn
from torch.utils.data import DataLoader

from oodbench import UserError

pytestmark = pytest.mark.usefixtures("quick_evaluation")

Named = namedtuple("Named", ["features", "logits"])


@dataclass(slots=True)
class Slotted:
    features: Tensor
    logits: Tensor


OUTPUTS: dict[str, tuple[Callable[..., Any], Any]] = {
    "a mapping": (lambda logits, features, maps: {"x": features, "logits": logits}, None),
    "an object": (lambda logits, features, maps: SimpleNamespace(x=features, logits=logits), None),
    "CLIP's": (
        lambda logits, features, maps: {"image_embeds": features, "logits_per_image": logits},
        None,
    ),
    "a data class": (lambda logits, features, maps: Slotted(features, logits), None),
    "a named tuple": (lambda logits, features, maps: Named(features, logits), None),
    "the only matrix": (lambda logits, features, maps: {"maps": maps, "out": logits}, None),
    "a loss first": (lambda logits, features, maps: (maps.mean(), logits), None),
    "a list": (lambda logits, features, maps: [logits], None),
    "numpy": (lambda logits, features, maps: logits.detach().numpy(), None),
    "features first": (lambda logits, features, maps: (features, logits), None),
    "features last": (lambda logits, features, maps: (logits, features), None),
    "a key": (lambda logits, features, maps: {"a": logits + 1, "b": logits}, "b"),
    "a position": (lambda logits, features, maps: (logits + 1, logits), 1),
    "an attribute": (lambda logits, features, maps: SimpleNamespace(p=logits, logits=maps), "p"),
    "a function": (
        lambda logits, features, maps: {"deep": [logits]},
        lambda returned: returned["deep"][0],
    ),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_logits_are_found_in_what_a_model_returns(name: str) -> None:
    make, output = OUTPUTS[name]
    detectors = ["energy", "knn", "vim"]
    found = evaluated(Returning(make), detectors, output=output)
    assert found.skipped == {}
    assert_same_scores(found, evaluated(classifier(), detectors))
    chosen = [note for note in found.notes if "is used as the logits" in note]
    assert len(chosen) == (1 if name in ("features first", "features last") else 0)


def test_what_several_outputs_are_is_not_guessed() -> None:
    model = Returning(lambda logits, features, maps: {"a": logits + 1, "b": logits + 2})
    with pytest.raises(
        UserError, match=r"several entries may be the logits: 'a' \[3, 6\], 'b' \[3, 6\]"
    ):
        evaluated(model, ["energy"])
    first = Returning(lambda logits, features, maps: (logits + 1, features))
    assert any("entry 0" in note for note in evaluated(first, ["energy"]).notes)
    wide = Returning(lambda logits, features, maps: {"a": features + 1, "b": logits + 1})
    assert evaluated(wide, ["energy"], num_classes=CLASSES).num_classes == CLASSES


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("scores", "a dict with the keys 'a', which has no 'scores'"),
        (0, "which has no 0"),
        (lambda returned: returned["a"].argmax(1), "int64 values"),
        (lambda returned: returned["missing"], "KeyError"),
    ],
)
def test_outputs_that_are_not_there(output: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        evaluated(Returning(lambda logits, *rest: {"a": logits}), ["energy"], output=output)


class Masked(nn.Module):
    """Averages what stands at the places of tokens that are no padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.fc = nn.Embedding(50, 12), nn.Linear(12, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = mask[:, :, None] / mask.sum(dim=1)[:, None, None]
        logits: Tensor = self.fc((self.embed(input_ids) * weights).sum(dim=1))
        return logits


class Passing(nn.Module):
    """Passes on whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Masked()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)


def _sentences(count: int, seed: int, padded: int | None, **others: Any) -> list[dict[str, Any]]:
    """Items with `attention_mask`; the one at `padded` has padding."""
    ids = torch.randint(1, 50, (count, 9), generator=torch.Generator().manual_seed(seed))
    if padded is not None:
        ids[padded, 5:] = 0
    return [
        {
            "input_ids": each,
            "attention_mask": (each != 0).long(),
            "label": index % CLASSES,
            "id": index,
            "file": f"{index}.txt",
            **others,
        }
        for index, each in enumerate(ids)
    ]


def _texts(padded: int | None, where: str = "id_data", **others: Any) -> dict[str, Any]:
    sets = {name: padded if name == where else None for name in ("id_data", "far")}
    return {
        "id_data": _sentences(48, 0, sets["id_data"], **others),
        "ood_data": {"far": DataLoader(_sentences(300, 1, sets["far"], **others), 16)},
        "fit_data": None,
    }


@pytest.mark.parametrize("make", [Masked, Passing])
@pytest.mark.parametrize(
    ("padded", "where", "name"),
    [(0, "id_data", "id_data"), (40, "id_data", "id_data"), (290, "far", "ood_data['far']")],
)
def test_entries_that_the_model_takes_by_name_are_not_dropped(
    make: type[nn.Module], padded: int, where: str, name: str
) -> None:
    with pytest.raises(UserError) as caught:
        evaluated(make().eval(), ["energy"], **_texts(padded, where))
    assert caught.value.message.startswith(f"{name}: ")
    assert "'attention_mask'" in caught.value.message
    assert "'id'" not in caught.value.message
    assert "inputs=" in caught.value.hint


@pytest.mark.parametrize("padded", [0, 40])
def test_entries_that_the_model_does_not_take_are_left_out(padded: int) -> None:
    model = Masked().eval()
    whole = _texts(padded, segment=torch.ones(2))
    found = evaluated(lambda ids: model(ids, (ids != 0).long()), ["energy"], **whole)
    ids = torch.stack([item["input_ids"] for item in whole["id_data"]])
    expected = model(ids, (ids != 0).long()).logsumexp(dim=1)
    np.testing.assert_allclose(found.scores["energy"]["id"], expected.detach(), rtol=1e-5)
    bare = _texts(None)
    found = evaluated(model, ["energy"], **bare)  # masks of ones say nothing
    ids = torch.stack([item["input_ids"] for item in bare["id_data"]])
    expected = model(ids).logsumexp(dim=1)
    np.testing.assert_allclose(found.scores["energy"]["id"], expected.detach(), rtol=1e-5)


@pytest.mark.parametrize("name", ["token_type_ids", "pixel_mask"])
def test_other_entries_for_the_model_are_refused(name: str) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Masked()

        def forward(
            self, input_ids: Any, *, token_type_ids: Any = None, pixel_mask: Any = None
        ) -> Any:
            return self.net(input_ids)

    neutral = torch.full((9,), int(name == "pixel_mask"))
    assert evaluated(Both(), ["energy"], **_texts(None, **{name: neutral})).failed == {}
    with pytest.raises(UserError, match=f"entries '{name}'"):
        evaluated(Both(), ["energy"], **_texts(None, **{name: torch.arange(9) % 2}))
