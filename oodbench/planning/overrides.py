"""Values of a benchmark that the options of a run replace: tuned detectors, limits, metrics.

Read from options alone, without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from oodbench import argument_checks
from oodbench.errors import UserError, shown
from oodbench.metrics import requested
from oodbench.specs import BenchmarkSpec, LimitSpec


@dataclass(frozen=True, slots=True)
class Overrides:
    """Values of a benchmark that the options of a run replace.

    Attributes:
        tune: the detectors that are tuned: "all", "none" or names; None: as in the benchmark.
        limit: limits of images and epochs; None for no limit.
        metrics: metrics on request, beside those of the benchmark.
    """

    tune: Literal["all", "none"] | tuple[str, ...] | None = None
    limit: LimitSpec | None = None
    metrics: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        tune: str | Sequence[str] | None,
        limit: int | None,
        epochs: int | None,
        metrics: str | Sequence[str] = (),
    ) -> Overrides:
        """From the options of a command or a function.

        Raises:
            UserError: if one is not valid.
        """
        images, most_epochs = (
            None if value is None else argument_checks.whole_number(option, value, 1)
            for option, value in (("limit", limit), ("epochs", epochs))
        )
        given = images is not None or most_epochs is not None
        limits = LimitSpec(images=images, epochs=most_epochs) if given else None
        return cls(_tune(tune), limits, optional_metrics(metrics))

    def with_detector_names(self, aliases: Mapping[str, str]) -> Overrides:
        """The same with the name of each detector in the place of its aliases.

        Args:
            aliases: alias -> name of the detector.
        """
        if not isinstance(self.tune, tuple):
            return self
        names = dict.fromkeys(aliases.get(name, name) for name in self.tune)
        return replace(self, tune=tuple(names))

    def of(self, benchmark: BenchmarkSpec) -> BenchmarkSpec:
        """The benchmark with these values."""
        if self.tune is not None:
            benchmark = benchmark.tuning_only(self.tune)
        if self.metrics:
            both = requested([*benchmark.metrics, *self.metrics])
            benchmark = benchmark.model_copy(update={"metrics": both})
        return benchmark if self.limit is None else benchmark.limited_to(self.limit)

    def folder_name(self, name: str) -> str:
        """Beginning of the name of a default run directory."""
        return name if self.limit is None else f"{name}-limited"


def optional_metrics(given: Any) -> tuple[str, ...]:
    """The metrics on request of an argument: names, names separated by commas, or "all".

    Raises:
        UserError: if it is something else, or a name is not known.
    """
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UserError(f"metrics: expected names, or all, not {shown(given)}.")
    known = [name.strip() for name in names if name.strip()]
    if len(names) and not known:
        raise UserError("metrics: expected names separated by commas, or all.")
    try:
        return requested(known)
    except ValueError as error:
        raise UserError(f"metrics: {error}") from None


def _tune(tune: str | Sequence[str] | None) -> Literal["all", "none"] | tuple[str, ...] | None:
    """The detectors to tune, from a sequence of names or names separated by commas."""
    if tune is None:
        return None
    given: Sequence[Any] = tune.split(",") if isinstance(tune, str) else tune
    if not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise UserError(f"tune: expected names, all or none, not {shown(tune)}.")
    names = tuple(dict.fromkeys(name.strip() for name in given if name.strip()))
    if not names:
        raise UserError("tune: expected names separated by commas, all, or none.")
    for word in ("all", "none"):
        if word in names:
            if len(names) > 1:
                raise UserError(f"tune: '{word}' stands alone, without names.")
            return "all" if word == "all" else "none"
    return names
