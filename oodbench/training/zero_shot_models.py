"""Vision-language models of a benchmark: encoders of a library with the ID set's class names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from oodbench.data.store.download import offline
from oodbench.errors import UserError, counted
from oodbench.files import expanded
from oodbench.models.published_weights.library_access import installed
from oodbench.models.published_weights.preprocessing import Preprocessing
from oodbench.models.vision_language.sources import load_encoders
from oodbench.models.vision_language.text_features import DEFAULT_PROMPTS
from oodbench.models.vision_language.zero_shot import VisionLanguageClassifier
from oodbench.specs import ModelSpec

_IMAGENET = "imagenet1k"
"""Value of `class_names` that stands for OpenAI's names of ImageNet-1k."""


def zero_shot_model(
    spec: ModelSpec,
    class_names: Sequence[str],
    dataset: str,
    num_classes: int,
    *,
    benchmark: Path | None,
    root: Path,
    device: torch.device | str,
) -> tuple[VisionLanguageClassifier, Preprocessing, tuple[str, ...]]:
    """A vision-language model with its weights, on the CPU.

    Args:
        spec: of a vision-language model.
        class_names: those of the ID set's manifest; empty if it names none.
        dataset: name of the ID set.
        num_classes: C.
        benchmark: file of the benchmark, which a file of names may be beside.
        root: the data root, where it may be as well.
        device: where text features are computed.

    Returns:
        The classifier, what its weights expect of images, and notes on the weights.

    Raises:
        UserError: the names of the classes are missing, or as many as there are no classes; a
            prompt has no place for them; or the model cannot be loaded.
    """
    names = _names(spec, class_names, dataset, benchmark, root)
    if len(names) != num_classes:
        source = "the manifest" if spec.class_names is None else spec.class_names
        raise UserError(
            f"class_names: {source} has {counted(len(names), 'name')}, the ID data set "
            f"'{dataset}' has {counted(num_classes, 'class')}.",
            "Give one name for each class, in the order of the labels.",
        )
    encoders = load_encoders(spec.network, offline=offline())
    encoders.texts.to(device)
    classifier = encoders.classifier(
        names, spec.prompts or DEFAULT_PROMPTS, scaled_logits=spec.scaled_logits
    )
    return classifier.cpu(), encoders.preprocessing, encoders.notes


def _names(
    spec: ModelSpec, declared: Sequence[str], dataset: str, benchmark: Path | None, root: Path
) -> Sequence[str]:
    if spec.class_names is None:
        if not declared:
            raise UserError(
                f"Network '{spec.network}' needs the names of the classes, and the manifest of "
                f"'{dataset}' has none.",
                "Write classes: [...] into the manifest, in the order of the labels, or "
                "class_names: FILE of the model, a text file with one name a line.",
            )
        return declared
    if spec.class_names == _IMAGENET:
        names: Sequence[str] = installed("open_clip", spec.network).IMAGENET_CLASSNAMES
        return names
    path = expanded(spec.class_names)
    places = [] if benchmark is None else [benchmark.parent / path]
    places += [root / path]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(
            f"class_names: there is no file '{spec.class_names}'; looked for: "
            f"{', '.join(map(str, dict.fromkeys(places)))}.",
            "Give a text file with the name of a class a line, in the order of the labels.",
        )
    try:
        lines = found.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"class_names: {found} cannot be read: {error}.") from error
    return [line.strip() for line in lines if line.strip()]
