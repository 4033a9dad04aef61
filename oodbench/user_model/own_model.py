"""Detectors on one's own model and data, in a program or a notebook: `oodbench.evaluate`."""

from __future__ import annotations

import copy
import math
import shutil
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from oodbench.detector import Detector, DetectorInfo
from oodbench.engine.device import find_device
from oodbench.engine.evaluation import Evaluation, MethodResult
from oodbench.engine.passes.batches import arranged, is_out_of_memory
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.reasons import reason_of
from oodbench.engine.recording import Recorder
from oodbench.errors import UserError, counted, did_you_mean
from oodbench.files import digest
from oodbench.models.adapter import AdaptedNetwork, Function, inputs_beside_images, model_name
from oodbench.models.registry import HEADS
from oodbench.models.returned import Output
from oodbench.models.rounding import agree
from oodbench.planning.plan import Method
from oodbench.plugins import arguments
from oodbench.plugins.catalog import Catalog, Plugin
from oodbench.process import prepare_process
from oodbench.progress import ProgressArgument, reporter_of
from oodbench.report.differences import differences_to_best
from oodbench.report.score_warnings import score_warnings, tie_notes
from oodbench.specs import BenchmarkSpec, EvaluationSpec, ModelSpec, TuningProtocol
from oodbench.storage.records import ID_ACCURACY, CostRecord, DifferenceRecord, QualityRecord
from oodbench.user_model.borrowing import (
    BorrowedClassifier,
    CheckedRunner,
    borrowed,
    cannot_take,
    device_of,
    not_finite,
    reorder,
    reproducible,
    stays_where_it_is,
    type_of,
)
from oodbench.user_model.declared_classes import matching_labels
from oodbench.user_model.loaded_images import LoadedImages
from oodbench.user_model.probing import NotFiniteError, probe, unwrapped
from oodbench.user_model.session import ID, Contender, DataSets, NoDetectorError, Session

if TYPE_CHECKING:
    import pandas as pd

    from oodbench.report import Leaderboard
    from oodbench.report.tables.document import Document

Model = nn.Module | Callable[[Tensor], Any]

Normalization = tuple[Sequence[float] | float, Sequence[float] | float]

_FEW = 3
"""Images that a model is tried on: not as many as a batch of anything else is likely to have."""

_READS_LAYERS = frozenset({"taps", "tap_maps", "layers"})
"""Needs of detectors for whom a model is also tried on a whole batch."""


def evaluate(
    model: Model | Mapping[str, Model],
    detectors: str | Detector | Sequence[str | Detector] | Mapping[str, str | Detector],
    *,
    id_data: Any,
    ood_data: Mapping[str, Any],
    fit_data: Any = None,
    validation_data: Any = None,
    taps: Literal["auto"] | Sequence[str] | Mapping[str, Any] = "auto",
    head: str | Mapping[str, Any] | None = None,
    features: str | Mapping[str, Any] | None = None,
    output: Output | Mapping[str, Any] = None,
    normalization: Normalization | Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    tune: str | Sequence[str] = "none",
    plugins: Plugin | Sequence[Plugin] = (),
    device: str | torch.device = "auto",
    seed: int = 0,
    costs: bool = False,
    errors: Literal["skip", "raise"] = "skip",
    progress: ProgressArgument = "auto",
) -> EvaluationResult:
    """Try detectors on a trained classifier of your own, or on several.

    Each data set is read once for all detectors that are fitted on it or score it; only detectors
    that perturb their input, or replace a layer, compute more. The model is given back as it was,
    whatever happens: weights, their storage and order, modes, hooks, gradients. For that, a copy of
    the weights is kept in memory. What a `forward` of your own collects in Python stays.

    Data are DataLoaders or Datasets of (image, label), of mappings with keys such as "pixel_values"
    and "labels", or "image" and "label", or of images alone where no label is needed:
    OOD data, whose labels are ignored; ID data, which then give no accuracy. Mappings with other
    entries that the model takes by name, such as "attention_mask", are refused: the model is given
    one tensor. A DataLoader that
    shuffles is read in the order of its data set, so that scores line up with it. They may be read
    more than once.

    A detector that is fitted needs `fit_data`; one that is fitted on images that were not trained
    on, `validation_data`; one that trains a model of its own (Mahalanobis), both, with labels, and
    `normalization`: it is tuned on validation images that are attacked. What is missing is the
    reason that a detector is skipped for. All others have the parameters that they come with.

    Any callable that gives logits will do: a module of any make, also of TorchScript, torch.export
    or torch.compile, quantized, an ensemble, a plain function. A function is called as it is: put
    the model in it into evaluation mode. Detectors of features need to know which the features
    are: the input of the last layer, which is found if it is a linear layer, a 1x1 convolution, or
    a module that turns vectors into logits; else name it. Detectors that use the weights of the
    last layer run if the logits are W f + b. The others are skipped with that reason.

    Several models stand on one leaderboard: give a mapping from a name to each. Their methods are
    called "NAME+DETECTOR", and each model reads the data once. What belongs to a model (`taps`,
    `head`, `features`, `output`, `normalization`) is then the same for all, or a mapping, too.

    Args:
        model: maps images [B, channels, H, W], or what else the data give, [B, ...], to logits
            [B, C]; or a mapping from names to several.
        detectors: names of `oodbench list detectors`, or instances; or a mapping from a label of
            yours to either, to compare two settings of one detector; "all" for every detector that
            there is. Instances are copied, and the copies fitted: see
            `EvaluationResult.detectors`.
        id_data: in-distribution images to test on.
        ood_data: name -> out-of-distribution images.
        fit_data: images that the model was trained on, with labels, best without augmentation.
        validation_data: labeled in-distribution images that it was not trained on.
        taps: names of the modules that detectors with a feature ensemble look at, the feature
            layers; one that gives a tuple or a mapping counts by its first tensor. "auto": the ends
            of stages or blocks, and a note says which and why
            (`oodbench.user_model.feature_layers`).
        head: name of the module that is the last layer, where it is not found: its input, averaged
            over places, is the features.
        features: name of the module whose output, averaged over places, are the features, if they
            are not the input of the last layer.
        output: where the logits are in what the model returns: a key or an attribute, a position,
            or a function of it. None: the tensor itself; of a mapping, an object or a tuple the
            entry "logits", the only one of shape [B, C], or else the first of a tuple, with a note.
        normalization: mean and standard deviation per channel, or one of each; images are then in
            [0, 1]. None: images come as the model takes them, and the steps of input perturbation
            (ODIN) are in their units.
        num_classes: C, to be held against the model's; default: the model's.
        tune: labels of detectors to tune, or "all": each combination of the values of their search
            space is tried on attacked images of `validation_data`, as in benchmarks
            (`oodbench.engine.tuning`). Of an instance only if it is named. Tables show what was
            chosen.
        plugins: folders of detectors besides the built-in ones, and classes, as in `oodbench.run`.
        device: "auto" (where the model is, if that is a GPU; else a GPU if there is one), "cpu",
            "cuda" or "cuda:i". On a GPU the model computes in full float32, not in TF32.
        seed: of tuning data, and of all that data sets draw from global generators, which are put
            back.
        costs: measure what each detector costs beside the maximum-probability baseline of the same
            model.
        errors: "skip": a detector that raises is left out and named in the result, and so are all
            methods of a model that cannot be evaluated, if another can; "raise": what the first one
            raised is raised.
        progress: "auto": a bar on a terminal, one line in a notebook; elsewhere a line on standard
            error when nothing was said for nearly ten seconds, with rate and time left. True: the
            same, with a line for each model that is done. False: nothing. Or a reporter
            (`oodbench.progress.Reporter`).

    Returns:
        Scores, records and tables; a notebook shows the leaderboard.

    Raises:
        UserError: an argument, an image or a label is not as it should be, the model gives no
            logits for the images, or no detector can run.
        Exception: with errors="raise", what a detector raised.
    """
    prepare_process()
    say = reporter_of(progress)
    models = _models(model)
    several = isinstance(model, Mapping)
    catalog = Catalog(tuple(arguments.plugins("plugins", plugins)))
    asked, broken = _asked(detectors, catalog, tune)
    _check_seed(seed)
    arguments.truth("costs", costs)
    if num_classes is not None:
        arguments.whole_number("num_classes", num_classes, 1)
    if errors not in ("skip", "raise"):
        raise UserError(f"errors: expected 'skip' or 'raise', not {errors!r}.")
    places = {name: _device(device, module) for name, module in models.items()}
    own = {
        "taps": ("auto", taps),
        "head": (None, head),
        "features": (None, features),
        "output": (None, output),
        "normalization": (None, normalization),
    }
    options = {name: _options(own, name, models, several) for name in models}
    scalings = {name: _normalization(each.pop("normalization")) for name, each in options.items()}
    first = next(iter(models))
    tried: list[_Tried] = []
    lost: dict[str, UserError] = {}
    with say.work(len(models)), ExitStack() as stack:
        say.stage("reading the first images")
        stack.enter_context(torch.inference_mode(False))  # the caller may be in it,
        for kind in {"cpu", *(place.type for place in places.values())}:  # or in this
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(reproducible(seed, places[first]))
        unit = scalings[first] is not None
        data = _data(id_data, ood_data, fit_data, validation_data, in_unit_range=unit)
        stack.callback(data.close)
        for source in data.all:
            source.first()
        for name, module in models.items():
            say.stage(name if several else model_name(module))
            try:
                with ExitStack() as inner:
                    if name != first:
                        inner.enter_context(reproducible(seed, places[name]))
                    for source in data.all:
                        source.in_unit_range = scalings[name] is not None
                        source.model_inputs = inputs_beside_images(module)
                    inner.enter_context(_user_errors(module))
                    inner.enter_context(borrowed(module, places[name]))
                    inner.enter_context(evaluating(module))
                    classifier, classes, notes = _adapted(
                        module,
                        data,
                        options[name],
                        num_classes,
                        scalings[name],
                        places[name],
                        reads_layers=any(each.info.needs & _READS_LAYERS for each in asked),
                    )
                    notes += _same_classes(data, classes)
                    for source in data.all:
                        source.num_classes = classes
                    shown = name if several else model_name(module)
                    contenders = _contenders(asked, catalog, shown, prefix=f"{name}+" * several)
                    session = Session(
                        classifier,
                        contenders,
                        data,
                        classes,
                        attackable=scalings[name] is not None,
                        seed=seed,
                        report=say.detail,
                    )
                    session.run(stop_early=errors == "raise")
                    if costs:
                        (baseline,), _ = _asked("baseline", Catalog(), "none")
                        reference = _contenders([baseline], Catalog(), shown, prefix="")["baseline"]
                        session.measure(reference)
                    tried.append(
                        _Tried(shown, session, contenders, classifier, notes, places[name])
                    )
            except UserError as error:
                if not several:
                    raise
                traceback.clear_frames(error.__traceback__)
                error.say_first(f"Model {name}")
                if errors == "raise":
                    raise
                lost[name] = error
                say.done(error.message)
                continue
            failed = [each.error for each in session.results.values() if each.error is not None]
            if failed and errors == "raise":
                raise failed[0]
            say.done(f"{shown}: {counted(len(contenders), 'detector')}")
    if not tried:
        raise next(iter(lost.values()))
    about_data = [note for source in data.all for note in source.notes]
    with say.work(1):
        say.stage("confidence intervals")
        failures = [
            _Lost(name, _contenders(asked, catalog, name, prefix=f"{name}+"), error)
            for name, error in lost.items()
        ]
        return _result(
            tried, failures, broken, seed, about_data, several=several, report=say.detail
        )


@contextmanager
def _user_errors(module: nn.Module) -> Iterator[None]:
    """What a model raises where it was not expected, as an error of the user's, with its cause."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise UserError(
            f"The model {model_name(module)} could not be evaluated: {type(error).__name__}: "
            f"{line}.",
            "The images may be too many for the memory: give smaller batches."
            if is_out_of_memory(error)
            else "",
        ) from error


# --- arguments ---------------------------------------------------------------------------------


def _models(model: Any) -> dict[str, nn.Module]:
    """Name -> module; of a single model the name is "model"."""
    if not isinstance(model, Mapping):
        return {"model": _module(model)}
    if not model:
        raise UserError("model names none.", 'Give {"name": model, ...}.')
    for name in model:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"model: expected a name for each model, not {name!r}.")
    return {name: _module(each) for name, each in model.items()}


def _options(
    own: Mapping[str, tuple[Any, Any]], name: str, models: Mapping[str, Any], several: bool
) -> dict[str, Any]:
    """What was given for one model: of each argument its own, or what is given for all.

    Args:
        own: argument -> its default and what was given.
        name: of the model.
        models: all of them.
        several: whether they were given by name.
    """
    found = {}
    for argument, (default, given) in own.items():
        if several and isinstance(given, Mapping):
            for other in given:
                if other not in models:
                    raise UserError(
                        f"{argument}: there is no model {other!r}.",
                        did_you_mean(str(other), models),
                    )
            given = given.get(name, default)
        found[argument] = given
    return found


def _module(model: Any) -> nn.Module:
    if isinstance(model, type) or not callable(model):
        what = f"the class {model.__name__}" if isinstance(model, type) else _kind(model)
        raise UserError(
            f"model: expected a torch.nn.Module, or a function that gives logits, not {what}.",
            f"Give an instance of {model.__name__}." if isinstance(model, type) else "",
        )
    module = unwrapped(model) if isinstance(model, nn.Module) else Function(model)
    if any(map(is_lazy, module.parameters())):
        raise UserError(
            f"The model {model_name(module)} has lazy layers that have not been run, and so no "
            "weights.",
            "Load its weights, or give it a batch first.",
        )
    return module


@dataclass(frozen=True, slots=True)
class _Asked:
    """A detector that was asked for.

    Attributes:
        label: what it is called.
        given: a name, or an instance that is the user's.
        info: its declaration.
        fixed: parameters that are not tuned.
        tuned_on: whether it is tuned.
    """

    label: str
    given: str | Detector
    info: DetectorInfo
    fixed: Mapping[str, Any]
    tuned_on: TuningProtocol


def _asked(detectors: Any, catalog: Catalog, tune: Any) -> tuple[list[_Asked], dict[str, str]]:
    """The detectors that were asked for; and those that are broken, with the reason."""
    broken: dict[str, str] = {}
    if isinstance(detectors, str) and detectors == "all":
        pairs = _all(catalog, broken)
    elif isinstance(detectors, Mapping):
        pairs = list(detectors.items())
    else:
        if isinstance(detectors, str | Detector):
            detectors = [detectors]
        if not isinstance(detectors, Iterable):
            raise UserError(
                f"detectors: expected names or instances, or a mapping to them, not {detectors!r}.",
                "`oodbench list detectors` shows what there is.",
            )
        pairs = [(None, given) for given in detectors]
    found: dict[str, tuple[Any, Detector]] = {}
    for label, given in pairs:
        detector = _detector(given, catalog)
        name = detector.info.name if label is None else label
        arguments.visible_name("detectors", name)
        if name in found:
            raise UserError(
                f"detectors: '{name}' is given twice.",
                f"Give a mapping: {{'{name} 1': ..., '{name} 2': ...}}.",
            )
        found[name] = given, detector
    if not found:
        raise UserError("detectors names none.", "`oodbench list detectors` shows what there is.")
    return _with_tuning(found, tune), broken


def _all(catalog: Catalog, broken: dict[str, str]) -> list[tuple[str | None, str]]:
    """Every detector that there is; those that cannot be loaded are entered in `broken`."""
    names: list[tuple[str | None, str]] = []
    for name in catalog.detectors:
        try:
            catalog.load_detector(name)
        except UserError as error:
            broken[name] = f"the detector is broken: {error.message.rstrip('.')}"
        else:
            names.append((None, name))
    return names


def _with_tuning(found: Mapping[str, tuple[Any, Detector]], tune: Any) -> list[_Asked]:
    """Detectors with the parameters that are fixed, and whether the others are tuned."""
    expected = "expected 'all', 'none', or labels of detectors"
    named: Sequence[Any] = ()
    if isinstance(tune, str):
        named = () if tune in ("all", "none") else (tune,)
    elif isinstance(tune, Sequence):
        named = tune
    else:
        raise UserError(f"tune: {expected}, not {tune!r}.")
    for label in named:
        if label not in found:
            raise UserError(
                f"tune: {expected}; there is no detector {label!r}.",
                did_you_mean(str(label), found),
            )
        info = found[label][1].info
        if not info.search_space and "calibration" not in info.needs:
            raise UserError(f"tune: detector '{info.name}' declares no search space.")
    asked = []
    for label, (given, detector) in found.items():
        info = detector.info
        fixed = {} if isinstance(given, str) or label in named else _parameters(detector)
        wanted = label in named or (tune == "all" and bool(set(info.search_space) - set(fixed)))
        # One that trains a model of its own needs tuning data in any case.
        tuned: TuningProtocol = "fgsm" if wanted or "calibration" in info.needs else "none"
        asked.append(_Asked(label, given, info, fixed, tuned))
    return asked


def _parameters(detector: Detector) -> dict[str, Any]:
    try:
        return detector.parameters
    except AttributeError as error:
        raise UserError(
            f"Detector '{detector.info.name}' does not keep what its constructor takes: {error}.",
            "Keep each argument in an attribute of the same name.",
        ) from None


def _contenders(
    asked: Iterable[_Asked], catalog: Catalog, model: str, *, prefix: str
) -> dict[str, Contender]:
    """Method -> a detector that is nobody else's."""
    found = {}
    for each in asked:
        name = f"{prefix}{each.label}"
        method = Method(name, model, each.info, each.fixed, each.tuned_on)
        found[name] = Contender(method, _detector(each.given, catalog))
    return found


def _detector(given: Any, catalog: Catalog) -> Detector:
    if isinstance(given, str):
        return catalog.load_detector(given)
    if isinstance(given, type) and issubclass(given, Detector):
        raise UserError(
            f"detectors: {given.__name__} is a class.", f"Give an instance: {given.__name__}()."
        )
    if not isinstance(given, Detector):
        raise UserError(
            f"detectors: expected names or instances of oodbench.Detector, not {_kind(given)}."
        )
    if not hasattr(given, "info"):
        raise UserError(
            f"detectors: {type(given).__name__} does not say what it needs.",
            "Decorate the class with @oodbench.register(name, needs=...).",
        )
    step = getattr(given, "epsilon", None)
    if "input_gradient" in given.info.needs and not isinstance(step, int | float):
        raise UserError(
            f"Detector '{given.info.name}' needs input gradients and has no step size.",
            "Give it an attribute 'epsilon', a number in units of a [0, 1] pixel.",
        )
    try:
        return copy.deepcopy(given)
    except Exception as error:  # its own code
        raise UserError(
            f"Detector '{given.info.name}' cannot be copied: {type(error).__name__}: {error}.",
            "Keep no open files, generators or locks in it.",
        ) from error


def _device(name: str | torch.device, module: nn.Module) -> torch.device:
    own = device_of(module)
    fixed = stays_where_it_is(module)
    if name == "auto" and own is not None and (fixed or own.type == "cuda"):
        return own
    if name == "auto" and fixed:
        return torch.device("cpu")
    found = find_device(str(name))
    if fixed and own is not None and own.type != found.type:
        raise UserError(
            f"The model {model_name(module)} is on the device '{own}', and parts of it cannot be "
            f"moved to '{found}'.",
            f"Give device='{own.type}', or move the model itself.",
        )
    return found


Scaling = tuple[tuple[float, ...], tuple[float, ...]]


def _normalization(given: Any) -> Scaling | None:
    """Mean and standard deviation per channel."""
    if given is None:
        return None
    expected = "expected (mean, std), a number per channel in each"
    try:
        mean, std = (
            tuple(map(_real, part))
            if hasattr(part, "__len__") and not isinstance(part, str)
            else (_real(part),)
            for part in given
        )
    except (TypeError, ValueError):
        raise UserError(f"normalization: {expected}, not {given!r}.") from None
    if len(mean) != len(std) or not mean:
        raise UserError(
            f"normalization: {expected}, not {len(mean)} means and {len(std)} deviations."
        )
    for value in (*mean, *std):
        if not math.isfinite(value):
            raise UserError(f"normalization: {value} is not a finite number.")
    for value in std:
        if value <= 0:
            raise UserError(f"normalization: a standard deviation is positive, not {value:g}.")
    return mean, std


def _real(value: Any) -> float:
    if isinstance(value, str | bytes | bool):
        raise TypeError
    return float(value)


def _data(
    id_data: Any, ood_data: Any, fit_data: Any, validation_data: Any, *, in_unit_range: bool
) -> DataSets:
    """The data sets of a call, with what is wrong in their first batches said."""
    if not isinstance(ood_data, Mapping):
        raise UserError(
            f"ood_data: expected a mapping from names to data, not {_kind(ood_data)}.",
            'Give ood_data={"name": ...}.',
        )
    if not ood_data:
        raise UserError("ood_data names no data set.", 'Give ood_data={"name": ...}.')
    for name in ood_data:
        arguments.visible_name("ood_data", name)
    if ID in ood_data:
        raise UserError(
            f"ood_data: '{ID}' is what the in-distribution scores are called.",
            "Choose another name for that data set.",
        )
    data = DataSets(
        test={
            ID: LoadedImages(id_data, "id_data", labeled=True),
            **{
                name: LoadedImages(given, f"ood_data['{name}']", labeled=False)
                for name, given in ood_data.items()
            },
        },
        fit=None if fit_data is None else LoadedImages(fit_data, "fit_data", labeled=True),
        validation=None
        if validation_data is None
        else LoadedImages(validation_data, "validation_data", labeled=True),
    )
    for source in data.all:
        source.in_unit_range = in_unit_range
    return data


def _adapted(
    module: nn.Module,
    data: DataSets,
    options: Mapping[str, Any],
    num_classes: int | None,
    scaling: Scaling | None,
    device: torch.device,
    *,
    reads_layers: bool,
) -> tuple[BorrowedClassifier, int, list[str]]:
    """The model as the engine takes classifiers, tried on a few images of each data set.

    With `reads_layers` also on a whole batch, to see which layers run for it. Also C, and what is
    to be noted.
    """
    images, _ = data.test[ID].first()
    dtype = type_of(module)
    if scaling is not None:
        for source in data.all:
            channels = source.first()[0].shape[1]
            if len(scaling[0]) not in (1, channels):
                raise UserError(
                    f"normalization is for {len(scaling[0])} channels, the images of "
                    f"{source.name} have {channels}."
                )

    def wrapped(network: Any, channels_last: bool) -> BorrowedClassifier:
        return BorrowedClassifier(
            network, scaling, dtype=dtype, device=device, channels_last=channels_last
        )

    alone = wrapped(module, channels_last=True)
    whole = arranged(images.to(device), alone.dtype)
    few = whole[:_FEW]
    try:
        probed = probe(
            module,
            alone.normalized(few),
            num_classes=num_classes,
            batch=alone.normalized(whole) if reads_layers else None,
            **options,
        )
    except UserError:
        raise
    except NotFiniteError as error:
        raise not_finite(f"image {error.index} of id_data", error.logits) from None
    except Exception as error:
        raise cannot_take(alone, few, "id_data", error) from error
    if probed.channels_last:
        reorder(module)
    classifier = wrapped(probed.network, probed.channels_last)
    runner = CheckedRunner(classifier, batch_size=_FEW)
    seen = {few.shape[1:]}
    with runner.attached(), torch.no_grad():
        notes = [note for note in (probed.note,) if note]
        notes += _unsteadiness(runner, few, probed.logits)
        for source in data.all:
            few, _ = runner.placed(source.first()[0][:_FEW])
            if few.shape[1:] not in seen:
                seen.add(few.shape[1:])
                runner.look_at(few, source.name)
    _check_classes(probed.num_classes, num_classes)
    return classifier, probed.num_classes, notes


def _unsteadiness(runner: CheckedRunner, images: Tensor, logits: Tensor) -> Iterator[str]:
    """What is to be said of a model whose logits of an image are not the image's alone.

    Args:
        runner: attached.
        images: a few.
        logits: what the model gave for them together.
    """

    def alone() -> Tensor:
        logits: Tensor = runner.classifier(images[:1])
        return logits

    if len(images) == 1:
        return
    try:
        first = alone()
        if agree(first, logits[:1]):
            return
        again = alone()
    except Exception:  # it takes no single image: said when there is one
        return
    if agree(again, first):
        yield (
            "The model gives an image that is alone in its batch other logits than beside others, "
            "as BatchNorm without running statistics does: every score depends on which images "
            "come together."
        )
    else:
        yield (
            "The model gives an image other logits each time, as a module in training mode "
            "or dropout that is always on does: every score is that of one draw. Call .eval() "
            "on the modules that a function calls."
        )


def _check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UserError(f"seed: expected a whole number from 0 to 2**63 - 1, not {seed!r}.")


def _check_classes(found: int, expected: int | None) -> None:
    if expected not in (None, found):
        raise UserError(
            f"num_classes is {expected}, and the model gives {found} logits for an image.",
            "Leave num_classes out, or give the model that has as many.",
        )


def _same_classes(data: DataSets, num_classes: int) -> list[str]:
    """Let a label mean the same class in all data; what is to be noted of it."""
    labeled = {source.name: source for source in data.all if source.declared is not None}
    for source in labeled.values():
        source.relabel = ()  # of a model before this one
    declared = {
        name: source.declared
        for name, source in labeled.items()
        if source.declared is not None and source.has_labels
    }
    notes = []
    for name, labels, note in matching_labels(declared, num_classes):
        labeled[name].relabel = labels
        notes.append(note)
    return notes


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


# --- what comes of it --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """What was found of a model.

    Attributes:
        taps: names of the modules that are its feature layers.
        head: name of the module that is its last layer; "" if it is not known.
        num_classes: C.
    """

    taps: tuple[str, ...]
    head: str
    num_classes: int


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationResult:
    """What came of `oodbench.evaluate`; it prints as a table, and a notebook shows it as one.

    Attributes:
        scores: detector -> "id" and the names of the OOD sets -> one score per image, float64, in
            the order of the data; higher is more in-distribution.
        records: every metric of every detector on every OOD set with its 95% interval, as in the
            records of a run; then the classifier's accuracy, if `id_data` has labels.
        costs: one for each detector if they were measured.
        differences: how far the best detector is ahead of each other one, as in a run.
        skipped: detector -> why it could not run.
        failed: detector -> what went wrong while it ran.
        errors: detector that failed -> what was raised.
        detectors: detector -> the fitted and tuned instance that scored.
        models: name -> what was found of a model; of a single one the name of its class.
        notes: what a reader of the tables should know of this call.
        warnings: signs of a mistake in data or scores, such as labels that disagree with the model.
    """

    scores: Mapping[str, Mapping[str, NDArray[np.float64]]]
    records: list[QualityRecord]
    costs: list[CostRecord]
    differences: list[DifferenceRecord]
    skipped: Mapping[str, str]
    errors: Mapping[str, Exception]
    detectors: Mapping[str, Detector]
    models: Mapping[str, EvaluatedModel]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def model(self) -> str:
        """Name of the model's class; names of several."""
        return ", ".join(self.models)

    @property
    def taps(self) -> tuple[str, ...]:
        """`EvaluatedModel.taps` of the only model."""
        return self._only().taps

    @property
    def head(self) -> str:
        """`EvaluatedModel.head` of the only model."""
        return self._only().head

    @property
    def num_classes(self) -> int:
        """`EvaluatedModel.num_classes` of the only model."""
        return self._only().num_classes

    def _only(self) -> EvaluatedModel:
        if len(self.models) > 1:
            raise UserError(
                f"There are several models: {self.model}.",
                f"Ask one of them: result.models[{next(iter(self.models))!r}].",
            )
        return next(iter(self.models.values()))

    @property
    def failed(self) -> dict[str, str]:
        """Detector -> what went wrong while it ran."""
        return {label: reason_of(error) for label, error in self.errors.items()}

    def leaderboard(self) -> Leaderboard:
        """The records, ranked, for every format there is (`to_csv`, `to_json`, `to_latex` ...)."""
        from oodbench.report import Leaderboard

        sets = [record.ood_dataset for record in self.records if record.ood_dataset is not None]
        order = tuple(dict.fromkeys(sets))
        return Leaderboard.from_records(
            self.records, self.costs, self.warnings, self.differences, order=order
        )

    def to_markdown(self) -> str:
        """GitHub-flavored Markdown, with every metric."""
        from oodbench.report.writers import markdown

        return markdown.render_document(self._document(best="bold", whole=True))

    def to_pandas(self, *, wide: bool = False) -> pd.DataFrame:
        """One row for each detector (`Leaderboard.to_pandas`)."""
        return self.leaderboard().to_pandas(wide=wide)

    def to_text(self, width: int = 120) -> str:
        """Plain text, no line wider than `width` characters, of which there are 20 or more."""
        from oodbench.report.writers import terminal

        return terminal.render_document(self._document(best="marked *", whole=False), width)

    def _repr_html_(self) -> str:
        from oodbench.report.writers import html

        return html.render_fragment(self._document(best="bold", whole=False))

    def __str__(self) -> str:
        return self.to_text(max(60, min(120, shutil.get_terminal_size((120, 24)).columns)))

    def __repr__(self) -> str:
        return str(self)

    def _document(self, *, best: str, whole: bool) -> Document:
        from oodbench.report.tables import evaluation_layout

        return evaluation_layout.document(
            self.leaderboard(),
            models={name: each.num_classes for name, each in self.models.items()},
            best=best,
            notes=self.notes,
            whole=whole,
        )


@dataclass(frozen=True, slots=True)
class _Tried:
    """A model, and what came of the detectors on it.

    Attributes:
        name: of the model in records.
        session: has run.
        contenders: method -> detector, also those that were skipped.
        classifier: the model as it was run.
        notes: on it.
        device: where it ran.
    """

    name: str
    session: Session
    contenders: Mapping[str, Contender]
    classifier: BorrowedClassifier
    notes: Sequence[str]
    device: torch.device

    @property
    def network(self) -> AdaptedNetwork:
        assert isinstance(self.classifier.network, AdaptedNetwork)
        return self.classifier.network

    @property
    def methods(self) -> dict[str, Method]:
        return {label: each.method for label, each in self.contenders.items()}

    @property
    def errors(self) -> dict[str, Exception]:
        results = self.session.results
        return {label: each.error for label, each in results.items() if each.error is not None}

    @property
    def good(self) -> dict[str, MethodResult]:
        results = self.session.results
        return {label: each for label, each in results.items() if each.error is None}


@dataclass(frozen=True, slots=True)
class _Lost:
    """One of several models, which could not be evaluated.

    Attributes:
        name: of the model.
        contenders: method -> detector that did not run.
        error: why.
    """

    name: str
    contenders: Mapping[str, Contender]
    error: UserError

    @property
    def skipped(self) -> Mapping[str, str]:
        """Method -> why it cannot run, if that is why the model was not evaluated."""
        return self.error.skipped if isinstance(self.error, NoDetectorError) else {}


def _result(
    tried: Sequence[_Tried],
    lost: Sequence[_Lost],
    broken: Mapping[str, str],
    seed: int,
    about_data: Sequence[str],
    *,
    several: bool,
    report: Callable[[str], None],
) -> EvaluationResult:
    errors = {label: error for each in tried for label, error in each.errors.items()}
    for gone in lost:
        errors |= dict.fromkeys(set(gone.contenders) - set(gone.skipped), gone.error)
    for error in errors.values():
        traceback.clear_frames(error.__traceback__)  # they hold images, outputs and the model
    good = {label: result for each in tried for label, result in each.good.items()}
    scores = {label: dict(result.scores) for label, result in good.items()}
    ood = tried[0].session.ood
    names = ", ".join(each.name for each in tried)
    device = tried[0].device
    recorder = Recorder(
        _benchmark(
            {each.name: each.network.head for each in tried} | {each.name: None for each in lost},
            ood,
        ),
        digest(names, str(seed), *(a.tobytes() for each in scores.values() for a in each.values())),
        torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    )
    records: list[QualityRecord] = []
    notes: list[str] = []
    found_warnings: list[str] = []
    everywhere = set[str].intersection(*(set(each.session.warnings) for each in tried))
    for each in tried:
        prefix = f"{each.name}: " if several else ""
        mine = list(_records(each.session, recorder, each.methods, seed, report))
        records += mine
        of_model = [*each.notes, *_layers_note(each.contenders.values(), each.network)]
        notes += [f"{prefix}{note}" for note in of_model]
        notes += _notes(each.session, [each.methods[label] for label in each.good], mine)
        found_warnings += [
            warning if warning in everywhere else f"{prefix}{warning}"
            for warning in each.session.warnings
        ]
        for name, reason in broken.items():
            label = f"{each.name}+{name}" if several else name
            records += recorder.missing(label, each.name, name, seed, "skipped", reason)
    skipped = {label: why for each in tried for label, why in each.session.skipped.items()}
    for gone in lost:
        skipped |= gone.skipped
        for label, contender in gone.contenders.items():
            who = (label, gone.name, contender.method.detector.name, seed)
            if label in gone.skipped:
                records += recorder.missing(*who, "skipped", gone.skipped[label])
            else:
                records += recorder.missing(*who, "failed", reason_of(gone.error))
    for each in tried:
        skipped |= {(f"{each.name}+{n}" if several else n): why for n, why in broken.items()}
    return EvaluationResult(
        scores=scores,
        records=records,
        differences=differences_to_best(records, recorder.resampled.__getitem__),
        costs=[
            recorder.cost(each.methods[label], seed, result)
            for each in tried
            for label, result in each.good.items()
            if result.cost is not None
        ],
        skipped=skipped,
        errors=errors,
        detectors={label: result.detectors[ood[0]] for label, result in good.items()},
        models={
            each.name: EvaluatedModel(
                each.network.tap_names, each.network.head_name or "", each.session.num_classes
            )
            for each in tried
        },
        notes=tuple(dict.fromkeys([*notes, *about_data])),
        warnings=tuple(dict.fromkeys([*found_warnings, *score_warnings(records)])),
    )


def _notes(
    session: Session, methods: Iterable[Method], records: Sequence[QualityRecord]
) -> Iterable[str]:
    for label, reason in session.unmeasured.items():
        yield f"The costs of {label} could not be measured: {reason}."
    stepping, looking = [], []
    for method in methods:
        ties = tie_notes(record for record in records if record.method == method.name)
        for note in (*session.results[method.name].notes, *ties):
            yield f"{method.name}: {note}."
        if "input_gradient" in method.detector.needs:
            stepping.append(method.name)
        if "input_gradients" in method.detector.needs:
            looking.append(method.name)
    if stepping and not session.attackable:
        yield (
            f"{', '.join(stepping)}: normalization was not given, so the step of the input "
            "perturbation is in units of the images as they came, not of a pixel in [0, 1]."
        )
    if looking and not session.attackable:
        yield (
            f"{', '.join(looking)}: normalization was not given, so gradients are with respect to "
            "the images as they came, not to pixels in [0, 1]."
        )


def _layers_note(contenders: Iterable[Contender], network: AdaptedNetwork) -> Iterable[str]:
    """What was taken for features and feature layers, if a detector looks at them."""
    needs = frozenset[str]().union(*(each.method.detector.needs for each in contenders))
    if network.head_name is not None and network.head_note and needs & {"features", "feature_map"}:
        yield network.head_note
    if needs & {"taps", "tap_maps", "layers"} and network.tap_names:
        yield f"Feature layers: {', '.join(network.tap_names)} ({network.tap_reason})."


def _benchmark(heads: Mapping[str, nn.Module | None], ood: Sequence[str]) -> BenchmarkSpec:
    """What records say of the benchmark. Nothing in it was read from a file: nothing is checked."""
    layers = {info.layer: name for name, info in HEADS.items()}
    models = {}
    for model, head in heads.items():
        values: dict[str, Any] = {"head": layers.get(type(head).__name__, "unknown")}
        models[model] = ModelSpec.model_construct(**values)
    said: dict[str, Any] = {
        "name": "evaluate",
        "version": 1,
        "id": ID,
        "ood": {None: tuple(ood)},  # in no group
        "models": models,
        "evaluation": EvaluationSpec(),
    }
    return BenchmarkSpec.model_construct(**said)


def _records(
    session: Session,
    recorder: Recorder,
    methods: Mapping[str, Method],
    seed: int,
    report: Callable[[str], None],
) -> Iterable[QualityRecord]:
    correct = session.correct
    for label, method in methods.items():
        report(label)
        who = (label, method.model, method.detector.name, seed)
        if label in session.skipped:
            yield from recorder.missing(*who, "skipped", session.skipped[label])
            continue
        result = session.results[label]
        if result.error is not None:
            yield from recorder.missing(*who, "failed", reason_of(result.error), method.tuned_on)
            continue
        known = np.zeros(len(result.scores[ID]), dtype=np.bool_) if correct is None else correct
        for record in recorder.quality(method, seed, Evaluation(session.results, known)):
            if record.metric != ID_ACCURACY or correct is not None:
                yield record
