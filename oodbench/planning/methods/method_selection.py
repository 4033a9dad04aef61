"""The methods of a benchmark, and which of them the user selects by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace

from oodbench.detector import DetectorInfo
from oodbench.errors import UserError, counted, did_you_mean, listed, see_list, sentence
from oodbench.planning.plan import Method, Skip
from oodbench.plugins.catalog import DetectorStatus, aliases
from oodbench.specs import BenchmarkSpec
from oodbench.specs.names import method_obstacle, shortened


def benchmark_methods(
    benchmark: BenchmarkSpec, statuses: Mapping[str, DetectorStatus]
) -> tuple[list[Method], list[Skip]]:
    """Every method of a benchmark: first the named methods, then the methods of `matrix:`.

    Returns:
        The methods, and skips for methods of `matrix:` with a broken detector.

    Raises:
        UserError: if a detector that is named does not exist or is broken, or two methods have one
            name.
    """
    found: list[Method] = []
    skips: list[Skip] = []
    for name, spec in benchmark.methods.items():
        info = declaration(spec.detector, statuses, f"methods.{name}.detector", benchmark)
        found.append(Method(name, spec.model, info, spec.parameters, asked_for=True))
    if benchmark.matrix is not None:
        taken = {(method.model, method.detector.name) for method in found}
        taken |= {(excluded.model, excluded.detector) for excluded in benchmark.exclude}
        matrix = benchmark.matrix
        models = benchmark.models if matrix.models == "all" else matrix.models
        for model in models:
            for detector in statuses if matrix.detectors == "all" else matrix.detectors:
                if (model, detector) in taken:
                    continue
                status = statuses.get(detector)
                if matrix.detectors == "all" and status is not None and status.info is None:
                    name = f"{model}+{detector}"
                    reason = f"the detector is broken: {status.error}"
                    skips.append(Skip(name, model, detector, reason, asked_for=False))
                    continue
                info = declaration(detector, statuses, "matrix.detectors", benchmark)
                found.append(Method(f"{model}+{info.label}", model, info))
    _unique_names(found, benchmark)
    return found, skips


def declaration(
    name: str, statuses: Mapping[str, DetectorStatus], key: str, benchmark: BenchmarkSpec
) -> DetectorInfo:
    """The declaration of a detector that was named.

    Raises:
        UserError: if there is no such detector, or it is broken.
    """
    if name not in statuses:
        raise UserError(
            f"Benchmark '{benchmark.name}': {key}: there is no detector '{name}'.",
            did_you_mean(name, [*statuses, *aliases(statuses)], see_list("detectors")),
        )
    status = statuses[name]
    if status.info is None:
        raise UserError(
            sentence(f"Detector '{name}' was asked for and is broken: {status.error}"),
            f"Correct detectors/{name}.py, or leave the detector out.",
        )
    return status.info


def _unique_names(methods: Iterable[Method], benchmark: BenchmarkSpec) -> None:
    # Names are folders, and some file systems do not tell upper from lower case.
    seen: dict[str, Method] = {}
    for method in methods:
        other = seen.setdefault(method.name.casefold(), method)
        if other is not method:
            raise UserError(
                f"Benchmark '{benchmark.name}': two methods are called '{method.name}': "
                f"{other.model} with {other.detector.name}, and "
                f"{method.model} with {method.detector.name}.",
                "Give one of them a name of its own under methods:, or exclude it.",
            )
        problem = method_obstacle(method.name)
        if problem is not None:
            raise UserError(
                f"Benchmark '{benchmark.name}': method '{shortened(method.name)}' cannot name a "
                f"folder: {problem}.",
                "Give the method, its model or the detector's label another name.",
            )


def default_methods(
    candidates: Sequence[Method],
    skips: Sequence[Skip],
    benchmark: BenchmarkSpec,
    plugins: Set[str],
) -> tuple[list[Method], list[Skip], list[Method]]:
    """The methods of a run that names none: those of the benchmark's default.

    Args:
        candidates: all methods of the benchmark.
        skips: those with a broken detector.
        benchmark: the benchmark.
        plugins: detectors that are not built in.

    Returns:
        Methods, skips, and methods that are left out.
    """
    matrix, default = benchmark.matrix, benchmark.default_detectors
    if matrix is None or matrix.detectors != "all" or default == "all":
        return list(candidates), list(skips), []
    shown = {*default, *plugins}
    chosen = [each for each in candidates if each.asked_for or each.detector.name in shown]
    return (
        chosen,
        [skip for skip in skips if skip.asked_for or skip.detector in shown],
        [each for each in candidates if each not in chosen],
    )


def selected_methods(
    names: Sequence[str],
    candidates: Sequence[Method],
    skips: Sequence[Skip],
    benchmark: BenchmarkSpec,
    statuses: Mapping[str, DetectorStatus],
) -> tuple[list[Method], list[Skip]]:
    """Methods that the user named: by their own name, as MODEL+DETECTOR, or by their detector.

    A detector's name also stands for the methods of the benchmark that are called so: `entropy`
    names DisMax+Entropy, too, whose detector is `dismax_entropy`.

    Raises:
        UserError: if a name is unknown or ambiguous, or its detector is broken.
    """
    chosen: dict[str, Method] = {}
    broken: list[Skip] = []
    for name in names:
        matches = [method for method in candidates if method.name.casefold() == name.casefold()]
        if not matches and name in statuses:
            matches = _of_detector(name, candidates, benchmark, statuses)
        matches = matches or _pair(name, candidates, benchmark, statuses)
        if not matches:
            broken += [skip for skip in skips if skip.method.casefold() == name.casefold()]
            if broken:
                raise UserError(f"'{name}' was asked for: {broken[0].reason}.")
            known = [method.name for method in candidates]
            known += ["all", *statuses, *aliases(statuses)]
            known += [
                f"{model}+{info.label}"
                for model in benchmark.models
                for info in _declared(statuses)
            ]
            raise UserError(
                f"'{name}' is neither a method of benchmark '{benchmark.name}' nor a detector.",
                f"{did_you_mean(name, known, _where(benchmark))} "
                + (_broken_ones(statuses) or "A detector of your own needs --plugins FOLDER."),
            )
        for method in matches:
            # A detector's name asks for it on the models where it can run; a method's name asks for
            # exactly this method.
            asked_for = method.name.casefold() == name.casefold() or len(matches) == 1
            chosen.setdefault(method.name, replace(method, asked_for=asked_for))
    _unique_names(chosen.values(), benchmark)
    return list(chosen.values()), []


def _broken_ones(statuses: Mapping[str, DetectorStatus]) -> str:
    """A hint on broken detectors, whose labels are not known; empty if there are none."""
    found = [f"{each}: {status.error}" for each, status in statuses.items() if status.info is None]
    if not found:
        return ""
    return sentence(f"{counted(len(found), 'detector')} cannot be used: {listed(found, 2)}")


def _of_detector(
    name: str,
    candidates: Sequence[Method],
    benchmark: BenchmarkSpec,
    statuses: Mapping[str, DetectorStatus],
) -> list[Method]:
    """The benchmark's methods with a detector, or called by its name; without any, on each model.

    Raises:
        UserError: if the detector is broken.
    """
    info = declaration(name, statuses, "--methods", benchmark)
    called = {
        f"{model}+{text}".casefold() for model in benchmark.models for text in (name, info.label)
    }
    found = [m for m in candidates if m.detector.name == name or m.name.casefold() in called]
    if any(method.detector.name == name for method in found):
        return found
    taken = {method.name.casefold() for method in found}
    new = [Method(f"{model}+{info.label}", model, info) for model in benchmark.models]
    return [*(method for method in new if method.name.casefold() not in taken), *found]


def _where(benchmark: BenchmarkSpec) -> str:
    """Where detectors are listed, and the models that they can be named with."""
    return f"{see_list('detectors')} Models: {listed(benchmark.models)}."


def _pair(
    name: str,
    candidates: Sequence[Method],
    benchmark: BenchmarkSpec,
    statuses: Mapping[str, DetectorStatus],
) -> list[Method]:
    """The method that MODEL+DETECTOR names, even if the benchmark lacks it; none for other names.

    DETECTOR is a name or a label. Case matters only between detectors that differ in case alone.

    Raises:
        UserError: if the detector is broken, or the name is ambiguous.
    """
    for model in sorted(benchmark.models, key=len, reverse=True):
        start, rest = name[: len(model)], name[len(model) :].strip()
        if start.casefold() == model.casefold() and rest.startswith("+"):
            break
    else:
        return []
    wanted = rest.removeprefix("+").strip()
    if wanted in statuses:
        detectors = [declaration(wanted, statuses, "--methods", benchmark)]
    else:
        exact = [info for info in _declared(statuses) if info.label == wanted]
        detectors = exact or [
            info
            for info in _declared(statuses)
            if wanted.casefold() in map(str.casefold, (info.name, info.label, *info.aliases))
        ]
    found = []
    for info in detectors:
        listed = [m for m in candidates if (m.model, m.detector.name) == (model, info.name)]
        usual = [method for method in listed if method.name == f"{model}+{info.label}"]
        found += usual or listed or [Method(f"{model}+{info.label}", model, info)]
    if len(found) > 1:
        names = [m.name for m in found if len(detectors) == 1]
        names = names or [f"{model}+{info.name}" for info in detectors]
        raise UserError(
            f"Benchmark '{benchmark.name}': '{name}' is the name of several methods.",
            f"Did you mean {' or '.join(map(repr, names))}?",
        )
    return found


def _declared(statuses: Mapping[str, DetectorStatus]) -> list[DetectorInfo]:
    """Declarations of the detectors that are not broken."""
    return [status.info for status in statuses.values() if status.info is not None]


def reference_method(
    benchmark: BenchmarkSpec, statuses: Mapping[str, DetectorStatus]
) -> Method | None:
    """The method that times are divided by; it need not run itself.

    Raises:
        UserError: if there is no such method, or it needs more than the logits.
    """
    name = benchmark.reference
    if name is None:
        return None
    check_known("reference", name, benchmark.methods, benchmark)
    spec = benchmark.methods[name]
    info = declaration(spec.detector, statuses, "reference", benchmark)
    if info.needs:
        raise UserError(
            f"Benchmark '{benchmark.name}': reference: '{spec.detector}' needs more than the "
            "logits.",
            "Choose a method that takes one forward pass.",
        )
    return Method(name, spec.model, info, spec.parameters)


def check_known(
    key: str, name: str, known: Iterable[str], benchmark: BenchmarkSpec, kind: str = ""
) -> None:
    """Check that a key of a benchmark has a known name.

    Args:
        key: the key.
        name: its value.
        known: the names that it can have.
        benchmark: the benchmark.
        kind: "detectors", "datasets", "models": what `oodbench list` shows all of; "" for others.

    Raises:
        UserError: if the name is not known.
    """
    if name not in known:
        raise UserError(
            f"Benchmark '{benchmark.name}': {key}: unknown name '{name}'.",
            did_you_mean(name, known, see_list(kind) if kind else ""),
        )
