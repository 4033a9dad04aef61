"""Which needs a detector uses: outputs that note what is read of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from oodbench.detector import Batches, Detector, Outputs

_NEED_OF = {
    name: (name,)
    for name in (
        "features",
        "feature_map",
        "taps",
        "tap_maps",
        "layers",
        "labels",
        "logits",
        "input_gradients",
        "replaced_logits",
        "language",
        "local_features",
        "perturbed",
        "tap_gradients",
    )
} | {
    "head": ("head", "dismax_head"),
    "sampled_logits": ("dropout_logits", "member_logits"),
    "rotation_logits": ("rotations",),
}
"""Attribute of `Outputs` -> the needs that it is read for."""

_SPLITS = {"fit": "fit", "fit_validation": "validation"}


class _Watched(Outputs):
    """Outputs that note the needs of attributes that are read."""

    __slots__ = ("used",)

    used: set[str]

    @classmethod
    def of(cls, outputs: Outputs, used: set[str]) -> _Watched:
        """The same outputs, watched."""
        made = cls.__new__(cls)
        for name in Outputs.__slots__:
            if hasattr(outputs, name):
                object.__setattr__(made, name, getattr(outputs, name))
        object.__setattr__(made, "used", used)
        return made

    def __getattribute__(self, name: str) -> Any:
        if name in _NEED_OF:
            object.__getattribute__(self, "used").update(_NEED_OF[name])
        value = object.__getattribute__(self, name)
        if name == "perturbed" and isinstance(value, Outputs):
            return _Watched.of(value, object.__getattribute__(self, "used"))
        return value

    def _plain(self) -> Outputs:
        held = {}
        for name in Outputs.__slots__:
            try:
                held[name] = object.__getattribute__(self, name)
            except AttributeError:  # withheld
                continue
        return Outputs._of(held)

    def replaced(self, **changes: Any) -> Outputs:
        """As the base class, watched."""
        return _Watched.of(self._plain().replaced(**changes), self.used)

    def map(self, function: Callable[[Any], Any]) -> Outputs:
        """As the base class, watched."""
        return _Watched.of(self._plain().map(function), self.used)

    def __getitem__(self, rows: slice) -> Outputs:
        return _Watched.of(self._plain()[rows], self.used)


class _WatchedBatches(Batches):
    """Batches whose outputs are watched."""

    def __init__(self, batches: Batches, need: str, used: set[str]) -> None:
        self._batches, self._need, self._used = batches, need, used
        self.num_classes = batches.num_classes

    def __iter__(self) -> Iterator[Outputs]:
        for outputs in self._batches:
            self._used.add(self._need)
            yield _Watched.of(outputs, self._used)


@contextmanager
def watched_reads(detector: Detector) -> Iterator[set[str]]:
    """Inside this context, the detector's methods get watched outputs.

    Yields:
        The needs that have been used until now.
    """
    used: set[str] = set()

    def watching(method: str, need: str) -> Callable[..., Any]:
        own = getattr(detector, method)

        def call(*given: Any) -> Any:
            watched: list[Any] = []
            read: set[str] = set()
            for each in given:
                if isinstance(each, Batches):
                    watched.append(_WatchedBatches(each, need, used))
                else:
                    watched.append(_Watched.of(each, read) if isinstance(each, Outputs) else each)
            result = own(*watched)
            used.update(read)
            if read and need:
                used.add(need)
            return result

        return call

    methods = {
        **_SPLITS,
        "score": "",
        "calibrate": "calibration",
        "perturbation_losses": "input_gradient",
        "gradient_losses": "",
        "tap_loss": "",
    }
    for method, need in methods.items():
        if hasattr(detector, method):
            object.__setattr__(detector, method, watching(method, need))
    try:
        yield used
    finally:
        for method in methods:
            vars(detector).pop(method, None)
