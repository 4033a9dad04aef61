"""The description of a run: the contents of `run.json`, read and written here alone.

Every field has a default, so the files of earlier versions stay readable.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from oodbench.errors import listed
from oodbench.specs import WORDS, EvaluationSpec, PublishedReference, PublishedSpec
from oodbench.storage.description import Description, DescriptionPart, problem_of

NAME = "run.json"

RunStatus = Literal["running", "complete", "incomplete"]
"""Not ended; ended with everything that was asked for; ended without some of it."""


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("not a file of the run")
    return name


FileName = Annotated[str, AfterValidator(_inside)]
"""The name of a file relative to the run directory."""


class DescribedMethod(DescriptionPart):
    """A method of the run.

    Attributes:
        name: its name on the leaderboard.
        model: name of its model in the benchmark.
        detector: name of its detector.
        tuned_on: its tuning protocol, or "none".
        untuned: parameters that have a search space and keep their defaults.
        fit_split: split of the ID set that its `fit` is given; "" for the training images.
        tuning_ood: OOD set whose validation images it is tuned on; "" under other protocols.
        same_source: OOD sets of the same source as `tuning_ood`.
        reference: where the detector was published, as in "ICLR 2018".
        url: where to read it.
    """

    name: str
    model: str = ""
    detector: str = ""
    tuned_on: str = "none"
    untuned: list[str] = []
    fit_split: str = ""
    tuning_ood: str = ""
    same_source: list[str] = []
    reference: str = ""
    url: str = ""


class DescribedPublication(DescriptionPart):
    """Published weights of a model.

    Attributes:
        source: name of the file, or of the weights of a library.
        sha256: of the file; "" if a library loaded it.
        taken: what was taken of the file, where it holds more than the weights.
        mean, std: per channel, that images in [0, 1] are normalized with.
        size: height and width that the weights were made for; None if any.
        resize: how the publisher resizes images.
    """

    source: str = ""
    sha256: str = ""
    taken: list[str] = []
    mean: list[float] = []
    std: list[float] = []
    size: list[int] | None = None
    resize: str = ""


class DescribedFile(DescriptionPart):
    """A file without a published checksum.

    Attributes:
        of: the data set or model that it belongs to.
        name: name of the file.
        sha256: as recorded when it was first fetched; "" if it was found unpacked.
        source: address, or the place where the user put it.
        fetched_at: when it was first fetched, ISO 8601 in UTC.
        reason: why no checksum is known.
    """

    of: str = ""
    name: str = ""
    sha256: str = ""
    source: str = ""
    fetched_at: str = ""
    reason: str = ""


class Environment(DescriptionPart):
    """The machine and the process that the run last ran on.

    Attributes:
        platform: operating system.
        processor: its architecture.
        threads: number of threads of torch, of each worker.
        workers: how many models and seeds were computed at once.
        device: name of the GPU, or "cpu".
        bfloat16: whether the device computes in bfloat16.
        process: settings of the process that change what is measured, with their values.
    """

    platform: str = ""
    processor: str = ""
    threads: int | None = None
    workers: int = 1
    device: str = ""
    bfloat16: bool | None = None
    process: dict[str, Any] = {}


class TrainedOn(DescriptionPart):
    """The machine that a checkpoint was trained on.

    On a CPU the last digits of the weights depend on the number of threads, and on every device on
    the number of processes. Records made with the same weights depend on neither.

    Attributes:
        device: name of the GPU, or "cpu".
        threads: number of threads of torch at the end of the training.
        processes: number of processes that trained together.
    """

    device: str = ""
    threads: int | None = None
    processes: int = 1


class Checksums(DescriptionPart):
    """SHA-256 of everything that the results depend on.

    Attributes:
        data: data set -> split -> checksum of its images and labels; of large splits that are
            tested on, of the list of files and labels, of other large splits, of the manifest.
        fitted_on: likewise, of the list of files of large splits that detectors are fitted on.
        pixels: likewise, of images and labels of the large splits that the run read.
        checkpoints: "model/seed<k>" -> checksum of its weights.
        detectors: name -> checksum of its source; other text if it has no file.
    """

    data: dict[str, dict[str, str]] = {}
    fitted_on: dict[str, dict[str, str]] = {}
    pixels: dict[str, dict[str, str]] = {}
    checkpoints: dict[str, str] = {}
    detectors: dict[str, str] = {}

    @property
    def images(self) -> dict[str, dict[str, str]]:
        """Data set -> split -> checksum; of pixels where they are known."""
        return {name: {**splits, **self.pixels.get(name, {})} for name, splits in self.data.items()}

    @model_serializer(mode="wrap")
    def _without_large_splits(self, serialized: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what only runs with large splits have."""
        content: dict[str, Any] = serialized(self)
        return {
            key: value
            for key, value in content.items()
            if value or key not in ("fitted_on", "pixels")
        }


class RecordDigest(DescriptionPart):
    """SHA-256 of the records of one method and seed, quality and cost."""

    method: str
    seed: int
    sha256: str


class DescribedBenchmark(DescriptionPart):
    """The parts of a benchmark that are read again.

    Attributes:
        ood: group -> OOD sets; "" for sets without a group.
        unlabeled: whether the ID images have no labels, so that there is no accuracy; only in
            evaluations of user models.
    """

    name: str = ""
    version: int = 0
    id: str = ""
    csid: list[str] = []
    ood: dict[str, list[str]] = {}
    models: dict[str, dict[str, Any]] = {}
    methods: dict[str, dict[str, Any]] = {}
    evaluation: EvaluationSpec = EvaluationSpec()
    metrics: list[str] = []
    published: PublishedReference | None = None
    unlabeled: bool = False


def _readable(benchmark: dict[str, Any]) -> dict[str, Any]:
    try:
        DescribedBenchmark.model_validate(benchmark)
    except ValidationError as error:
        raise ValueError(problem_of(error)) from error
    return benchmark


class RunDescription(Description):
    """Contents of `run.json`.

    Attributes:
        schema_version: version of this form.
        run_id: digest of benchmark, data and package version (`storage.same_work`).
        status: how far the run is.
        written: when the file was written, ISO 8601 in UTC.
        command: the command line.
        benchmark: the benchmark's specification as resolved.
        published: the published averages that the results are compared with.
        seeds: all seeds of the run.
        methods: all methods of the run, also those of an earlier command that it resumes.
        skipped: method -> why it cannot run.
        published_weights: "model/seed<k>" -> its published weights, in place of a training.
        unverified_files: files of data sets and checkpoints without a published checksum.
        data_notes: data set -> note of its manifest, or how its images differ from those of the
            published benchmark.
        data_root: folder of the data sets that do not come built in; None for the default.
        plugins: folders of plug-ins, and "class ..." for classes that are in no folder.
        versions: package -> version.
        environment: machine and process.
        checksums: checksums of data, checkpoints and detectors.
        trained_on: "model/seed<k>" -> the machine that its checkpoint was trained on; checkpoints
            of versions that did not record it are left out.
        records: digests of the records of each method and seed.
        duplicates_of_id_images: csID or OOD set -> number of its test images that are ID images.
        notes: "method/seed<k>" -> notes.
        warnings: "data", "model" or "model, seed k" -> signs of a mistake in the data.
        warned_by: model -> seed that the signs under its name are of: the highest with signs.
        files: file with results -> SHA-256.
        writing: likewise, of the files that are about to be written; empty when all are written.
    """

    schema_version: Literal[1] = 1
    run_id: str = ""
    status: RunStatus = "running"
    written: str = ""
    command: str = ""
    benchmark: Annotated[dict[str, Any], AfterValidator(_readable)] = {}
    published: PublishedSpec | None = None
    seeds: list[int] = []
    methods: list[DescribedMethod] = []
    skipped: dict[str, str] = {}
    left_out: list[str] = []
    published_weights: dict[str, DescribedPublication] = {}
    unverified_files: list[DescribedFile] = []
    data_notes: dict[str, str] = {}
    data_root: str | None = None
    plugins: list[str] = []
    versions: dict[str, str] = {}
    environment: Environment = Environment()
    checksums: Checksums = Checksums()
    trained_on: dict[str, TrainedOn] = {}
    records: list[RecordDigest] = []
    duplicates_of_id_images: dict[str, int] = {}
    notes: dict[str, list[str]] = {}
    warnings: dict[str, list[str]] = {}
    warned_by: dict[str, int] = {}
    files: dict[FileName, str] = {}
    writing: dict[FileName, str] = {}

    @cached_property
    def of_benchmark(self) -> DescribedBenchmark:
        """The parts of the benchmark that are read again."""
        return DescribedBenchmark.model_validate(self.benchmark)

    @property
    def benchmark_identity(self) -> dict[str, Any]:
        """What results depend on, as `BenchmarkSpec.identity`."""
        return {key: value for key, value in self.benchmark.items() if key not in WORDS}

    @property
    def warning_texts(self) -> tuple[str, ...]:
        """`warnings`, one text each, with model and seed in front; and what is unverified."""
        found = [
            text if where == "data" else f"{where}: {text}"
            for where, texts in self.warnings.items()
            for text in texts
        ]
        found += [f"data set '{name}': {note}" for name, note in self.data_notes.items()]
        names = dict.fromkeys(file.name for file in self.unverified_files)
        if names:
            recorded = any(file.sha256 for file in self.unverified_files)
            found.append(
                "not verified against a published checksum, as none is known: "
                f"{listed(names, most=20)}"
                f"{'; run.json has the checksums of the first fetch' if recorded else ''}"
            )
        return tuple(found)

    def _omitted(self) -> set[str]:
        absent = {
            "writing": self.writing,
            "published": self.published,
            "data_notes": self.data_notes,
            "left_out": self.left_out,
            "warned_by": self.warned_by,
        }
        return {name for name, value in absent.items() if not value}
