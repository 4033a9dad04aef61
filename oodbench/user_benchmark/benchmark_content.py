"""A user's evaluation as content: YAML files of a benchmark and the manifests of its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path
from typing import Any

import yaml

from oodbench.data.store.disk import file_digest
from oodbench.errors import UserError, counted, did_you_mean, see_list
from oodbench.files import expanded, write_atomic
from oodbench.models import network_info
from oodbench.models.registry import is_callable_name, library_of, source_file
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.content_folders import FOLDERS
from oodbench.specs import OWN, EvaluationRequest, RequestedModel
from oodbench.specs.evaluation_request import split_group
from oodbench.user_benchmark.defaults import default_benchmark
from oodbench.user_benchmark.folder_scan import FoundImages, check_disjoint, common_classes, scan
from oodbench.user_benchmark.image_preparation import Preparation, preparation

FOLDERS_AS_THEY_ARE = "folders"
"""Value of `classes`: the order of the folders is right."""

_SPLIT_NAMES = frozenset(
    ["data", "id", "images", "test", "testing", "train", "training", "val", "valid", "validation"]
)
"""Names of folders that say nothing of the data set: that of the folder above does."""

_SHARE = 5
"""One of so many images of `fit` is a validation image, if none are given."""
_MOST = 5000
"""Validation images that are taken of `fit` at most."""


@dataclass(frozen=True, slots=True)
class EvaluationContent:
    """A user's evaluation as content.

    Attributes:
        benchmark: the content of `benchmarks/NAME.yaml`.
        manifests: name of a manifest -> its content.
        notes: what the user should know of how it was made.
    """

    benchmark: dict[str, Any]
    manifests: Mapping[str, dict[str, Any]]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return str(self.benchmark["name"])

    def write(self, folder: Path) -> None:
        """Write the files into a folder of content: the benchmark last, when all else is there."""
        files = {("dataset", name): manifest for name, manifest in self.manifests.items()}
        files |= {("benchmark", self.name): self.benchmark}
        for (kind, name), content in files.items():
            place, suffix = FOLDERS[kind]  # type: ignore[index]
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
            write_atomic(folder / place / f"{name}{suffix}", text)


def evaluation_content(
    request: EvaluationRequest, catalog: Catalog, folder: Path
) -> EvaluationContent:
    """The content of an evaluation.

    Args:
        request: what the user asks for.
        catalog: gives the detectors.
        folder: the folder that paths of the request are relative to.

    Raises:
        UserError: a folder, a file, a network or a method does not exist or cannot be used.
    """
    named, path = _named_path(request.id)
    ood = {f"--ood {name}": (split_group(name)[1], given) for name, given in request.ood.items()}
    csid = {f"--csid {name}": (name, given) for name, given in request.csid.items()}
    splits = {"test": scan("--id", path, folder, labeled=True)}
    for split, option, given in (
        ("train", "--fit", request.fit),
        ("validation", "--validation", request.validation),
    ):
        if given is not None:
            splits[split] = scan(option, given, folder, labeled=True)
    shifted = {name: scan(opt, each, folder, labeled=True) for opt, (name, each) in csid.items()}
    others = {name: scan(opt, each, folder, labeled=False) for opt, (name, each) in ood.items()}
    everything = [*splits.values(), *shifted.values(), *others.values()]
    check_disjoint(everything)
    order = _given_order(request, folder)
    labeled = [*splits.values(), *shifted.values()]
    classes = common_classes(labeled, order)
    most = max(each.num_classes for each in labeled)
    models = {name: _model(name, model, folder) for name, model in request.model.items()}
    prepared = preparation(request, folder, everything)
    id_name = named or _name_of(splits["test"].path, {*others, *shifted})
    making = _Making(request, prepared, classes, len(classes) or most)
    manifests = {id_name: making.manifest(id_name, splits)}
    manifests |= {name: making.manifest(name, {"test": each}) for name, each in shifted.items()}
    manifests |= {name: making.unlabeled(name, each) for name, each in others.items()}
    return EvaluationContent(
        making.benchmark(id_name, list(others), models, catalog),
        {each["name"]: each for each in manifests.values()},
        (f"Images are prepared {prepared.note}.", *making.notes),
    )


def _named_path(given: str) -> tuple[str | None, str]:
    """Name and path of NAME=PATH, or of a path alone."""
    name, equals, path = given.partition("=")
    return (name, path) if equals and not set(name) & set("/\\:") else (None, given)


def _name_of(path: Path, taken: set[str]) -> str:
    """A name for the ID set, after its folder."""
    parts = [path.stem, *(parent.name for parent in path.parents if parent.name)]
    name = next((part for part in parts if part.casefold() not in _SPLIT_NAMES), "images")
    return name if name not in {*taken, "id"} else f"{name}-id"


def _given_order(request: EvaluationRequest, folder: Path) -> tuple[str, ...] | None:
    """The names in the file that the user gives; None if it gives none."""
    if request.classes is None or request.classes == FOLDERS_AS_THEY_ARE:
        return None
    path = folder / expanded(request.classes)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(
            f"--classes: cannot read {request.classes}: {reason}.",
            "Give a text file with the name of a class folder a line, in the order of the model's "
            f"outputs, or {FOLDERS_AS_THEY_ARE}.",
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise UserError(
            f"--classes: {request.classes} names no class.",
            "Write the name of a class folder a line, in the order of the model's outputs.",
        )
    return names


def _model(name: str, model: RequestedModel, folder: Path) -> dict[str, Any]:
    """The spec of a model, without its normalization.

    Raises:
        UserError: if its checkpoint or its weights are missing.
    """
    spec: dict[str, Any] = {"network": model.network, "head": model.head}
    for key in ("network_options", "taps", "loss_options", "prompts"):
        if value := getattr(model, key):
            spec[key] = dict(value) if isinstance(value, Mapping) else list(value)
    library, _, own = model.network.partition(":")
    if (file := source_file(model.network)) is not None:
        path = (folder / expanded(file)).resolve()
        spec["network"] = f"{path}{model.network[len(file) :]}"
    elif library_of(model.network) in ("hf", "hf_clip") and (folder / own).is_dir():
        spec["network"] = f"{library}:{(folder / own).resolve()}"
    if model.checkpoint is not None:
        path = (folder / expanded(model.checkpoint)).resolve()
        if not path.is_file():
            raise UserError(
                f"--checkpoint: there is no file {model.checkpoint} (model '{name}').",
                "Give the file that holds the model's state dict.",
            )
        if model.weights is not None:
            raise UserError(f"Model '{name}' has a checkpoint and weights.", "Give one of them.")
        spec["checkpoint"] = {"path": str(path), "sha256": file_digest(path)}
    elif library_of(model.network) == "torchvision":
        from oodbench.models.published_weights.library_networks import weights_name

        spec["weights"] = weights_name(model.network, model.weights)
    elif library_of(model.network) is not None:
        spec["weights"] = model.weights or "pretrained"
    elif is_callable_name(model.network):
        spec["weights"] = OWN
    else:
        network_info(model.network)  # an unknown name has nearer names
        raise UserError(
            f"Model '{name}' ({model.network}) needs --checkpoint FILE: the network has no weights "
            "of its own."
        )
    return spec


class _Making:
    """Makes the specs, and collects notes."""

    def __init__(
        self,
        request: EvaluationRequest,
        prepared: Preparation,
        classes: tuple[str, ...],
        num_classes: int,
    ) -> None:
        self.request, self.prepared = request, prepared
        self.classes, self.num_classes = classes, num_classes
        self.notes: list[str] = []

    def unlabeled(self, name: str, found: FoundImages) -> dict[str, Any]:
        """The manifest of an OOD set."""
        return self._manifest(name, {"test": found}) | (
            {"options": dict(found.options)} if found.options else {}
        )

    def manifest(self, name: str, splits: Mapping[str, FoundImages]) -> dict[str, Any]:
        """The manifest of the ID set or a csID set."""
        spec = self._manifest(name, splits) | {"num_classes": self.num_classes}
        if self.classes:
            spec["classes"] = [name.replace("_", " ") for name in self.classes]
            if any(each.classes != self.classes for each in splits.values()):
                spec["options"] = {"order": list(self.classes)}
        if "train" in splits and "validation" not in splits:
            total = spec["splits"]["train"]
            taken = min(total // _SHARE, _MOST)
            if taken:
                spec["splits"] |= {"train": total - taken, "validation": taken}
                spec["split_from"] = {"validation": "train"}
                spec["note"] = (
                    f"validation images are {taken:,} of the {counted(total, 'image')} of --fit, "
                    "on which detectors are not fitted. If the model was trained on them, a "
                    "threshold set on them accepts fewer new images than it says."
                )
                self.notes.append(f"Of '{name}', {spec['note']} Give --validation.")
        return spec

    def _manifest(self, name: str, splits: Mapping[str, FoundImages]) -> dict[str, Any]:
        paths = [each.path for each in splits.values()]
        folder = Path(commonpath([path.parent for path in paths]))
        shape, resize = self.prepared.shape, self.prepared.resize
        option = " and ".join(each.option for each in splits.values())
        corrupt = self.request.corrupt_images
        return {
            "schema_version": 1,
            "name": f"{self.request.name}-{name}",
            "title": name,
            "summary": f"Images given by {option} of oodbench evaluate",
            "kind": "list" if any(each.kind == "list" for each in splits.values()) else "folder",
            "folder": str(folder),
            "paths": {
                split: each.path.relative_to(folder).as_posix() for split, each in splits.items()
            },
            **({"resize": resize.model_dump(mode="json")} if resize is not None else {}),
            **({"corrupt_images": corrupt} if corrupt != "stop" else {}),
            "shape": list(shape),
            "splits": {split: len(each.images) for split, each in splits.items()},
            "license": "not known to oodbench",
            "citation": "not known to oodbench",
        }

    def benchmark(
        self, id_name: str, ood: list[str], models: dict[str, dict[str, Any]], catalog: Catalog
    ) -> dict[str, Any]:
        """The benchmark."""
        request = self.request
        spec = default_benchmark()
        groups: dict[str, list[str]] = {}
        for given in request.ood:
            group, name = split_group(given)
            groups.setdefault(group, []).append(name)
        for name, normalization in self.prepared.normalization.items():
            if normalization is not None:
                models[name]["normalization"] = normalization.model_dump(mode="json")
        names = [id_name, *request.csid, *ood]
        default = spec.pop("default_detectors")
        tuning = spec.pop("tuning")
        validated = request.validation is not None or request.fit is not None
        if request.tune != "none":
            if not validated:
                raise UserError("--tune needs validation images.", "Give --validation, or --fit.")
            tune = request.tune
            tuning["tune"] = tune if isinstance(tune, str) else list(tune)
        elif not validated:
            tuning = {"protocol": "none"}
        title = request.title or f"{id_name}: evaluation of {', '.join(request.model)}"
        return {
            **spec,
            "name": request.name,
            "title": title,
            "summary": f"{id_name} against {', '.join(ood)}; made by oodbench evaluate",
            "id": id_name,
            "ood": groups,
            **({"csid": list(request.csid)} if request.csid else {}),
            "datasets": {name: f"{request.name}-{name}" for name in names},
            "models": models,
            **_methods(request, default, catalog),
            **({"parameters": dict(request.parameters)} if request.parameters else {}),
            "tuning": tuning,
            "evaluation": {"batch_size": request.batch_size},
            **({"metrics": list(request.metrics)} if request.metrics else {}),
        }


def _methods(
    request: EvaluationRequest, default: Sequence[str], catalog: Catalog
) -> dict[str, Any]:
    """The keys of a benchmark that say which methods it has.

    The reference of costs, the first of the default detectors, is on every board.
    """
    labels = {name: status.info.label for name, status in catalog.detectors.items() if status.info}
    reference, names = default[0], dict.fromkeys(request.methods)
    methods = {
        f"{model}+{labels[reference]}": {"model": model, "detector": reference}
        for model in request.model
    }
    found: dict[str, Any] = {"reference": next(iter(methods))}
    if request.methods == "all":
        return {**found, "methods": methods, "matrix": {"detectors": "all"}}
    if not request.methods:
        matrix = {"detectors": "all"}
        return {**found, "methods": methods, "matrix": matrix, "default_detectors": list(default)}
    everywhere = []
    for given in names:
        name = catalog.aliases.get(given, given)
        model, _, detector = given.partition("+")
        detector = catalog.aliases.get(detector, detector)
        by_label = {label: each for each, label in labels.items()}
        if name in catalog.detectors:
            everywhere.append(name)
        elif model in request.model and (of := by_label.get(detector, detector)) in labels:
            methods[f"{model}+{labels[of]}"] = {"model": model, "detector": of}
        else:
            known = [*catalog.detectors, *catalog.aliases, "all"]
            raise UserError(
                f"--methods: '{given}' is neither a detector nor a method MODEL+DETECTOR.",
                f"{did_you_mean(given, known, see_list('detectors'))} "
                "A detector of your own needs --plugins FOLDER.",
            )
    if len(request.model) == 1:  # named for the one model: asked for
        (model,) = request.model
        for name in everywhere:
            label = labels.get(name, name)
            methods[f"{model}+{label}"] = {"model": model, "detector": name}
        return {**found, "methods": methods}
    others = [name for name in everywhere if name != reference]
    return {**found, "methods": methods, **({"matrix": {"detectors": others}} if others else {})}
