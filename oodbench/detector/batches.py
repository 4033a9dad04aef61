"""The batches of a split, as detectors are fitted on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from oodbench.detector.info import PENULTIMATE
from oodbench.detector.outputs import Outputs

S = TypeVar("S")
R = TypeVar("R")


class Batches:
    """The batches of a split, as `Detector.fit` gets them: an iterable of Outputs.

    Each iteration is a pass over the split.

    Statistics that several detectors compute in the same way can be computed once for all::

        moments = batches.shared(ClassMoments, batches.num_classes)
        for outputs in batches:
            batches.once(moments.update, outputs.features, outputs.labels)
        gaussian = batches.once(moments.tied_gaussian)
    """

    num_classes: int

    def __iter__(self) -> Iterator[Outputs]:
        raise NotImplementedError

    def shared(self, kind: Callable[..., S], *arguments: Any, of: str = "features") -> S:
        """One object for all detectors that ask for the same one.

        Args:
            kind: class or function that makes the object.
            arguments: arguments of `kind`; other arguments make another object.
            of: name of what the object is computed from; another name makes another object.
        """
        return kind(*arguments)

    def fit_each(
        self,
        fits: Mapping[str, Callable[[Batches], None]],
        view: Callable[[str, Outputs], Outputs],
        started: Iterator[Outputs],
    ) -> None:
        """Fit several detectors on views of these batches: the engine does so in shared passes.

        Args:
            fits: name of a view -> the `fit` that is given its batches.
            view: takes the name and a batch, and gives the batch as that `fit` sees it.
            started: all batches of the pass that has begun; used up.

        Raises:
            ValueError: whatever a `fit` raises, after the name of its view.
        """
        for name, fit in fits.items():
            with named_layer(name):
                fit(View(self, name, view))

    def once(self, method: Callable[..., R], *arguments: Any) -> R:
        """Call a method of a shared object, once for all detectors at this place of the pass.

        Call it for every batch, with the same arguments in all detectors that share the object.

        Returns:
            The method's result. An error of the method is raised in every detector.
        """
        return method(*arguments)


class View(Batches):
    """Batches as one of several detectors sees them.

    Args:
        batches: all of them.
        name: name of the view; statistics are shared with detectors that have the same one.
        view: takes the name and a batch.
    """

    def __init__(
        self, batches: Batches, name: str, view: Callable[[str, Outputs], Outputs]
    ) -> None:
        self.num_classes = batches.num_classes
        self._batches, self._name, self._view = batches, name, view

    def __iter__(self) -> Iterator[Outputs]:
        yield from map(self.shown, self._batches)

    def shown(self, outputs: Outputs) -> Outputs:
        """A batch in this view."""
        return self._view(self._name, outputs)

    def shared(self, kind: Callable[..., S], *arguments: Any, of: str = "features") -> S:
        """As of the batches, apart for each name."""
        of = of if self._name == PENULTIMATE else f"{of} of {self._name}"
        return self._batches.shared(kind, *arguments, of=of)

    def once(self, method: Callable[..., R], *arguments: Any) -> R:
        """As of the batches."""
        return self._batches.once(method, *arguments)


@contextmanager
def named_layer(name: str) -> Iterator[None]:
    """Put the name of a layer before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"layer '{name}': {error}") from error
