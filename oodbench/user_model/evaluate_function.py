"""Detectors on a user's own model and data, in a program or a notebook: `oodbench.evaluate`."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oodbench import argument_checks
from oodbench.deploy.model_arguments import device_for, normalization_of
from oodbench.deploy.restoration import reproducible
from oodbench.detector import Detector
from oodbench.errors import UserError, counted
from oodbench.metrics import accepting
from oodbench.models.structure.logits_entry import Output
from oodbench.models.structure.model_call import Inputs
from oodbench.planning.overrides import optional_metrics
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.content_folders import Plugin, checked_plugins
from oodbench.process import prepare_process
from oodbench.progress import ProgressArgument, reporter_of
from oodbench.user_model.assembly import result_of
from oodbench.user_model.evaluate_arguments import check_seed, data_sets, named_models, options_of
from oodbench.user_model.evaluation_result import EvaluationResult
from oodbench.user_model.model_trials import GivenModel, Lost, Trials, Tried
from oodbench.user_model.requested_detectors import requested_detectors

Model = nn.Module | Callable[[Tensor], Any]


Normalization = tuple[Sequence[float] | float, Sequence[float] | float]


def evaluate(
    model: Model | Mapping[str, Model],
    detectors: str | Detector | Sequence[str | Detector] | Mapping[str, str | Detector],
    *,
    id_data: Any,
    ood_data: Mapping[str, Any],
    fit_data: Any = None,
    validation_data: Any = None,
    ood_validation_data: Any = None,
    taps: Literal["auto"] | Sequence[str] | Mapping[str, Any] = "auto",
    head: str | Mapping[str, Any] | None = None,
    features: str | Callable[[Tensor], Any] | Mapping[str, Any] | None = None,
    output: Output | Mapping[str, Any] = None,
    inputs: Inputs | Mapping[str, Any] = None,
    normalization: Normalization | Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    tune: str | Sequence[str] = "none",
    plugins: Plugin | Sequence[Plugin] = (),
    device: str | torch.device = "auto",
    seed: int = 0,
    costs: bool = False,
    metrics: str | Sequence[str] = (),
    errors: Literal["skip", "raise"] = "skip",
    progress: ProgressArgument = "auto",
) -> EvaluationResult:
    """Evaluate detectors on your own trained classifier, or on several.

    All detectors share one pass over each data set. Only detectors that perturb their input,
    replace a layer, or iterate over the training images again take more. The model is restored in
    any case: weights, their storage and order, modes, hooks, gradients. This needs memory for a
    copy of the weights. Python objects that your `forward` collects are not restored.

    Data are DataLoaders or Datasets of (image, label), of mappings with keys such as "pixel_values"
    and "labels", or "image" and "label", or of images alone where no label is needed:
    OOD data, whose labels are ignored; ID data, which then give no accuracy. Data sets of Hugging
    Face and other objects that can be iterated over again, such as those of WebDataset, are read as
    they are; each item may be one image or a batch. Mappings with other entries that the model
    takes by name, such as "attention_mask", are errors unless `inputs` makes them: the model gets
    one tensor. A shuffling DataLoader is read in the order of its data set, so that scores line up
    with it. Data may be read more than once; an iterator or a generator, which cannot, is an error.

    Some detectors are fitted on `fit_data`, some on `validation_data`. A detector that trains a
    model of its own (Mahalanobis) needs both, with labels, and `normalization`: it is tuned on
    attacked validation images, or, without `normalization`, on `ood_validation_data`. Detectors
    whose data are missing are skipped (see `result.skipped`). Untuned detectors use their defaults.

    The model is any callable that returns logits: a module, also of TorchScript, torch.export or
    torch.compile, a quantized module, an ensemble, a plain function. A function is called as it is:
    put the model in it into evaluation mode. Many detectors read the features, the input of the
    last layer. It is found if it is a linear layer, a 1x1 convolution, or a module that turns
    vectors into logits; otherwise name it, or give a function that computes the features, which
    also serves models whose layers are hidden. Detectors that use the weights of the last layer run
    if the logits are W f + b, and are skipped otherwise.

    To rank several models on one leaderboard, give a mapping from names to models. Their methods
    are called "NAME+DETECTOR", and the data are read once per model. The arguments of a model
    (`taps`, `head`, `features`, `output`, `inputs`, `normalization`) are then the same for all
    models, or mappings, too.

    Args:
        model: maps images [B, channels, H, W], or other inputs [B, ...], to logits [B, C]; or a
            mapping from names to models.
        detectors: names of `oodbench list detectors`, or instances; or a mapping from your
            labels to either, to compare settings of one detector; "all" for every detector.
            Instances are copied; the fitted copies are in `EvaluationResult.detectors`.
        id_data: in-distribution images to test on.
        ood_data: name -> out-of-distribution images.
        fit_data: images that the model was trained on, with labels, best without augmentation.
        validation_data: labeled in-distribution images that it was not trained on.
        ood_validation_data: out-of-distribution images to tune on, which should not be of the
            sources of `ood_data`. They take the place of the attacked images.
        taps: names of the feature layers, the modules that detectors with a feature ensemble read;
            of a tuple or a mapping, the first tensor is read. "auto": the ends of stages or
            blocks; a note says which and why
            (`oodbench.models.structure.stages`).
        head: name of the last layer, if it is not found. Its input, averaged over places, is the
            features.
        features: name of the module whose output, averaged over places, is the features, if they
            are not the input of the last layer; or a function from images, as the model takes them,
            to features [B, D], which is called for each batch beside the model.
        output: where the logits are in the model's output: a key, an attribute, a position, or a
            function of the output. None: the tensor itself; of a mapping, an object or a tuple, the
            entry "logits", the only one of shape [B, C], or else the first of a tuple, with a note.
        inputs: how the model is given the images: the name of an argument, or a function of the
            images that returns the argument, such as lambda images: {"image": images}. A mapping
            whose keys are names of arguments is given as keyword arguments. None: by position, or
            by the name that the data give the images, if it is that of another argument.
        normalization: mean and standard deviation per channel, or one of each; images are then in
            [0, 1]. None: images come as the model takes them, and the steps of input perturbation
            (ODIN) are in their units.
        num_classes: C, compared with the model's; default: the model's.
        tune: labels of detectors to tune, or "all": each combination of the values of their search
            space is tried on attacked images of `validation_data`, as in benchmarks
            (`oodbench.engine.tuning_data`). With `ood_validation_data` the largest AUROC of
            `validation_data` against these images is chosen, as in OpenOOD. Instances are tuned
            only if they are named. Tables show the chosen values.
        plugins: folders of detectors besides the built-in ones, and classes, as in `oodbench.run`.
        device: "auto" (where the model is, if that is a GPU; else a GPU if there is one), "cpu",
            "cuda" or "cuda:i". On a GPU the model computes in full float32, not in TF32.
        seed: seeds tuning and the global random generators; their state is restored afterwards.
        costs: measure the costs of each detector, relative to the maximum-probability baseline of
            the same model.
        metrics: metrics on request beside those of every run (`oodbench.metrics.OPTIONAL`), such as
            ["aurc", "oscr"], or "all". Most need labels of `id_data`; "acceptance" needs
            `validation_data`.
        errors: "skip": a detector that raises is left out and named in the result, and so are the
            methods of a model that cannot be evaluated, if another model can; "raise": the first
            exception is raised.
        progress: "auto": a bar on a terminal, one line in a notebook; elsewhere a line on standard
            error when nothing was said for nearly ten seconds, with rate and time left. True: the
            same, with a line for each model that is done. False: nothing. Or a reporter
            (`oodbench.progress.Reporter`).

    Returns:
        Scores, records and tables; a notebook shows the leaderboard.

    Raises:
        UserError: an argument, an image or a label is not valid, the model returns no logits for
            the images, or no detector can run.
        Exception: with errors="raise", the exception of a detector.
    """
    prepare_process()
    say = reporter_of(progress)
    models = named_models(model)
    several = isinstance(model, Mapping)
    catalog = Catalog(tuple(checked_plugins("plugins", plugins)))
    on_ood = ood_validation_data is not None
    asked, broken = requested_detectors(detectors, catalog, tune, on_ood=on_ood)
    check_seed(seed)
    argument_checks.truth("costs", costs)
    optional = optional_metrics(metrics)
    if num_classes is not None:
        argument_checks.whole_number("num_classes", num_classes, 1)
    if errors not in ("skip", "raise"):
        raise UserError(f"errors: expected 'skip' or 'raise', not {errors!r}.")
    places = {name: device_for(device, module) for name, module in models.items()}
    own = {
        "taps": ("auto", taps),
        "head": (None, head),
        "features": (None, features),
        "output": (None, output),
        "inputs": (None, inputs),
        "normalization": (None, normalization),
    }
    given = []
    for name, module in models.items():
        options = options_of(own, name, models, several)
        scaling = normalization_of(options.pop("normalization"))
        given.append(GivenModel(name, module, places[name], scaling, options))
    tried: list[Tried] = []
    lost: list[Lost] = []
    with say.work(len(given)), ExitStack() as stack:
        say.stage("reading the first images")
        stack.enter_context(reproducible(seed, given[0].device))
        data = data_sets(
            id_data,
            ood_data,
            fit_data,
            validation_data,
            ood_validation_data,
            in_unit_range=given[0].scaling is not None,
        )
        data = replace(data, sets_thresholds=bool(accepting(optional)))
        stack.callback(data.close)
        for source in data.all:
            source.first()
        stop_early = errors == "raise"
        trials = Trials(asked, catalog, data, num_classes, several, seed, costs, stop_early, say)
        for each in given:
            shown = trials.shown_name(each)
            say.stage(shown)
            try:
                with nullcontext() if each is given[0] else reproducible(seed, each.device):
                    done = trials.tried(each)
            except UserError as error:
                if not several:
                    raise
                traceback.clear_frames(error.__traceback__)
                error.say_first(f"Model {each.name}")
                if stop_early:
                    raise
                lost.append(Lost(each.name, trials.methods(each), error))
                say.done(error.message)
                continue
            tried.append(done)
            if stop_early and done.errors:
                raise next(iter(done.errors.values()))
            say.done(f"{shown}: {counted(len(asked), 'detector')}")
    if not tried:
        raise lost[0].error
    with say.work(1):
        say.stage("confidence intervals")
        asked_for = not (isinstance(detectors, str) and detectors == "all")
        return result_of(trials, tried, lost, broken, asked_for=asked_for, optional=optional)
