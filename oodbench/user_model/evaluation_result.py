"""The result of `oodbench.evaluate`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from oodbench import argument_checks
from oodbench.deploy.fitted_detector import FittedDetector
from oodbench.detector import Detector
from oodbench.engine.passes.image_sources import ID
from oodbench.engine.reasons import reason_of
from oodbench.errors import UserError, did_you_mean, kind_of
from oodbench.report import Leaderboard
from oodbench.report.writers.run_files import write_reports
from oodbench.specs.names import method_obstacle
from oodbench.storage.locks import held, is_run
from oodbench.storage.method_lines import MethodLines, record_digests, record_files
from oodbench.storage.predictions import Predictions, as_arrays, predictions_name
from oodbench.storage.record_lines import to_lines
from oodbench.storage.records import CostRecord, DifferenceRecord, QualityRecord
from oodbench.storage.run_description import RunDescription
from oodbench.storage.run_directory import (
    DIFFERENCES,
    RunDirectory,
    arrays_content,
    scores_content,
    scores_name,
)
from oodbench.user_data.chosen_images import chosen_images

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from oodbench.report.figures.confusable_images import Images
    from oodbench.report.tables.document import Document


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """Result of the analysis of a model.

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
    """Result of `oodbench.evaluate`; it prints as a table, and a notebook shows it as one.

    Attributes:
        scores: detector -> "id" and the names of the OOD sets -> one score per image, float64, in
            the order of the data; higher is more in-distribution.
        validation_scores: detector -> "id" -> one score per image of `validation_data`, if the
            metrics on request set thresholds on them; else empty.
        records: every metric of every detector on every OOD set with its 95% interval, as in the
            records of a run; then the classifier's accuracy, if `id_data` has labels.
        costs: one for each detector if they were measured.
        differences: how far the best detector is ahead of each other one, as in a run.
        skipped: detector -> why it could not run.
        failed: detector -> reason of its failure.
        errors: detector that failed -> the exception.
        fitted: detector -> it, fitted and tuned, with its model: it scores other images, sets a
            threshold and is saved.
        models: name -> result of the analysis; a single model has the name of its class.
        predictions: name of a model -> whether it classifies each ID image correctly, and its
            largest softmax probability; empty without labels.
        notes: remarks for readers of the tables.
        warnings: signs of a mistake in data or scores, such as labels that disagree with the model.
        description: description of the evaluation, which `save` writes.
    """

    scores: Mapping[str, Mapping[str, NDArray[np.float64]]]
    validation_scores: Mapping[str, Mapping[str, NDArray[np.float64]]]
    records: list[QualityRecord]
    costs: list[CostRecord]
    differences: list[DifferenceRecord]
    skipped: Mapping[str, str]
    errors: Mapping[str, Exception]
    fitted: Mapping[str, FittedDetector]
    models: Mapping[str, EvaluatedModel]
    predictions: Mapping[str, Predictions]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    description: RunDescription

    @property
    def detectors(self) -> dict[str, Detector]:
        """Detector -> the fitted and tuned instance that scored."""
        return {label: each.detector for label, each in self.fitted.items()}

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
        """Detector -> reason of its failure."""
        return {label: reason_of(error) for label, error in self.errors.items()}

    def leaderboard(self) -> Leaderboard:
        """The records, ranked, for every format there is (`to_csv`, `to_json`, `to_latex` ...)."""
        sets = [record.ood_dataset for record in self.records if record.ood_dataset is not None]
        order = tuple(dict.fromkeys(sets))
        return Leaderboard.from_records(
            self.records, self.costs, self.warnings, self.differences, order=order
        )

    def figures(self, images: Mapping[str, Any] | None = None) -> dict[str, Figure]:
        """Figures of the scores, by name.

        `roc`: ROC curves. `scores`: histograms with the threshold that accepts 95 % of the ID
        images. `quality-cost`: mean AUROC against time, if costs were measured.
        `confusable-images`: the OOD images that the best detector accepts most, and the ID images
        that it rejects most, if `images` are given.

        Args:
            images: data set ("id", or the name of an OOD set) -> the data that were evaluated, to
                show the confusable images. They are read up to the last image that is shown.

        Raises:
            UserError: if `images` names no data set of the evaluation, or cannot be read.
        """
        from oodbench.report.figures import gallery

        return gallery.of_scores(
            self.leaderboard(),
            gallery.StoredScores(
                scores=self.scores,
                heading=f"Detectors on {self.model}" if len(self.models) == 1 else "Several models",
                validation={
                    name: found["id"] for name, found in self.validation_scores.items() if found
                },
                images=None if images is None else self._reader(images),
            ),
        )

    def _reader(self, given: Mapping[str, Any]) -> Images:
        """A function that gives chosen images of the data."""
        known = next(iter(self.scores.values()), {})
        if not isinstance(given, Mapping):
            raise UserError(
                f"images: expected a mapping from names to data, not {kind_of(given)}.",
                'Give {"id": id_data, **ood_data}.',
            )
        for name in given:
            if name not in known:
                raise UserError(
                    f"images: there is no data set {name!r}.", did_you_mean(str(name), known)
                )

        def images(name: str, indices: Sequence[int]) -> NDArray[Any] | None:
            return None if name not in given else chosen_images(given[name], name, indices)

        return images

    def save(self, folder: str | Path) -> Path:
        """Write a run directory, as `oodbench run` does.

        `oodbench report`, `site`, `compare`, `leaderboard` and `verify`, and `oodbench.open_run`
        read it. It has scores and predictions, and digests of models and images; it has neither
        models nor images.

        Args:
            folder: a new or an empty folder.

        Returns:
            The folder.

        Raises:
            UserError: if the folder has a run or other files, cannot be written, or a method or a
                model has a name that no folder can have.
        """
        place = argument_checks.path("folder", folder)
        for name in dict.fromkeys([*self.scores, *self.models]):
            if why := method_obstacle(name):
                raise UserError(
                    f"{name!r} is no name of a folder of scores: {why}.",
                    "Give another label in detectors, or another name in model.",
                )
        with held(place):
            if is_run(place):
                raise UserError(f"{place} holds a run already.", "Choose another folder.")
            directory = RunDirectory(place)
            directory.create()
            directory.write(*self._files())
            board = Leaderboard.from_records(
                self.records, self.costs, self.description.warning_texts, self.differences
            )
            write_reports(board, directory)
        return place

    def _files(self) -> tuple[RunDescription, dict[str, bytes | str]]:
        """`run.json`, and the files with results."""
        (seed,) = self.description.seeds
        costs = {each.method: each for each in self.costs}
        by_method: dict[str, list[QualityRecord]] = {}
        for record in self.records:
            by_method.setdefault(record.method, []).append(record)
        lines = {
            (method, seed): MethodLines.of(found, costs.get(method))
            for method, found in by_method.items()
        }
        return self.description.model_copy(update={"records": record_digests(lines)}), {
            **{
                scores_name((method, seed)): scores_content(
                    found, self.validation_scores.get(method, {})
                )
                for method, found in self.scores.items()
            },
            **{
                predictions_name(model, seed): arrays_content(as_arrays({ID: found}))
                for model, found in self.predictions.items()
            },
            DIFFERENCES: to_lines(self.differences),
            **record_files(lines),
        }

    def to_markdown(self) -> str:
        """GitHub-flavored Markdown, with every metric."""
        from oodbench.report.writers import markdown

        return markdown.render_document(self._document(best="bold", whole=True))

    def to_html(self, images: Mapping[str, Any] | None = None) -> str:
        """One web page with every metric and the figures; it needs no other file.

        Args:
            images: as of `figures`.
        """
        from oodbench.report.figures import gallery
        from oodbench.report.writers import html

        document = self._document(best="bold", whole=True)
        return html.render_document(document, gallery.for_page(self.figures(images)))

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
