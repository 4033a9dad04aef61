"""What a run will do, as pure data: methods, trainings, passes, skips.

Made from a benchmark and a catalog alone: no tensor, no file of images, no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from oodbench.detector import DetectorInfo, head_obstacle
from oodbench.errors import UserError, counted, did_you_mean
from oodbench.models.registry import HEADS, NETWORKS, is_callable_name
from oodbench.plugins.arguments import MOST_SEEDS, whole_number
from oodbench.plugins.catalog import BUILT_IN, Catalog, DetectorStatus
from oodbench.specs import BenchmarkSpec, DatasetSpec, SplitName, TuningProtocol
from oodbench.specs.names import method_obstacle, shortened
from oodbench.specs.yaml_file import place_of

Purpose = Literal["fit", "tune", "score"]

FITTED_ON: Mapping[str, SplitName] = {"fit": "train", "validation": "validation"}
"""What a detector needs to learn from -> the split of the ID set, in the order they are swept."""


@dataclass(frozen=True, slots=True)
class Method:
    """A trained model with a detector.

    Attributes:
        name: the name on the leaderboard, also of the folder with its scores.
        model: name of the model in the benchmark.
        detector: the detector's declaration.
        parameters: arguments of the detector, fixed.
        tuned_on: "none", "fgsm" or "ood_oracle".
        asked_for: whether it was named, in the benchmark or by the user, and not only swept up.
    """

    name: str
    model: str
    detector: DetectorInfo
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tuned_on: TuningProtocol = "none"
    asked_for: bool = False

    @property
    def search_space(self) -> dict[str, tuple[Any, ...]]:
        """What is left to tune: the declared space without the parameters that are fixed."""
        space = self.detector.search_space
        return {name: values for name, values in space.items() if name not in self.parameters}

    @property
    def untuned(self) -> tuple[str, ...]:
        """Parameters that have a search space and keep their defaults."""
        return tuple(self.search_space) if self.tuned_on == "none" else ()

    def requirements(self) -> dict[str, bool]:
        """The five columns of the DisMax paper's Table 1, from what the detector declares."""
        needs = self.detector.needs
        return {
            "input_preprocessing": "input_gradient" in needs,
            "feature_ensemble": bool(needs & {"taps", "tap_maps", "layers"}),
            "ood_or_adversarial_samples": self.tuned_on != "none",
            "post_processing_phase": self.tuned_on != "none" or bool(needs & set(FITTED_ON)),
            "ad_hoc_models": "calibration" in needs,
        }


@dataclass(frozen=True, slots=True)
class Skip:
    """A method that is not run, and why."""

    method: str
    model: str
    detector: str
    reason: str
    asked_for: bool


@dataclass(frozen=True, slots=True)
class Pass:
    """Passes of one model over one split, made for each seed.

    To fit and to score, one first forward serves every method in it. To tune, the images are shared
    and each method passes its own grid.

    Attributes:
        forwards: passes of the network per image, in words.
    """

    model: str
    dataset: str
    split: str
    images: int
    purpose: Purpose
    methods: tuple[str, ...]
    taps: bool
    forwards: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a run does.

    `passes` are made for each of the `seeds`; times are divided by those of the `reference`.
    """

    benchmark: BenchmarkSpec
    datasets: Mapping[str, DatasetSpec]
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    skips: tuple[Skip, ...]
    passes: tuple[Pass, ...]
    reference: Method | None

    @property
    def models(self) -> tuple[str, ...]:
        """Models that a method uses, in the benchmark's order."""
        used = {method.model for method in self.methods}
        return tuple(model for model in self.benchmark.models if model in used)

    def methods_of(self, model: str) -> tuple[Method, ...]:
        """Methods on one model, in order."""
        return tuple(method for method in self.methods if method.model == model)


def make_plan(
    benchmark: BenchmarkSpec,
    catalog: Catalog,
    statuses: Mapping[str, DetectorStatus],
    *,
    seeds: int,
    methods: Sequence[str] | None = None,
    refusal: Callable[[Method], str | None] = lambda method: None,
) -> Plan:
    """Lay out a run.

    Args:
        benchmark: what to run.
        catalog: where data sets are found.
        statuses: every detector with its declaration or its error.
        seeds: number of seeds, 0 .. seeds - 1.
        methods: names of methods or detectors to run; None for all.
        refusal: why a method's detector cannot be made, or None; asked of methods that fit.

    Raises:
        UserError: if a name is unknown, a name is given to two methods, a method that was asked
            for is broken, an option is not one of the loss's, the reference needs more than the
            logits, or a data set lacks a split that is needed.
    """
    whole_number("seeds", seeds, 1, MOST_SEEDS)
    for name, model in benchmark.models.items():
        if not is_callable_name(model.network):
            _known(f"models.{name}.network", model.network, NETWORKS, benchmark)
        _known(f"models.{name}.head", model.head, HEADS, benchmark)
        for option in model.loss_options:
            options = HEADS[model.head].loss_options
            _known(f"models.{name}.loss_options", option, options, benchmark)
    if benchmark.tuning.detectors != "all":
        for name in benchmark.tuning.detectors:
            _known("tuning.detectors", name, statuses, benchmark)
    candidates, skips = _candidates(benchmark, statuses)
    reference = _reference(benchmark, statuses)
    if methods is not None:
        candidates, skips = _selected(methods, candidates, skips, benchmark, statuses)
    _check_tuned(benchmark, candidates, statuses)
    candidates = [_tuned(method, benchmark, catalog) for method in candidates]
    runnable = []
    for method in candidates:
        reason = _cannot_run(method, benchmark) or _refused(method, benchmark, refusal)
        if reason is None:
            runnable.append(method)
        else:
            skips.append(_skip(method, reason))
    datasets = {name: catalog.dataset(name) for name in (benchmark.id, *benchmark.ood_groups)}
    _check_data(benchmark, datasets, runnable)
    return Plan(
        benchmark=benchmark,
        datasets=datasets,
        seeds=tuple(range(seeds)),
        methods=tuple(runnable),
        skips=tuple(skips),
        passes=tuple(_passes(benchmark, datasets, runnable)),
        reference=reference,
    )


def _refused(
    method: Method, benchmark: BenchmarkSpec, refusal: Callable[[Method], str | None]
) -> str | None:
    try:
        return refusal(method)
    except UserError as error:
        raise parameters_error(method, benchmark, error.message, error.hint) from error


def parameters_error(
    method: Method, benchmark: BenchmarkSpec, message: str, hint: str
) -> UserError:
    """The error of a method whose detector cannot be made, and where its parameters are written."""
    keys = ("methods", method.name, "parameters")
    if not method.parameters:
        return UserError(message, hint)
    file = benchmark.file
    where = f"Benchmark '{benchmark.name}'" if file is None else place_of(file, keys)
    return UserError(f"{where}: methods.{shortened(method.name)}.parameters: {message}", hint)


def _known(key: str, name: str, known: Iterable[str], benchmark: BenchmarkSpec) -> None:
    if name not in known:
        raise UserError(
            f"Benchmark '{benchmark.name}': {key}: unknown name '{name}'.",
            did_you_mean(name, known),
        )


def _candidates(
    benchmark: BenchmarkSpec, statuses: Mapping[str, DetectorStatus]
) -> tuple[list[Method], list[Skip]]:
    """Every method of the benchmark: the named ones, then the pass's."""
    found: list[Method] = []
    skips: list[Skip] = []
    for name, spec in benchmark.methods.items():
        info = _declaration(spec.detector, statuses, f"methods.{name}.detector", benchmark)
        found.append(Method(name, spec.model, info, spec.parameters, asked_for=True))
    if benchmark.matrix is not None:
        taken = {(method.model, method.detector.name) for method in found}
        taken |= {(excluded.model, excluded.detector) for excluded in benchmark.exclude}
        swept = benchmark.matrix
        models = benchmark.models if swept.models == "all" else swept.models
        for model in models:
            for detector in statuses if swept.detectors == "all" else swept.detectors:
                if (model, detector) in taken:
                    continue
                status = statuses.get(detector)
                if swept.detectors == "all" and status is not None and status.info is None:
                    name = f"{model}+{detector}"
                    reason = f"the detector is broken: {status.error}"
                    skips.append(Skip(name, model, detector, reason, asked_for=False))
                    continue
                info = _declaration(detector, statuses, "pass.detectors", benchmark)
                found.append(Method(f"{model}+{info.label}", model, info))
    _unique_names(found, benchmark)
    return found, skips


def _tunable(method: Method) -> bool:
    return bool("calibration" in method.detector.needs or method.search_space)


def _tuned(method: Method, benchmark: BenchmarkSpec, catalog: Catalog) -> Method:
    """The method with the protocol that it is tuned by."""
    if not _tunable(method):
        return method
    named = benchmark.methods.get(method.name)
    entry = catalog.entries["detector"].get(method.detector.name)
    protocol = benchmark.tuning.protocol_for(
        method.detector.name,
        plugin=entry is None or entry.source != BUILT_IN,
        own=None if named is None else named.tuning,
    )
    return replace(method, tuned_on=protocol)


def _check_tuned(
    benchmark: BenchmarkSpec, methods: Sequence[Method], statuses: Mapping[str, DetectorStatus]
) -> None:
    """What `--tune` names is there and has something to tune."""
    tune = benchmark.tuning.tune
    if tune is None or tune == "none":
        return
    own = {spec.tuning for spec in benchmark.methods.values()} - {None, "none"}
    if benchmark.tuning.protocol == "none" and not own:
        raise UserError(
            f"tune: benchmark '{benchmark.name}' has no protocol to tune by "
            "(tuning.protocol: none).",
            "Tune nothing, or give the benchmark a protocol.",
        )
    for name in tune if tune != "all" else ():
        info = _declaration(name, statuses, "tune", benchmark)
        if not info.search_space and "calibration" not in info.needs:
            raise UserError(
                f"tune: detector '{name}' has no search space: there is nothing to tune.",
                "Name detectors with a search space, or all, or none.",
            )
        mine = [method for method in methods if method.detector.name == name]
        if not any(_tunable(method) for method in mine):
            fixed = "its parameters are given" if mine else "no method of this run has it"
            raise UserError(f"tune: there is nothing to tune of '{name}': {fixed}.")


def _declaration(
    name: str, statuses: Mapping[str, DetectorStatus], key: str, benchmark: BenchmarkSpec
) -> DetectorInfo:
    """The declaration of a detector that was named."""
    if name not in statuses:
        raise UserError(
            f"Benchmark '{benchmark.name}': {key}: there is no detector '{name}'.",
            did_you_mean(name, statuses),
        )
    status = statuses[name]
    if status.info is None:
        raise UserError(
            f"Detector '{name}' was asked for and is broken: {status.error}.",
            "`oodbench list detectors` shows where its file is.",
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


def _selected(
    names: Sequence[str],
    candidates: Sequence[Method],
    skips: Sequence[Skip],
    benchmark: BenchmarkSpec,
    statuses: Mapping[str, DetectorStatus],
) -> tuple[list[Method], list[Skip]]:
    """Methods that were named: by their own name, as MODEL+DETECTOR, or by their detector."""
    chosen: dict[str, Method] = {}
    broken: list[Skip] = []
    for name in names:
        matches = [method for method in candidates if method.name.casefold() == name.casefold()]
        matches = matches or [m for m in candidates if m.detector.name == name]
        if not matches and name in statuses:
            info = _declaration(name, statuses, "--methods", benchmark)
            matches = [Method(f"{model}+{info.label}", model, info) for model in benchmark.models]
        matches = matches or _pair(name, candidates, benchmark, statuses)
        if not matches:
            broken += [skip for skip in skips if skip.method.casefold() == name.casefold()]
            if broken:
                raise UserError(f"'{name}' was asked for: {broken[0].reason}.")
            known = [method.name for method in candidates] + list(statuses)
            known += [
                f"{model}+{info.label}"
                for model in benchmark.models
                for info in _declared(statuses)
            ]
            raise UserError(
                f"Benchmark '{benchmark.name}' has no method, and there is no detector, '{name}'.",
                f"{did_you_mean(name, known)} A detector of your own needs --plugins FOLDER.",
            )
        for method in matches:
            # A detector's name asks for it where it can run; a method's name asks for it outright.
            asked_for = method.name.casefold() == name.casefold() or len(matches) == 1
            chosen.setdefault(method.name, replace(method, asked_for=asked_for))
    _unique_names(chosen.values(), benchmark)
    return list(chosen.values()), []


def _pair(
    name: str,
    candidates: Sequence[Method],
    benchmark: BenchmarkSpec,
    statuses: Mapping[str, DetectorStatus],
) -> list[Method]:
    """The method that MODEL+DETECTOR names, in the benchmark or not; none if it names no pair.

    The detector is named by its name or its label; upper and lower case matter only where two
    detectors differ in nothing else.

    Raises:
        UserError: if the detector is broken, or the name stands for several methods.
    """
    for model in sorted(benchmark.models, key=len, reverse=True):
        start, rest = name[: len(model)], name[len(model) :].strip()
        if start.casefold() == model.casefold() and rest.startswith("+"):
            break
    else:
        return []
    wanted = rest.removeprefix("+").strip()
    if wanted in statuses:
        detectors = [_declaration(wanted, statuses, "--methods", benchmark)]
    else:
        exact = [info for info in _declared(statuses) if info.label == wanted]
        detectors = exact or [
            info
            for info in _declared(statuses)
            if wanted.casefold() in (info.name.casefold(), info.label.casefold())
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
            f"Benchmark '{benchmark.name}': '{name}' stands for several methods.",
            f"Did you mean {' or '.join(map(repr, names))}?",
        )
    return found


def _declared(statuses: Mapping[str, DetectorStatus]) -> list[DetectorInfo]:
    """Declarations of the detectors that are not broken."""
    return [status.info for status in statuses.values() if status.info is not None]


def _cannot_run(method: Method, benchmark: BenchmarkSpec) -> str | None:
    """Why a detector cannot run on a model, or None."""
    model = benchmark.models[method.model]
    head, needs = HEADS[model.head], method.detector.needs
    if needs & {"taps", "tap_maps"} and is_callable_name(model.network) and not model.taps:
        return f"needs taps; models.{method.model}.taps names none"
    obstacle = head_obstacle(needs, head.kind, method.model)
    if obstacle is not None:
        return obstacle
    if "calibration" in needs and method.tuned_on == "none":
        who = "--tune leaves it out" if benchmark.tuning.tune else "the benchmark does not tune it"
        return f"needs tuning data; {who}"
    return None


def _reference(benchmark: BenchmarkSpec, statuses: Mapping[str, DetectorStatus]) -> Method | None:
    """The method that times are divided by; it need not be one of those that are run."""
    name = benchmark.reference
    if name is None:
        return None
    _known("reference", name, benchmark.methods, benchmark)
    spec = benchmark.methods[name]
    info = _declaration(spec.detector, statuses, "reference", benchmark)
    if info.needs:
        raise UserError(
            f"Benchmark '{benchmark.name}': reference: '{spec.detector}' needs more than the "
            "logits.",
            "Choose a method that costs one forward.",
        )
    return Method(name, spec.model, info, spec.parameters)


def _skip(method: Method, reason: str) -> Skip:
    return Skip(method.name, method.model, method.detector.name, reason, method.asked_for)


def _check_data(
    benchmark: BenchmarkSpec, datasets: Mapping[str, DatasetSpec], methods: Sequence[Method]
) -> None:
    """Every split that the plan needs is there, and images have one shape."""
    tuning = benchmark.tuning.split
    wanted = {(benchmark.id, "train"): "to train on", (benchmark.id, "test"): "to test on"}
    wanted |= {(name, "test"): "to test on" for name in benchmark.ood_groups}
    if any(method.tuned_on != "none" for method in methods):
        wanted[benchmark.id, tuning] = "to tune on"
    if any(method.tuned_on == "ood_oracle" for method in methods):
        wanted |= {(name, tuning): "for ood_oracle tuning" for name in benchmark.ood_groups}
    if any("validation" in method.detector.needs for method in methods):
        wanted.setdefault((benchmark.id, "validation"), "to fit on what was not trained on")
    heads = {benchmark.models[method.model].head for method in methods}
    if any(HEADS[head].calibrated for head in heads):
        wanted.setdefault((benchmark.id, "validation"), "to calibrate a temperature on")
    for (name, split), why in wanted.items():
        if split not in datasets[name].splits:
            raise UserError(
                f"Benchmark '{benchmark.name}' needs the {split} split of '{name}' {why}; "
                f"its manifest has: {', '.join(datasets[name].splits)}."
            )
    classes, most = datasets[benchmark.id].num_classes or 0, benchmark.most_images
    if most is not None and most < classes:
        raise UserError(
            f"limit: {counted(most, 'image')} cannot have one of each of the {classes} classes "
            f"of '{benchmark.id}'.",
            f"Give at least {classes}.",
        )
    shape = datasets[benchmark.id].shape
    for name, spec in datasets.items():
        if spec.shape != shape:
            raise UserError(
                f"Benchmark '{benchmark.name}': images of '{name}' have shape "
                f"{'x'.join(map(str, spec.shape))}, those of '{benchmark.id}' "
                f"{'x'.join(map(str, shape))}.",
                "One network sees both: choose data sets of one shape.",
            )


def _passes(
    benchmark: BenchmarkSpec, datasets: Mapping[str, DatasetSpec], methods: Sequence[Method]
) -> Iterable[Pass]:
    make = partial(_pass, benchmark, datasets)
    for model in benchmark.models:
        mine = [method for method in methods if method.model == model]
        if not mine:
            continue
        for need, split in FITTED_ON.items():
            fitted = [method for method in mine if need in method.detector.needs]
            if fitted:
                yield make(benchmark.id, split, "fit", model, fitted, "1 forward")
        tuned = [method for method in mine if method.tuned_on != "none"]
        if tuned:
            tuning = benchmark.tuning.split
            yield make(
                benchmark.id,
                tuning,
                "tune",
                model,
                tuned,
                "each its own grid" if len(tuned) > 1 else "its own grid",
            )
        oracles = [method for method in tuned if method.tuned_on == "ood_oracle"]
        for name in benchmark.ood_groups if oracles else ():
            yield make(name, benchmark.tuning.split, "tune", model, oracles, _grids(oracles))
        gradients = [
            m.name for m in mine if m.detector.needs & {"input_gradient", "input_gradients"}
        ]
        cost = "1 forward" + (f"; + gradients: {', '.join(gradients)}" if gradients else "")
        for name in (benchmark.id, *benchmark.ood_groups):
            yield make(name, "test", "score", model, mine, cost)


def _grids(methods: Sequence[Method]) -> str:
    return "its own grid" if len(methods) == 1 else "each its own grid"


def _pass(
    benchmark: BenchmarkSpec,
    datasets: Mapping[str, DatasetSpec],
    dataset: str,
    split: SplitName,
    purpose: Purpose,
    model: str,
    methods: Sequence[Method],
    forwards: str,
) -> Pass:
    return Pass(
        model=model,
        dataset=dataset,
        split=split,
        images=benchmark.images_of(datasets[dataset], split),
        purpose=purpose,
        methods=tuple(method.name for method in methods),
        taps=any(method.detector.needs & {"taps", "tap_maps"} for method in methods),
        forwards=forwards,
    )
