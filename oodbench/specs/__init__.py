"""Specs of data sets, models, benchmarks and suites: frozen values, validated on load."""

from __future__ import annotations

from oodbench.specs.benchmark_spec import (
    BenchmarkSpec,
    EvaluationSpec,
    ExcludeSpec,
    ImagesSpec,
    MatrixSpec,
    MethodSpec,
)
from oodbench.specs.checkpoint_spec import CheckpointSpec
from oodbench.specs.dataset_spec import (
    ClassFoldersSpec,
    DatasetSpec,
    FileSpec,
    ListSpec,
    PlaceSpec,
    ResizeSpec,
)
from oodbench.specs.evaluation_request import EvaluationRequest, RequestedModel, TransformSpec
from oodbench.specs.limit_spec import LimitSpec
from oodbench.specs.model_spec import (
    OWN,
    AugmentSpec,
    AuxiliarySpec,
    ModelSpec,
    NormalizationSpec,
    TrainingSpec,
)
from oodbench.specs.published_spec import (
    AverageEntry,
    AveragesSpec,
    MeasureSpec,
    PublishedModel,
    PublishedReference,
    PublishedRow,
    PublishedSpec,
    PublishedTable,
    SourceSpec,
)
from oodbench.specs.spec_base import WORDS, Spec, SplitName, number_obstacle
from oodbench.specs.suite_spec import TRAINING_MEASURES, ComparisonSpec, MemberSpec, SuiteSpec
from oodbench.specs.tuning_spec import FitSplit, TuningProtocol, TuningSpec

__all__ = [
    "OWN",
    "TRAINING_MEASURES",
    "WORDS",
    "AugmentSpec",
    "AuxiliarySpec",
    "AverageEntry",
    "AveragesSpec",
    "BenchmarkSpec",
    "CheckpointSpec",
    "ClassFoldersSpec",
    "ComparisonSpec",
    "DatasetSpec",
    "EvaluationRequest",
    "EvaluationSpec",
    "ExcludeSpec",
    "FileSpec",
    "FitSplit",
    "ImagesSpec",
    "LimitSpec",
    "ListSpec",
    "MatrixSpec",
    "MeasureSpec",
    "MemberSpec",
    "MethodSpec",
    "ModelSpec",
    "NormalizationSpec",
    "PlaceSpec",
    "PublishedModel",
    "PublishedReference",
    "PublishedRow",
    "PublishedSpec",
    "PublishedTable",
    "RequestedModel",
    "ResizeSpec",
    "SourceSpec",
    "Spec",
    "SplitName",
    "SuiteSpec",
    "TrainingSpec",
    "TransformSpec",
    "TuningProtocol",
    "TuningSpec",
    "number_obstacle",
]
