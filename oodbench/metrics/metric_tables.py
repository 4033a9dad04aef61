"""The metrics by name: those that every run records, and those that are recorded on request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from oodbench.errors import did_you_mean


@dataclass(frozen=True)
class Metric:
    """How a metric is shown and compared.

    Attributes:
        title: the full name, for captions.
        short_title: the abbreviation, for column heads.
        higher_is_better: whether a detector with a larger value is the better one.
    """

    title: str
    short_title: str
    higher_is_better: bool


Input = Literal["ID scores", "OOD scores", "validation scores", "correctness", "confidence"]
"""Scores of a detector for test images and for ID validation images; whether the classifier is
right, and its largest softmax probability, for each ID image."""


@dataclass(frozen=True)
class OptionalMetric(Metric):
    """A metric that is recorded on request.

    Attributes:
        definition: what it is, in one line, for notes below tables.
        source: who defined it.
        needs: what it is computed from.
        largest: upper end of its range; the lower end is 0.
        level: false positive rate that it is taken at, as text; empty for other metrics.
        accept: share of ID images that its threshold is set to accept, as text; empty for metrics
            without a threshold of validation images.
    """

    definition: str
    source: str
    needs: tuple[Input, ...]
    largest: float = 1.0
    level: str = ""
    accept: str = ""

    @property
    def of(self) -> Literal["set", "method", "model"]:
        """Whether there is a value for each OOD set, for each method, or for each model."""
        if "OOD scores" in self.needs:
            return "set"
        return "method" if "ID scores" in self.needs else "model"


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "auroc": Metric("Area under the ROC curve", "AUROC", True),
        "tnr_at_95_tpr": Metric("True negative rate at 95% true positive rate", "TNR@95TPR", True),
        "dtacc": Metric("Detection accuracy", "DTACC", True),
        "aupr_in": Metric(
            "Area under the precision-recall curve, in-distribution positive", "AUPR-in", True
        ),
        "aupr_out": Metric(
            "Area under the precision-recall curve, out-of-distribution positive",
            "AUPR-out",
            True,
        ),
        "fpr95_ood_positive": Metric(
            "False positive rate at 95% true positive rate, out-of-distribution positive",
            "FPR95 (OOD positive)",
            False,
        ),
    }
)
"""The six metrics, by the names that records use, in the order in which they are shown."""

_ID: tuple[Input, ...] = ("ID scores", "correctness")
_ALL: tuple[Input, ...] = ("ID scores", "correctness", "OOD scores")

CCR_AT_FPR = "ccr_at_fpr"
"""Asks for the metrics of all of `LEVELS`."""

LEVELS = ("1e-4", "1e-3", "1e-2", "1e-1")
"""False positive rates of `ccr_at_fpr_<level>`."""

ACCEPTANCE = "acceptance"
"""Asks for the metrics of all of `ACCEPTED`, of the OOD sets and of the ID images."""

ACCEPTED = ("0.95", "0.99")
"""Shares of ID images to accept, of `acceptance_at_<share>` and `id_acceptance_at_<share>`."""


def _acceptance(accept: str) -> dict[str, OptionalMetric]:
    wanted = f"{100 * float(accept):g} %"
    threshold = f"a threshold that is set on ID validation images to accept {wanted} of ID images"
    source = "Papadopoulos et al., ECML 2002; Vovk, Gammerman & Shafer, 2005"
    return {
        f"{ACCEPTANCE}_at_{accept}": OptionalMetric(
            f"Accepted OOD images at a wanted ID acceptance of {wanted}",
            f"OOD accepted at {wanted}",
            False,
            f"share of OOD images accepted by {threshold}",
            source,
            ("validation scores", "OOD scores"),
            accept=accept,
        ),
        f"id_{ACCEPTANCE}_at_{accept}": OptionalMetric(
            f"Accepted ID images at a wanted ID acceptance of {wanted}",
            f"ID accepted at {wanted}",
            True,
            f"share of ID test images accepted by {threshold}",
            source,
            ("validation scores", "ID scores"),
            accept=accept,
        ),
    }


OPTIONAL: Mapping[str, OptionalMetric] = MappingProxyType(
    {
        "aurc": OptionalMetric(
            "Area under the risk-coverage curve",
            "AURC",
            False,
            "mean over all coverages of the share of misclassified images among the ID images with "
            "the highest scores. FD-Shifts reports it times 1,000",
            "Geifman, Uziel & El-Yaniv, ICLR 2019",
            _ID,
        ),
        "e_aurc": OptionalMetric(
            "Excess area under the risk-coverage curve",
            "E-AURC",
            False,
            "AURC minus that of the best order of the images with the same accuracy",
            "Geifman, Uziel & El-Yaniv, ICLR 2019",
            _ID,
        ),
        "augrc": OptionalMetric(
            "Area under the generalized risk-coverage curve",
            "AUGRC",
            False,
            "mean over all coverages of the share of all ID images that are accepted and "
            "misclassified; at best half the squared error rate",
            "Traub et al., NeurIPS 2024",
            _ID,
            largest=0.5,
        ),
        "failure_auroc": OptionalMetric(
            "AUROC of correctly classified against misclassified images",
            "Failure AUROC",
            True,
            "probability that a correctly classified ID image scores above a misclassified one; "
            "50 is chance",
            "Hendrycks & Gimpel, ICLR 2017; Jaeger et al., ICLR 2023",
            _ID,
        ),
        "scod_aurc": OptionalMetric(
            "Area under the risk-coverage curve with OOD images",
            "SCOD-AURC",
            False,
            "AURC of ID and OOD images together, where every OOD image is an error; it depends on "
            "their numbers",
            "Kim et al., 2021; Xia & Bouganis, ACCV 2022",
            _ALL,
        ),
        "oscr": OptionalMetric(
            "Area under the open-set classification rate curve",
            "OSCR",
            True,
            "area under the share of ID images that are accepted and correctly classified, against "
            "the share of accepted OOD images; at most the accuracy",
            "Dhamija, Günther & Boult, NeurIPS 2018",
            _ALL,
        ),
        **{
            f"{CCR_AT_FPR}_{level}": OptionalMetric(
                f"Correct classification rate at a false positive rate of {level}",
                f"CCR@FPR {level}",
                True,
                "share of ID images that are correctly classified and score above the threshold "
                f"that accepts less than a fraction {level} of the OOD images",
                "Dhamija, Günther & Boult, NeurIPS 2018",
                _ALL,
                level=level,
            )
            for level in LEVELS
        },
        "autc": OptionalMetric(
            "Area under the threshold curve",
            "AUTC",
            False,
            "mean of false positive and false negative rate over all thresholds, of scores scaled "
            "to [0, 1]; other scales of the same order change it",
            "Humblot-Renaux, Escalera & Moeslund, CVPRW 2023",
            ("ID scores", "OOD scores"),
        ),
        "ece": OptionalMetric(
            "Expected calibration error",
            "ECE",
            False,
            "mean difference of accuracy and largest softmax probability of the classifier, in 15 "
            "bins of equal width; the same for all detectors of a model",
            "Guo et al., ICML 2017",
            ("correctness", "confidence"),
        ),
        **{name: each for accept in ACCEPTED for name, each in _acceptance(accept).items()},
    }
)
"""The metrics on request, in the order in which they are shown."""

KNOWN: Mapping[str, Metric] = MappingProxyType({**METRICS, **OPTIONAL})
"""Every metric of a record but the accuracy."""

SEE_METRICS = "docs/reference/metrics.md lists all metrics."
"""For errors about an unknown name."""


def of_id_images(metric: str) -> bool:
    """Whether a metric on request is of the ID images alone, without an OOD set."""
    return metric in OPTIONAL and OPTIONAL[metric].of != "set"


def accepting(names: Iterable[str]) -> tuple[str, ...]:
    """Those metrics that need scores of ID validation images: they are of a threshold set there."""
    return tuple(name for name in names if name in OPTIONAL and OPTIONAL[name].accept)


def members(names: Iterable[str]) -> Iterator[str]:
    """The names, with all metrics of `ccr_at_fpr` and of `acceptance` in the place of these."""
    groups = {CCR_AT_FPR: [f"{CCR_AT_FPR}_{level}" for level in LEVELS]}
    groups[ACCEPTANCE] = [*accepting(OPTIONAL)]
    for name in names:
        yield from groups.get(name, [name])


def requested(names: str | Sequence[str]) -> tuple[str, ...]:
    """The metrics on request that some names ask for, in the order of `OPTIONAL`.

    Args:
        names: "all", or names of metrics; `ccr_at_fpr` asks for all levels, `acceptance` for all
            wanted rates. The metrics that every run records may be named, too. "all" is those of
            scores of test images; `acceptance`, for which methods score the ID validation images,
            may be named beside it.

    Raises:
        ValueError: a name is not known; the message suggests others.
    """
    given = [names] if isinstance(names, str) else list(names)
    found = set(_named(name for name in given if name != "all"))
    if "all" in given:
        if found - set(accepting(found)):
            raise ValueError("'all' stands alone, or with acceptance, without other names")
        found |= OPTIONAL.keys() - set(accepting(OPTIONAL))
    return tuple(name for name in OPTIONAL if name in found)


def _named(names: Iterable[str]) -> Iterable[str]:
    for name in members(names):
        if name in KNOWN:
            yield name
        else:
            near = did_you_mean(name, {*KNOWN, CCR_AT_FPR, ACCEPTANCE}, SEE_METRICS)
            raise ValueError(f"there is no metric '{name}'. {near}")
