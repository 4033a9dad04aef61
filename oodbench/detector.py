"""What a detector is: the base class, what a pass gives it, and the `register` decorator.

A detector's file is content: it imports from here and knows nothing of the engine that runs it.
This module imports no torch, so that listing detectors stays quick.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, get_args

from oodbench.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HeadKind = Literal["linear", "dismax", "other"]

_HEADS: Mapping[HeadKind, str] = {
    "linear": "a linear head",
    "dismax": "a DisMax head",
    "other": "no known head, or one that computes something else than its weights say",
}


def head_obstacle(needs: Set[str], kind: HeadKind, model: str) -> str | None:
    """Why a detector cannot run on a model because of its last layer, or None.

    Args:
        needs: of the detector.
        kind: of the last layer.
        model: what the model is called.
    """
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


Need = Literal[
    "features",  # the penultimate features (the input of the last layer)
    "feature_map",  # the map whose mean over space is the penultimate features
    "taps",  # every tap of the network, pooled to a vector: a feature ensemble
    "tap_maps",  # every tap as it is, before pooling
    "layers",  # every convolution and activation, reduced while the network runs
    "labels",  # true labels while fitting
    "head",  # the weights of a linear last layer
    "dismax_head",  # a network trained with a DisMax-type (distance) head
    "input_gradient",  # a step of the image against the gradient of a loss, before it is scored
    "input_gradients",  # the gradient of a loss with respect to the image, to score with
    "replaced_logits",  # the logits of the network with another output of a feature layer
    "fit",  # a pass over the training images before scoring
    "validation",  # a pass over labeled images that were not trained on, after it
    "calibration",  # a model of its own, trained on tuning data
]
NEEDS: tuple[str, ...] = get_args(Need)


@dataclass(frozen=True, slots=True)
class Head:
    """The last layer of a classifier, detached.

    Attributes:
        kind: "linear" (logits = W f + b), "dismax" (logits = -distance to prototypes) or "other".
        weight: weights or prototypes, shape [C, D]; None if the layer has none.
        bias: shape [C], or None.
    """

    kind: HeadKind
    weight: Tensor | None = None
    bias: Tensor | None = None

    def logits(self, features: Tensor) -> Tensor:
        """What a linear layer makes of other features than the network's: W f + b.

        Args:
            features: shape [B, D].

        Returns:
            Shape [B, C], float64; the product is taken in the features' own precision.

        Raises:
            ValueError: if the layer is not linear. Declare the need "head".
        """
        if self.kind != "linear" or self.weight is None:
            raise ValueError(f"a {self.kind} head has no W and b")
        logits = features @ self.weight.to(features).T
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
}
"""Attribute of `Outputs` -> the needs that give it to a detector."""


@dataclass(frozen=True, slots=True, repr=False)
class Outputs:
    """What one pass of a network gives a detector for a batch of B images.

    A detector gets the logits and what it declares that it needs. To read another attribute raises
    an `AttributeError` that names the need.

    Attributes:
        logits: class scores, shape [B, C], float64. For a DisMax head they are minus the distances
            to the prototypes, on the scale used at inference.
        features: penultimate features (input of the last layer), shape [B, D].
        feature_map: the map whose mean over space is `features`, shape [B, D, H, W]; where the
            network has none, the features themselves, shape [B, D, 1, 1]. Given to detectors that
            declare the need; kept by nobody, since a data set's maps fill the memory.
        taps: name -> activation averaged over space, shape [B, D_tap]; in the order of the network.
        tap_maps: name -> activation as it is, shape [B, D_tap, ...]; as for `feature_map`.
        labels: true classes, shape [B], int64; None where the data has none.
        head: the network's last layer.
        layers: name of a layer -> what the detector's `reduce_layer` made of its activation, shape
            [B, ...]; in the order of the network. Given while fitting and scoring to detectors that
            declare the need; the activations themselves are not kept.
        reduced: the engine's: method -> its `layers`.
        absent: the engine's: method -> layers of its choice that did not run; "" -> such taps.
        input_gradients: name of a loss of `Detector.gradient_losses` -> its gradient with respect
            to the images, shape [B, C, H, W], images being in [0, 1]. Given while scoring,
            calibrating and tuning to detectors that declare the need; empty while fitting.
        replaced_logits: tap -> the logits that the network gives with the detector's `replace_tap`
            of it in its place, shape [B, C], float64. Given while scoring and tuning to detectors
            that declare the need; empty while fitting.
        dtype: the floating type that the network computes in; `logits` are no more exact than that.
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
    dtype: torch.dtype = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", self.features.dtype)

    def __len__(self) -> int:
        return int(self.logits.shape[0])

    if not TYPE_CHECKING:  # or mypy would take every attribute for one that exists

        def __getattr__(self, name: str) -> Any:
            """An attribute that is withheld (see `only`), or that there is none of."""
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
        """With other values; what is withheld and not among them stays so."""
        if "features" in changes:
            changes["dtype"] = changes["features"].dtype
        return Outputs._of({**self._held(), **changes})

    def map(self, function: Callable[[Tensor], Tensor]) -> Outputs:
        """Outputs with `function` applied to every per-image tensor (not to the head)."""

        def mapped(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: mapped(each) for name, each in value.items()}
            return None if value is None else function(value)

        kept = ("head", "dtype", "absent")
        held = self._held()
        changed = {name: mapped(value) for name, value in held.items() if name not in kept}
        if "features" in changed:
            changed["dtype"] = changed["features"].dtype
        return Outputs._of({**held, **changed})

    def only(self, needs: Set[str]) -> Outputs:
        """What a detector may read that declares `needs`; the rest is withheld."""
        given = _given(frozenset(needs))
        held = {name: getattr(self, name) for name in given if hasattr(self, name)}
        return Outputs._of({**held, "reduced": self.reduced if "layers" in needs else {}})

    def without_maps(self) -> Outputs:
        """Without what is not kept for a whole data set: maps and layers."""
        empty: dict[str, Any] = {"feature_map": None, "tap_maps": {}, "layers": {}, "reduced": {}}
        empty["replaced_logits"] = {}
        held = self._held()
        return self.replaced(**{name: value for name, value in empty.items() if name in held})

    def copied(self, needs: Set[str], method: str = "") -> Outputs:
        """What a detector gets that declares `needs`: contiguous copies, to change at will.

        Args:
            needs: of the detector.
            method: whose `layers` it gets.

        Raises:
            ValueError: if one of the layers that it gets did not run for these images.
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
        if "layers" in needs and method in self.reduced:
            changes["layers"] = self.reduced[method]
        return given.replaced(**changes).map(
            lambda tensor: tensor.clone(memory_format=torch.contiguous_format)
        )

    def detach(self) -> Outputs:
        """Outputs without their graph."""
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
            return None if any(part is None for part in parts) else torch.cat(list(parts))

        first = batches[0].without_maps()
        names = [name for name in first._held() if name not in ("head", "dtype", "absent")]
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


S = TypeVar("S")
R = TypeVar("R")


class Batches:
    """A pass over a split, as `Detector.fit` sees it: an iterable of Outputs.

    Iterating a second time passes the split again.

    What several detectors compute in the same way can be computed once for all of them::

        moments = batches.shared(ClassMoments, batches.num_classes)
        for outputs in batches:
            batches.once(moments.update, outputs.features, outputs.labels)
        gaussian = batches.once(moments.tied_gaussian)
    """

    num_classes: int

    def __iter__(self) -> Iterator[Outputs]:
        raise NotImplementedError

    def shared(self, kind: Callable[..., S], *arguments: Any, of: str = "features") -> S:
        """One object for all detectors that ask for it.

        Args:
            kind: makes it.
            arguments: of `kind`; others make another object.
            of: what it is computed from; something else makes another object.
        """
        return kind(*arguments)

    def once(self, method: Callable[..., R], *arguments: Any) -> R:
        """Call a method of a shared object, once for all detectors at this place of the pass.

        Call it for every batch, with what is the same for all who share the object.

        Returns:
            What the method returned. What it raised is raised for every detector.
        """
        return method(*arguments)


@dataclass(frozen=True, slots=True)
class DetectorInfo:
    """What `register` declares of a detector. Every field is a literal in the detector's file.

    Attributes:
        name: the detector's name, equal to the stem of its file.
        label: short name used in the names of methods ("MaxProb" in "SoftMax+MaxProb").
        title: full title for lists.
        venue, year, url: where it was published.
        needs: what it needs beyond the logits (see `Need`).
        search_space: parameter -> values tried when it is tuned. The published grid.
    """

    name: str
    label: str
    title: str
    venue: str = ""
    year: int | None = None
    url: str = ""
    needs: frozenset[str] = frozenset()
    search_space: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """Venue and year, as in "ICLR 2018"."""
        return f"{self.venue} {self.year or ''}".strip()

    @property
    def cost_class(self) -> str:
        """What one image costs at inference, in passes of the network, as declared."""
        if "input_gradient" in self.needs:
            return "forward + backward + forward" + (" per tap" if "taps" in self.needs else "")
        parts = {"input_gradients": " + backward", "replaced_logits": " + part of a forward"}
        return "forward" + "".join(parts[need] for need in parts if need in self.needs)


_METHODS: Mapping[str, str] = {
    "fit": "fit",
    "validation": "fit_validation",
    "input_gradient": "perturbation_losses",
    "input_gradients": "gradient_losses",
    "calibration": "calibrate",
    "layers": "reduce_layer",
    "replaced_logits": "replace_tap",
}
"""Need -> the method of a detector that it is called by."""


def required_methods(needs: Iterable[str]) -> dict[str, str]:
    """The methods that a detector has to write: method -> the need that it is for, or ""."""
    return {"score": "", **{_METHODS[need]: need for need in needs if need in _METHODS}}


def undeclared_methods(written: Iterable[str], needs: Iterable[str]) -> dict[str, str]:
    """Methods that a class writes and no need of its calls: method -> the need that would."""
    declared, names = set(needs), set(written)
    return {m: n for n, m in _METHODS.items() if m in names and n not in declared}


def parameters_problem(detector: Detector, given: Iterable[str] = ()) -> str | None:
    """Why the parameters of a new detector cannot be read, set or tuned, or None.

    Args:
        detector: as its constructor made it.
        given: parameters that do not have their default.
    """
    for name in detector.parameter_names():
        if not hasattr(detector, name):
            return (
                f"the constructor's argument '{name}' is not kept in an attribute of the same "
                f"name, so that tuning it would have no effect: write self.{name} = {name}"
            )
    fixed = set(given)
    for name, values in detector.info.search_space.items():
        default = getattr(detector, name)
        if name not in fixed and default not in values:
            return f"the default {name} = {default!r} is not among {values}, its search space"
    return None


D = TypeVar("D", bound="type[Detector]")


def register(
    name: str,
    *,
    label: str = "",
    title: str = "",
    venue: str = "",
    year: int | None = None,
    url: str = "",
    needs: Iterable[Need] = (),
    search_space: Mapping[str, Sequence[Any]] = MappingProxyType({}),
) -> Callable[[D], D]:
    """Declare a detector. Write the arguments as literals: lists are made without running the file.

    Args:
        name: the detector's name; the file must be called `<name>.py`.
        label: short name in the names of methods; default: the class's name.
        title: full title; default: the first line of the class's docstring.
        venue: where it was published ("ICLR").
        year: when it was published.
        url: where to read it.
        needs: what it needs beyond the logits (`oodbench.detector.Need`).
        search_space: parameter -> values to try when it is tuned.

    Raises:
        UserError: if a need is unknown, a method that it is for is missing, a method is for a need
            that is not declared, or a parameter of the search space is not one of the
            constructor's.
    """

    def decorate(cls: D) -> D:
        if isinstance(needs, str):
            raise UserError(
                f"Detector '{name}': needs: expected a tuple of names, not {needs!r}.",
                f"Write needs=({needs!r},).",
            )
        for need in needs:
            if need not in NEEDS:
                raise UserError(
                    f"Detector '{name}' declares the unknown need '{need}'.",
                    did_you_mean(need, NEEDS),
                )
        if {"input_gradient", "replaced_logits"} <= set(needs):
            raise UserError(
                f"Detector '{name}' declares the needs 'input_gradient' and 'replaced_logits', of "
                "which a detector can have one.",
                "Declare 'input_gradients' to score with gradients of the images as they are.",
            )
        parameters = cls.parameter_names()
        for method, purpose in required_methods(needs).items():
            if getattr(cls, method) is getattr(Detector, method):
                declares = f"declares the need '{purpose}' and " if purpose else ""
                hint = f"help(oodbench.Detector.{method}) says what it gets and gives."
                if purpose == "input_gradient":
                    hint += " To score with the gradient itself, declare 'input_gradients'."
                if purpose == "input_gradients":
                    hint += " To move the images before they are scored, declare 'input_gradient'."
                raise UserError(f"Detector '{name}' {declares}has no method '{method}'.", hint)
        for method, purpose in undeclared_methods(vars(cls), needs).items():
            raise UserError(
                f"Detector '{name}' has a method '{method}' and does not declare the need "
                f"'{purpose}': the method would never be called.",
                f"Add '{purpose}' to needs, or remove the method.",
            )
        for parameter in search_space:
            if parameter not in parameters:
                raise UserError(
                    f"Detector '{name}' declares a search space for '{parameter}', "
                    "which its constructor does not take.",
                    did_you_mean(parameter, parameters),
                )
        cls.info = DetectorInfo(
            name=name,
            label=label or cls.__name__,
            title=title or _first_line(cls.__doc__, cls.__name__),
            venue=venue,
            year=year,
            url=url,
            needs=frozenset(needs),
            search_space={key: tuple(values) for key, values in search_space.items()},
        )
        return cls

    return decorate


def _first_line(docstring: str | None, otherwise: str) -> str:
    lines = inspect.cleandoc(docstring or "").splitlines()
    return lines[0].rstrip(".") if lines else otherwise


class Detector:
    """Maps a classifier's outputs to one score per image; higher means more in-distribution.

    A subclass writes `score`, and where its method has them `fit`, `fit_validation`,
    `perturbation_losses`, `gradient_losses`, `replace_tap` and `calibrate`. Constructor arguments
    are kept in attributes of the same name.
    """

    info: ClassVar[DetectorInfo]

    dropped_layers: Mapping[str, str] = MappingProxyType({})
    """Of the layers that `choose_layers` named, those that `reduce_layer` is no longer called for:
    layer -> why. `fit` may set it when it has seen how large a batch of `outputs.layers` is."""

    def score(self, outputs: Outputs) -> Tensor:
        """One score per image, shape [B]; higher is more in-distribution.

        An image's score must not depend on the other images of its batch.
        """
        raise NotImplementedError

    def fit(self, batches: Batches) -> None:
        """Learn from one pass (or more) over the in-distribution training images.

        Called if the detector declares the need "fit". Statistics should stream: keep sums, not
        batches.
        """

    def fit_validation(self, batches: Batches) -> None:
        """Learn from one pass (or more) over labeled images that were not trained on.

        Called after `fit` if the detector declares the need "validation".
        """

    def perturbation_losses(self, outputs: Outputs) -> Mapping[str, Tensor] | Tensor:
        """Losses that a step of the images decreases before they are scored.

        Called while scoring if the detector declares the need "input_gradient". The detector then
        also has an attribute `epsilon`, the step size in units of a [0, 1] pixel: the engine moves
        each image x to x - epsilon sign(gradient of its loss), and `score` sees the outputs of
        the moved images. With `epsilon` 0 nothing is moved, and this method is not called.

        Args:
            outputs: of the images as they are, with their graph; `outputs.labels` is None. Use
                torch operations only, no `detach()`.

        Returns:
            place -> loss, shape [B], one finite number for each image (reduction="none"). A place
            is "logits", or with the need "taps" the name of a tap. For "logits" the moved images
            go through the whole network, and all of `outputs` but the taps is theirs; for a tap
            they go as far as the tap, and `outputs.taps[name]` is theirs. Each place has its own
            moved images. A tensor alone is the loss of "logits".
        """
        raise NotImplementedError

    def gradient_losses(self, outputs: Outputs) -> Mapping[str, Tensor] | Tensor:
        """Losses whose gradients with respect to the images `score` looks at.

        Called before `score`, and before `calibrate`, if the detector declares the need
        "input_gradients". `outputs.input_gradients` then holds a gradient of shape [B, C, H, W]
        for each loss, under the same name.

        Args:
            outputs: of the images, with their graph; `outputs.labels` is None. Use torch operations
                only, no `detach()`.

        Returns:
            name -> loss, shape [B], one finite number for each image (reduction="none"). Each loss
            costs a backward pass. A tensor alone has the name "logits".
        """
        raise NotImplementedError

    def choose_layers(self, layers: Sequence[str], taps: Sequence[str]) -> Sequence[str]:
        """The layers that `reduce_layer` is called for, if the detector declares the need "layers".

        Args:
            layers: names of the convolutions and activation functions, in the order in which they
                run; one that runs several times has a name for each. Empty if there are none.
            taps: names of the feature layers, in order.

        Returns:
            Some of these names; all of `layers` if a detector does not write this method.
        """
        return layers

    def reduce_layer(self, activation: Tensor) -> Tensor:
        """What `fit` and `score` see of a layer, as `outputs.layers[name]`.

        Called in each forward pass, as soon as the layer has run, if the detector declares the need
        "layers": the activations of all layers of a batch are never in memory together.

        Args:
            activation: shape [B, D], [B, tokens, D] or [B, D, ...]. Do not change it in place.

        Returns:
            Shape [B, ...], much smaller. An image's entry must not depend on other images.
        """
        raise NotImplementedError

    def choose_taps(self, taps: Sequence[str]) -> Sequence[str]:
        """The taps that `replace_tap` is called for, if a detector needs "replaced_logits".

        Each costs the part of a forward pass that comes after it.

        Args:
            taps: names of the feature layers, in order. Empty if there are none.

        Returns:
            Some of these names; all of them if a detector does not write this method. None, with
            the present parameters, costs nothing.

        Raises:
            ValueError: if the detector cannot do with these; the message is why it is left out.
        """
        return taps

    def replace_tap(self, name: str, activation: Tensor) -> Tensor:
        """What a feature layer is to give instead of what it gives.

        Called with every batch before `score`, for each tap that `choose_taps` names, without
        gradients, if the detector declares the need "replaced_logits".
        `outputs.replaced_logits[name]` is what the rest of the network makes of it. Each tap is
        replaced alone, in a forward pass of its own.

        Args:
            name: of the tap.
            activation: shape [B, D], [B, tokens, D] or [B, D, ...]; a copy, in the type of the
                network.

        Returns:
            The same shape; finite. An image's entry must not depend on other images.
        """
        raise NotImplementedError

    def calibrate(self, positives: Outputs, negatives: Outputs) -> None:
        """Train the detector's own model on tuning data.

        Called if the detector declares the need "calibration".

        Args:
            positives: outputs for in-distribution images.
            negatives: outputs for adversarial or out-of-distribution images.
        """
        raise NotImplementedError

    @property
    def works_on_map(self) -> bool:
        """Whether `outputs.feature_map` is looked at, with the present parameters.

        Where no module of the network gives that map, the result then has a note. A detector that
        declares the need "feature_map" for some of its parameters overrides this.
        """
        return "feature_map" in self.info.needs

    @classmethod
    def parameter_names(cls) -> tuple[str, ...]:
        """Names of the constructor's arguments."""
        if cls.__init__ is object.__init__:
            return ()
        return tuple(inspect.signature(cls).parameters)

    @property
    def parameters(self) -> dict[str, Any]:
        """The constructor's arguments and their present values."""
        return {name: getattr(self, name) for name in self.parameter_names()}

    def with_parameters(self, **parameters: Any) -> Self:
        """A copy that shares what was fitted and has other hyperparameters."""
        clone = copy.copy(self)
        for name, value in parameters.items():
            setattr(clone, name, value)
        return clone
