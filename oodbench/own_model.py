"""Detectors on one's own model and data, in a program or a notebook: `oodbench.evaluate`."""

from __future__ import annotations

import copy
import math
import shutil
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from oodbench.catalog import Catalog
from oodbench.data.declared import matching_labels
from oodbench.data.loaders import LoadedImages
from oodbench.detector import Detector
from oodbench.engine.borrowing import (
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
from oodbench.engine.device import find_device
from oodbench.engine.evaluation import Evaluation
from oodbench.engine.network import arranged, evaluating
from oodbench.engine.reasons import reason_of
from oodbench.engine.recording import Recorder
from oodbench.engine.session import ID, Contender, DataSets, Session
from oodbench.errors import UserError
from oodbench.files import digest
from oodbench.models.adapter import AdaptedNetwork, Function, model_name
from oodbench.models.probing import NotFiniteError, agree, probe, unwrapped
from oodbench.models.registry import HEADS
from oodbench.models.returned import Output
from oodbench.plan import Method
from oodbench.records import ID_ACCURACY, CostRecord, QualityRecord
from oodbench.report.signs import score_signs, tie_notes
from oodbench.specs import BenchmarkSpec, EvaluationSpec, ModelSpec, TuningProtocol

if TYPE_CHECKING:
    import pandas as pd

    from oodbench.report import Leaderboard
    from oodbench.report.tables import Document

Normalization = tuple[Sequence[float] | float, Sequence[float] | float]

_FEW = 3
"""Images that a model is tried on: not as many as a batch of anything else is likely to have."""


def evaluate(
    model: nn.Module | Callable[[Tensor], Any],
    detectors: Sequence[str | Detector] | Mapping[str, str | Detector],
    *,
    id_data: Any,
    ood_data: Mapping[str, Any],
    fit_data: Any = None,
    validation_data: Any = None,
    taps: Literal["auto"] | Sequence[str] = "auto",
    head: str | None = None,
    features: str | None = None,
    output: Output = None,
    normalization: Normalization | None = None,
    num_classes: int | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    costs: bool = False,
) -> EvaluationResult:
    """Try detectors on a trained classifier of your own.

    Each data set is read once for all detectors that are fitted on it or score it; only detectors
    that perturb their input compute more. The model is given back as it was, whatever happens:
    weights, their storage and order, modes, hooks, gradients. What a `forward` of your own collects
    in Python stays.

    Data are DataLoaders or Datasets of (image, label), or of images alone where no label is needed:
    OOD data, whose labels are ignored; ID data, which then give no accuracy. A DataLoader that
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

    Args:
        model: maps images [B, channels, H, W], or what else the data give, [B, ...], to logits
            [B, C].
        detectors: names of `oodbench list detectors`, or instances; or a mapping from a label of
            yours to either, to compare two settings of one detector. Instances are copied, and the
            copies fitted: see `EvaluationResult.detectors`.
        id_data: in-distribution images to test on.
        ood_data: name -> out-of-distribution images.
        fit_data: images that the model was trained on, with labels, best without augmentation.
        validation_data: labelled in-distribution images that it was not trained on.
        taps: names of the modules that detectors with a feature ensemble look at; "auto": the ends
            of the network's stages (`oodbench.models.probing`).
        head: name of the module that is the last layer, where it is not found: its input, averaged
            over places, are the features.
        features: name of the module whose output, averaged over places, are the features, if they
            are not the input of the last layer.
        output: where the logits are in what the model returns: a key or an attribute, a position,
            or a function of it. None: the tensor itself; of a mapping, an object or a tuple the
            entry "logits", the only one of shape [B, C], or else the first of a tuple, with a note.
        normalization: mean and standard deviation per channel, or one of each; images are then in
            [0, 1]. None: images come as the model takes them, and the steps of input perturbation
            (ODIN) are in their units.
        num_classes: C, to be held against the model's; default: the model's.
        device: "auto" (where the model is, if that is a GPU; else a GPU if there is one), "cpu",
            "cuda" or "cuda:i". On a GPU the model computes in full float32, not in TF32.
        seed: of tuning data, and of all that data sets draw from global generators, which are put
            back.
        costs: measure what each detector costs beside the maximum-probability baseline.

    Returns:
        Scores, records and tables; a notebook shows the leaderboard.

    Raises:
        UserError: an argument, an image or a label is not as it should be, the model gives no
            logits for the images, or no detector can run. A detector that raises is left out and
            named in the result.
    """
    module = _module(model)
    contenders = _contenders(detectors, model_name(module))
    _check_seed(seed)
    place = _device(device, module)
    scaling = _normalization(normalization)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # the caller may be in it,
        for kind in {place.type, "cpu"}:  # or in this
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(reproducible(seed, place))
        data = _data(id_data, ood_data, fit_data, validation_data, in_unit_range=bool(scaling))
        stack.callback(data.close)
        for source in data.all:
            source.first()
        stack.enter_context(borrowed(module, place))
        stack.enter_context(evaluating(module))
        where = {"head": head, "features": features, "output": output, "num_classes": num_classes}
        classifier, classes, notes = _adapted(module, data, taps, where, scaling, place)
        _check_classes(classes, num_classes)
        notes += _same_classes(data, classes)
        for source in data.all:
            source.num_classes = classes
        session = Session(
            classifier, contenders, data, classes, attackable=scaling is not None, seed=seed
        )
        session.run()
        if costs:
            session.measure(_contenders(["baseline"], model_name(module))["baseline"])
    notes += [note for source in data.all for note in source.notes]
    return _result(session, contenders, classifier, seed, place, notes)


# --- arguments ---------------------------------------------------------------------------------


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


def _contenders(
    detectors: Sequence[str | Detector] | Mapping[str, str | Detector], model: str
) -> dict[str, Contender]:
    """Label -> a detector that is nobody else's."""
    if isinstance(detectors, str | Detector):
        detectors = [detectors]
    if not isinstance(detectors, Iterable):
        raise UserError(
            f"detectors: expected names or instances, or a mapping to them, not {detectors!r}.",
            "`oodbench list detectors` shows what there is.",
        )
    pairs = detectors.items() if isinstance(detectors, Mapping) else ((None, d) for d in detectors)
    catalog = Catalog()
    found: dict[str, Contender] = {}
    for label, given in pairs:
        detector = _detector(given, catalog)
        info = detector.info
        name = info.name if label is None else label
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"detectors: expected a label for each detector, not {name!r}.")
        if name in found:
            raise UserError(
                f"detectors: '{name}' is given twice.",
                f"Give a mapping: {{'{name} 1': ..., '{name} 2': ...}}.",
            )
        fixed = {} if isinstance(given, str) else detector.parameters
        tuned: TuningProtocol = "fgsm" if "calibration" in info.needs else "none"
        found[name] = Contender(Method(name, model, info, fixed, tuned), detector)
    if not found:
        raise UserError("detectors names none.", "`oodbench list detectors` shows what there is.")
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
    return copy.deepcopy(given)


def _device(name: str | torch.device, module: nn.Module) -> torch.device:
    own = device_of(module)
    fixed = stays_where_it_is(module)
    if name == "auto" and own is not None and (fixed or own.type == "cuda"):
        return own
    if name == "auto" and fixed:
        return torch.device("cpu")
    try:
        found = find_device(str(name))
    except UserError as error:
        raise UserError(
            error.message.replace("--device", "device"), error.hint.replace("--device ", "device=")
        ) from None
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
            tuple(map(float, part)) if hasattr(part, "__len__") else (float(part),)
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
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"ood_data: expected a name for each data set, not {name!r}.")
    if ID in ood_data:
        raise UserError(
            f"ood_data: '{ID}' is what the in-distribution scores are called.",
            "Choose another name for that data set.",
        )
    data = DataSets(
        test={
            ID: LoadedImages(id_data, "id_data", labelled=True),
            **{
                name: LoadedImages(given, f"ood_data['{name}']", labelled=False)
                for name, given in ood_data.items()
            },
        },
        fit=None if fit_data is None else LoadedImages(fit_data, "fit_data", labelled=True),
        validation=None
        if validation_data is None
        else LoadedImages(validation_data, "validation_data", labelled=True),
    )
    for source in data.all:
        source.in_unit_range = in_unit_range
    return data


def _adapted(
    module: nn.Module,
    data: DataSets,
    taps: Literal["auto"] | Sequence[str],
    where: Mapping[str, Any],
    scaling: Scaling | None,
    device: torch.device,
) -> tuple[BorrowedClassifier, int, list[str]]:
    """The model as the engine takes classifiers, tried on a few images of each data set.

    Also C, and what is to be noted.
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
    few = arranged(images[:_FEW].to(device), alone.dtype)
    try:
        probed = probe(module, alone.normalised(few), taps, **where)
    except UserError:
        raise
    except NotFiniteError as error:
        raise not_finite(f"image {error.index} of id_data") from None
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
            "The model gives an image other logits each time, as dropout that is always on does: "
            "every score is that of one draw."
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
    labelled = {source.name: source for source in data.all if source.declared is not None}
    declared = {
        name: source.declared
        for name, source in labelled.items()
        if source.declared is not None and source.has_labels
    }
    notes = []
    for name, labels, note in matching_labels(declared, num_classes):
        labelled[name].relabel = labels
        notes.append(note)
    return notes


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


# --- what comes of it --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationResult:
    """What came of `oodbench.evaluate`; it prints as a table, and a notebook shows it as one.

    Attributes:
        scores: detector -> "id" and the names of the OOD sets -> one score per image, float64, in
            the order of the data; higher is more in-distribution.
        records: every metric of every detector on every OOD set with its 95% interval, as in the
            records of a run; then the classifier's accuracy, if `id_data` has labels.
        costs: one for each detector if they were measured.
        skipped: detector -> why it could not run.
        failed: detector -> what went wrong while it ran.
        errors: detector that failed -> what was raised.
        detectors: detector -> the fitted and tuned instance that scored.
        model: name of the model's class.
        taps: names of the modules that are the model's taps.
        head: name of the module that is its last layer; "" if it is not known.
        num_classes: C.
        notes: what a reader of the tables should know of this call.
        warnings: signs of a mistake in data or scores, such as labels that disagree with the model.
    """

    scores: Mapping[str, Mapping[str, NDArray[np.float64]]]
    records: list[QualityRecord]
    costs: list[CostRecord]
    skipped: Mapping[str, str]
    errors: Mapping[str, Exception]
    detectors: Mapping[str, Detector]
    model: str
    taps: tuple[str, ...]
    head: str
    num_classes: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def failed(self) -> dict[str, str]:
        """Detector -> what went wrong while it ran."""
        return {label: reason_of(error) for label, error in self.errors.items()}

    def leaderboard(self) -> Leaderboard:
        """The records, ranked, for every format there is (`to_csv`, `to_json`, `to_latex` ...)."""
        from oodbench.report import Leaderboard

        return Leaderboard.from_records(self.records, self.costs, self.warnings)

    def to_markdown(self) -> str:
        """GitHub-flavoured Markdown, with every metric."""
        from oodbench.report import markdown

        return markdown.render_document(self._document(best="bold", whole=True))

    def to_pandas(self) -> pd.DataFrame:
        """One row for each detector (`Leaderboard.to_pandas`)."""
        return self.leaderboard().to_pandas()

    def to_text(self, width: int = 120) -> str:
        """Plain text, no line wider than `width` characters."""
        from oodbench.report import terminal

        return terminal.render_document(self._document(best="marked *", whole=False), width)

    def _repr_html_(self) -> str:
        from oodbench.report import html

        return html.render_fragment(self._document(best="bold", whole=False))

    def __str__(self) -> str:
        return self.to_text(max(60, min(120, shutil.get_terminal_size((120, 24)).columns)))

    def __repr__(self) -> str:
        return str(self)

    def _document(self, *, best: str, whole: bool) -> Document:
        from oodbench.report import own_model

        return own_model.document(
            self.leaderboard(),
            model=self.model,
            classes=self.num_classes,
            best=best,
            notes=self.notes,
            whole=whole,
        )


def _result(
    session: Session,
    contenders: Mapping[str, Contender],
    classifier: BorrowedClassifier,
    seed: int,
    device: torch.device,
    notes: Sequence[str],
) -> EvaluationResult:
    errors = {label: r.error for label, r in session.results.items() if r.error is not None}
    for error in errors.values():
        traceback.clear_frames(error.__traceback__)  # they hold images, outputs and the model
    good = {label: each for label, each in session.results.items() if label not in errors}
    scores = {label: dict(result.scores) for label, result in good.items()}
    methods = {label: each.method for label, each in contenders.items()}
    network = classifier.network
    assert isinstance(network, AdaptedNetwork)
    model = model_name(network.module)
    recorder = Recorder(
        _benchmark(model, network.head, session.ood),
        digest(model, str(seed), *(a.tobytes() for each in scores.values() for a in each.values())),
        torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    )
    records = list(_records(session, recorder, methods, seed))
    return EvaluationResult(
        scores=scores,
        records=records,
        costs=[
            recorder.cost(methods[label], seed, result)
            for label, result in good.items()
            if result.cost is not None
        ],
        skipped=session.skipped,
        errors=errors,
        detectors={label: result.detectors[session.ood[0]] for label, result in good.items()},
        model=model,
        taps=network.tap_names,
        head=network.head_name or "",
        num_classes=session.num_classes,
        notes=(
            *notes,
            *_layers_note(contenders.values(), network),
            *_notes(session, [methods[label] for label in good], records),
        ),
        warnings=(*session.warnings, *score_signs(records)),
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
    """Which feature layers the model has, if a detector that was asked for looks at them."""
    looks = any(each.method.detector.needs & {"taps", "tap_maps"} for each in contenders)
    if looks and network.tap_names:
        yield f"Feature layers: {', '.join(network.tap_names)} ({network.tap_reason})."


def _benchmark(model: str, head: nn.Module | None, ood: Sequence[str]) -> BenchmarkSpec:
    """What records say of the benchmark. Nothing in it was read from a file: nothing is checked."""
    layers = {info.layer: name for name, info in HEADS.items()}
    loss = layers.get(type(head).__name__, "unknown")
    values: dict[str, Any] = {"head": loss}
    said: dict[str, Any] = {
        "name": "evaluate",
        "version": 1,
        "id": ID,
        "ood": {None: tuple(ood)},  # in no group
        "models": {model: ModelSpec.model_construct(**values)},
        "evaluation": EvaluationSpec(),
    }
    return BenchmarkSpec.model_construct(**said)


def _records(
    session: Session, recorder: Recorder, methods: Mapping[str, Method], seed: int
) -> Iterable[QualityRecord]:
    correct = session.correct
    for label, method in methods.items():
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
