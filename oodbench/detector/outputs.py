"""What a forward pass gives a detector: the outputs of a batch.

No module of this package imports torch at the top, so that `oodbench list` stays quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from oodbench.detector.language import Language
from oodbench.errors import did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HeadKind = Literal["linear", "dismax", "other"]

_HEADS: Mapping[HeadKind, str] = {
    "linear": "a linear head",
    "dismax": "a DisMax head",
    "other": "no known head, or one that computes something else than its weights say",
}


def head_obstacle(
    needs: Set[str],
    kind: HeadKind,
    model: str,
    *,
    language: bool = False,
    rotations: bool = False,
) -> str | None:
    """The reason why a detector cannot run on a model with this last layer, or None.

    Args:
        needs: needs of the detector.
        kind: kind of the last layer.
        model: the model's name.
        language: whether it is a vision-language model.
        rotations: whether it has a second layer for rotations.
    """
    if needs & {"language", "local_features"} and not language:
        return f"needs a vision-language model, such as CLIP; {model} has no text encoder"
    if "rotations" in needs and not rotations:
        return f"needs a second head for rotations, as head rotpred has; {model} has none"
    wanted: Mapping[str, HeadKind] = {"dismax_head": "dismax", "head": "linear"}
    for need, one in wanted.items():
        if need in needs and kind != one:
            if kind == "other" and one == "linear":
                return (
                    "needs the weights of a linear last layer; the logits of "
                    f"{model} do not come from one"
                )
            return f"needs {_HEADS[one]}; {model} has {_HEADS[kind]}"
    return None


@dataclass(frozen=True, slots=True)
class Head:
    """The last layer of a classifier, detached.

    Attributes:
        kind: "linear" (logits = W f + b), "dismax" (logits = -distance to prototypes) or "other".
        weight: weights or prototypes, shape [C, D]; None if the layer has none.
        bias: shape [C], or None.
        rotations: whether a second layer tells by how much an image is rotated.
    """

    kind: HeadKind
    weight: Tensor | None = None
    bias: Tensor | None = None
    rotations: bool = False

    @property
    def linear_weight(self) -> Tensor:
        """W of a linear layer, shape [C, D].

        Raises:
            ValueError: if the layer is not linear. Declare the need "head".
        """
        if self.kind != "linear" or self.weight is None:
            raise ValueError(f"a {self.kind} head has no W and b")
        return self.weight

    def copied(self) -> Head:
        """A head whose tensors may be changed in place."""
        weight, bias = (None if t is None else t.clone() for t in (self.weight, self.bias))
        return Head(self.kind, weight, bias, self.rotations)

    def logits(self, features: Tensor) -> Tensor:
        """Logits W f + b of a linear layer, for other features than the network's.

        Args:
            features: shape [B, D].

        Returns:
            Shape [B, C], float64; the product is taken in the features' own precision.

        Raises:
            ValueError: if the layer is not linear. Declare the need "head".
        """
        logits = features @ self.linear_weight.to(features).T
        return (logits if self.bias is None else logits + self.bias.to(features)).double()


_NEEDED: Mapping[str, tuple[str, ...]] = {
    "features": ("features",),
    "feature_map": ("feature_map",),
    "taps": ("taps",),
    "tap_maps": ("tap_maps",),
    "layers": ("layers",),
    "labels": ("labels",),
    "head": ("head", "dismax_head"),
    "input_gradients": ("input_gradients",),
    "replaced_logits": ("replaced_logits",),
    "language": ("language",),
    "local_features": ("local_features",),
    "sampled_logits": ("dropout_logits", "member_logits"),
    "perturbed": ("perturbed",),
    "tap_gradients": ("tap_gradients",),
    "rotation_logits": ("rotations",),
}
"""Attribute of `Outputs` -> the needs that give it to a detector."""

_OF_MODEL = ("head", "language", "dtype", "absent", "own")
"""Attributes that are the same for every image."""


@dataclass(frozen=True, slots=True, repr=False)
class Outputs:
    """Outputs of a network for a batch of B images, as a detector reads them.

    A detector gets the logits and what it declares in `needs`. Reading another attribute raises an
    `AttributeError` that names the need.

    Attributes:
        logits: class scores, shape [B, C], float64. For a DisMax head they are minus the distances
            to the prototypes, on the scale used at inference.
        features: penultimate features (input of the last layer), shape [B, D].
        feature_map: the map whose spatial mean is `features`, shape [B, D, H, W]; the features
            themselves, shape [B, D, 1, 1], if the network has no such map. Never stored: the maps
            of a data set would fill the memory.
        taps: name -> activation averaged over space, shape [B, D_tap]; in the order of the network.
        tap_maps: name -> activation before the average, shape [B, D_tap, ...]; never stored.
        labels: true classes, shape [B], int64; None where the data has none.
        head: the network's last layer.
        layers: name of a layer -> its activation, reduced by the detector's `reduce_layer`, shape
            [B, ...]; in the order of the network. Given while fitting and scoring; the activations
            themselves are never stored.
        reduced: for the engine only: method -> its `layers`.
        absent: for the engine only: method -> chosen layers that did not run; "" -> such taps.
        input_gradients: name of a loss of `Detector.gradient_losses` -> its gradient with respect
            to the images, shape [B, C, H, W], images being in [0, 1]. Given while scoring,
            calibrating and tuning; empty while fitting.
        replaced_logits: tap -> logits of the network after `replace_tap` of that tap, shape [B, C],
            float64. Given while scoring and tuning; empty while fitting.
        language: the text side of a vision-language model; None for other models.
        local_features: features of the patches of each image, projected into the space of the text
            features, shape [B, P, D]; never stored.
        sampled_logits: logits of M passes with dropout, or of M members of an ensemble, shape
            [B, M, C], float64. Given while scoring and tuning; None while fitting.
        perturbed: the outputs of the images after the step of a `PerturbingDetector`; all other
            attributes are then of the images before it. Given while fitting, scoring and tuning.
        tap_gradients: tap, or "features" -> what `Detector.reduce_gradient` made of the gradient of
            the loss with respect to it, shape [B, ...]. Given while fitting, scoring and tuning.
        own: for the engine only, in a pass that detectors are fitted on: method -> what it is given
            instead of these outputs, or why it is given nothing.
        rotation_logits: logits of the second head, shape [B, 4, 4], float64: for the image rotated
            by 0, 90, 180 and 270 degrees, those of these rotations. Given while scoring and tuning;
            None while fitting.
        dtype: the floating type that the network computes in: the precision of `logits`.
    """

    logits: Tensor
    features: Tensor
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    head: Head = field(default_factory=lambda: Head("other"))
    feature_map: Tensor | None = None
    tap_maps: Mapping[str, Tensor] = field(default_factory=dict)
    input_gradients: Mapping[str, Tensor] = field(default_factory=dict)
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    reduced: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    absent: Mapping[str, Sequence[str]] = field(default_factory=dict)
    replaced_logits: Mapping[str, Tensor] = field(default_factory=dict)
    language: Language | None = None
    local_features: Tensor | None = None
    sampled_logits: Tensor | None = None
    perturbed: Outputs | None = None
    tap_gradients: Mapping[str, Tensor] = field(default_factory=dict)
    own: Mapping[str, Outputs | Exception] = field(default_factory=dict)
    rotation_logits: Tensor | None = None
    dtype: torch.dtype = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", self.features.dtype)

    def __len__(self) -> int:
        return int(self.logits.shape[0])

    if not TYPE_CHECKING:  # or mypy would take every attribute for one that exists

        def __getattr__(self, name: str) -> Any:
            """Called for an attribute that is withheld (see `only`), or does not exist."""
            if name in _NEEDED:
                raise AttributeError(
                    f"outputs.{name} is not declared: write needs=('{_NEEDED[name][0]}', ...) in "
                    "@register"
                )
            raise AttributeError(
                f"outputs has no attribute '{name}'. {did_you_mean(name, ('logits', *_NEEDED))}"
            )

    def __repr__(self) -> str:
        shapes = {
            name: f"{list(value.shape)}" if hasattr(value, "shape") else f"{[*value]}"
            for name, value in self._held().items()
            if hasattr(value, "shape") or (isinstance(value, Mapping) and value)
        }
        return f"Outputs({', '.join(f'{name}={shape}' for name, shape in shapes.items())})"

    def __getstate__(self) -> dict[str, Any]:
        return self._held()

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def _held(self) -> dict[str, Any]:
        """The attributes that are not withheld."""
        return {name: getattr(self, name) for name in self.__slots__ if hasattr(self, name)}

    @classmethod
    def _of(cls, held: Mapping[str, Any]) -> Outputs:
        made = cls.__new__(cls)
        made.__setstate__(held)
        return made

    def replaced(self, **changes: Any) -> Outputs:
        """A copy with other values; withheld attributes that are not among them stay withheld."""
        if "features" in changes:
            changes["dtype"] = changes["features"].dtype
        return Outputs._of({**self._held(), **changes})

    def map(self, function: Callable[[Tensor], Tensor]) -> Outputs:
        """Outputs with `function` applied to every per-image tensor (not to the head)."""

        def mapped(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: mapped(each) for name, each in value.items()}
            if isinstance(value, Outputs):
                return value.map(function)
            return None if value is None else function(value)

        held = self._held()
        changed = {name: mapped(value) for name, value in held.items() if name not in _OF_MODEL}
        if "features" in changed:
            changed["dtype"] = changed["features"].dtype
        return Outputs._of({**held, **changed})

    def only(self, needs: Set[str]) -> Outputs:
        """The part that a detector with these needs may read; the rest is withheld."""
        given = _given(frozenset(needs))
        held = {name: getattr(self, name) for name in given if hasattr(self, name)}
        if held.get("perturbed") is not None:
            held["perturbed"] = held["perturbed"].only(needs - {"perturbed"})
        return Outputs._of(
            {**held, "reduced": self.reduced if "layers" in needs else {}, "own": {}}
        )

    def without_maps(self) -> Outputs:
        """A copy without maps and layers, which are not stored for a whole data set."""
        empty: dict[str, Any] = {"feature_map": None, "tap_maps": {}, "layers": {}, "reduced": {}}
        empty |= {"replaced_logits": {}, "local_features": None, "rotation_logits": None}
        held = self._held()
        if held.get("perturbed") is not None:
            empty["perturbed"] = held["perturbed"].without_maps()
        return self.replaced(**{name: value for name, value in empty.items() if name in held})

    def given_to(self, method: str) -> Outputs:
        """What a method is given of these outputs while it is fitted: all, or its own (`own`).

        Raises:
            Exception: why it is given nothing.
        """
        given = self.own.get(method, self)
        if isinstance(given, Exception):
            raise given
        return given

    def copied(self, needs: Set[str], method: str = "") -> Outputs:
        """Contiguous copies for a detector with these needs, which it may change in place.

        Args:
            needs: needs of the detector.
            method: name of the method that `layers` are reduced for.

        Raises:
            ValueError: if a layer that the detector reads did not run for these images.
        """
        import torch

        absent = [*self.absent.get(method, ())] if method and "layers" in needs else []
        if needs & {"taps", "tap_maps"}:
            absent += self.absent.get("", ())
        if absent:
            raise ValueError(
                f"the layer '{absent[0]}' did not run for a batch of {len(self)} images, and only "
                "layers that run for every image can be looked at: name others with taps=[...], or "
                "to a detector that chooses layers of its own"
            )
        given = self.only(needs)
        changes: dict[str, Any] = {"reduced": {}}
        if hasattr(given, "head"):
            changes["head"] = given.head.copied()
        if "layers" in needs and method in self.reduced:
            changes["layers"] = self.reduced[method]
        if "perturbed" in needs:  # without a step: the same outputs
            after = self if self.perturbed is None else self.perturbed
            changes["perturbed"] = after.copied(needs - {"perturbed"}, method)
        return given.replaced(**changes).map(
            lambda tensor: tensor.clone(memory_format=torch.contiguous_format)
        )

    def detach(self) -> Outputs:
        """A copy without the autograd graph."""
        return self.map(lambda tensor: tensor.detach())

    def __getitem__(self, rows: slice) -> Outputs:
        return self.map(lambda tensor: tensor[rows])

    @staticmethod
    def concatenate(batches: Sequence[Outputs]) -> Outputs:
        """One Outputs from several batches of the same network, in order; without maps."""
        import torch

        def joined(parts: Sequence[Any]) -> Any:
            if isinstance(parts[0], Mapping):
                common = [name for name in parts[0] if all(name in part for part in parts)]
                return {name: joined([part[name] for part in parts]) for name in common}
            if isinstance(parts[0], Outputs):
                return Outputs.concatenate(parts)
            return None if any(part is None for part in parts) else torch.cat(list(parts))

        first = batches[0].without_maps()
        names = [name for name in first._held() if name not in _OF_MODEL]
        absent = {key: names for batch in batches for key, names in batch.absent.items()}
        parts = [batch.without_maps() for batch in batches]
        return first.replaced(
            absent=absent,
            **{name: joined([getattr(part, name) for part in parts]) for name in names},
        )


@cache
def _given(needs: frozenset[str]) -> tuple[str, ...]:
    """The attributes of `Outputs` that are not withheld from a detector with these needs."""
    return tuple(
        name
        for name in Outputs.__slots__
        if name not in _NEEDED or not needs.isdisjoint(_NEEDED[name])
    )
