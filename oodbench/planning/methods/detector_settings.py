"""What a benchmark sets for its detectors: default arguments, the split of `fit`, grids.

Checks their names, and gives the settings to the methods.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from oodbench.errors import UserError, did_you_mean, see_list
from oodbench.planning.plan import FITTED_ON, Method
from oodbench.plugins.catalog import DetectorStatus
from oodbench.specs import BenchmarkSpec
from oodbench.specs.names import shortened
from oodbench.specs.yaml_file import place_of

Refusal = tuple[str, str]
"""Message and hint of the reason why a detector cannot be made."""

Refuses = Callable[[str, Mapping[str, Any]], Refusal | None]
"""Gives the reason why a detector cannot be made with some arguments, or None."""


def check_settings(benchmark: BenchmarkSpec, statuses: Mapping[str, DetectorStatus]) -> None:
    """Check the names of detectors in `parameters`, `fit_split` and `tuning.grids`.

    Args:
        benchmark: its specification, without aliases.
        statuses: every detector with its declaration or its error.

    Raises:
        UserError: if a detector is unknown, or is not fitted on the split that it is given.
    """
    for keys, named in (
        (("parameters",), benchmark.parameters),
        (("fit_split",), benchmark.fit_split),
        (("tuning", "grids"), benchmark.tuning.grids),
    ):
        for name in named:
            if name not in statuses:
                raise UserError(
                    f"{key_place(benchmark, *keys, name)}: there is no detector '{name}'.",
                    did_you_mean(name, statuses, see_list("detectors")),
                )
    for name, split in benchmark.fit_split.items():
        info = statuses[name].info
        if info is None or "fit" in info.needs:
            continue
        where = key_place(benchmark, "fit_split", name)
        if "validation" not in info.needs:
            raise UserError(
                f"{where}: detector '{name}' is not fitted.", "Leave it out of fit_split."
            )
        if split != FITTED_ON["validation"]:
            raise UserError(
                f"{where}: detector '{name}' is fitted on images that the model was not trained "
                f"on, not on the {split} split.",
                "Leave it out of fit_split.",
            )


def with_settings(method: Method, benchmark: BenchmarkSpec) -> Method:
    """The method with what the benchmark sets for its detector."""
    name = method.detector.name
    return replace(
        method,
        defaults=benchmark.parameters.get(name, {}),
        grid=benchmark.tuning.grids.get(name),
        fit_split=benchmark.fit_split.get(name, "train"),
    )


def key_place(benchmark: BenchmarkSpec, *keys: str) -> str:
    """A key of a benchmark for messages: file, line and key."""
    file = benchmark.file
    where = f"Benchmark '{benchmark.name}'" if file is None else place_of(file, keys)
    return f"{where}: {'.'.join(map(shortened, keys))}"


def tried_arguments(method: Method) -> list[dict[str, Any]]:
    """Arguments that a method's detector has to take, before anything is trained.

    First its own, if the benchmark gives any, then those of every setting of the benchmark's grid.
    """
    space = method.search_space if method.grid is not None else None
    if space is None:
        return [method.arguments] if method.arguments else []
    settings = itertools.product(*space.values())
    return [
        method.arguments,
        *({**method.arguments, **dict(zip(space, each, strict=True))} for each in settings),
    ]


def check_tried(
    method: Method, benchmark: BenchmarkSpec, refusals: Sequence[Refusal | None]
) -> None:
    """Check that the detector takes its arguments, and every value of its grid in some setting.

    Args:
        method: of the benchmark.
        benchmark: its specification.
        refusals: why the detector cannot be made, or None, for each of `tried_arguments`.

    Raises:
        UserError: naming file, line and key.
    """
    if not refusals:
        return
    if refusals[0] is not None:
        raise parameters_error(method, benchmark, refusals[0])
    tried = list(zip(tried_arguments(method), refusals, strict=True))[1:]
    for name, value in _values(method):
        with_value = [refusal for arguments, refusal in tried if arguments[name] == value]
        if with_value and with_value[0] is not None and all(with_value):
            message, hint = with_value[0]
            where = key_place(benchmark, "tuning", "grids", method.detector.name, name)
            raise UserError(f"{where}: {message}", hint)


def parameters_error(method: Method, benchmark: BenchmarkSpec, refusal: Refusal) -> UserError:
    """The error of a method if its detector cannot be made; it names file, line and key."""
    message, hint = refusal
    if method.parameters:
        where = key_place(benchmark, "methods", method.name, "parameters")
    elif method.defaults:
        where = key_place(benchmark, "parameters", method.detector.name)
    else:
        return UserError(message, hint)
    return UserError(f"{where}: {message}", hint)


def _values(method: Method) -> Iterator[tuple[str, Any]]:
    """Every parameter of the method's grid with each of its values."""
    for name, values in (method.search_space if method.grid is not None else {}).items():
        yield from ((name, value) for value in values)
