"""Aliases of detectors in a benchmark, replaced by the detectors' names."""

from __future__ import annotations

from collections.abc import Mapping

from oodbench.specs import BenchmarkSpec


def with_detector_names(benchmark: BenchmarkSpec, aliases: Mapping[str, str]) -> BenchmarkSpec:
    """The benchmark with the name of each detector in the place of its aliases.

    Args:
        benchmark: any.
        aliases: alias -> name of the detector.
    """

    def name(given: str) -> str:
        return aliases.get(given, given)

    def names(given: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        return tuple(dict.fromkeys(map(name, given))) if isinstance(given, tuple) else given

    tuning, matrix = benchmark.tuning, benchmark.matrix
    return benchmark.model_copy(
        update={
            "methods": {
                key: method.model_copy(update={"detector": name(method.detector)})
                for key, method in benchmark.methods.items()
            },
            "matrix": matrix and matrix.model_copy(update={"detectors": names(matrix.detectors)}),
            "default_detectors": names(benchmark.default_detectors),
            "exclude": tuple(
                each.model_copy(update={"detector": name(each.detector)})
                for each in benchmark.exclude
            ),
            "parameters": {name(key): value for key, value in benchmark.parameters.items()},
            "fit_split": {name(key): value for key, value in benchmark.fit_split.items()},
            "tuning": tuning.model_copy(
                update={
                    "detectors": names(tuning.detectors),
                    "tune": names(tuning.tune),
                    "grids": {name(key): value for key, value in tuning.grids.items()},
                }
            ),
        }
    )


def named_method(given: str, benchmark: BenchmarkSpec, aliases: Mapping[str, str]) -> str:
    """A method that a user named, with the detector's name in the place of its alias.

    Args:
        given: name of a method, DETECTOR or MODEL+DETECTOR.
        benchmark: its own methods keep their names.
        aliases: alias -> name of the detector.
    """
    if given.casefold() in {name.casefold() for name in benchmark.methods}:
        return given
    model, plus, detector = given.rpartition("+")
    detector = detector.strip()
    return f"{model}{plus}{aliases[detector]}" if detector in aliases else given
