"""Whether the data sets of a benchmark have what a plan needs of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oodbench.errors import UserError, counted
from oodbench.models.registry import HEADS
from oodbench.planning.plan import Method
from oodbench.specs import BenchmarkSpec, DatasetSpec, SplitName


def check_data(
    benchmark: BenchmarkSpec, datasets: Mapping[str, DatasetSpec], methods: Sequence[Method]
) -> None:
    """Check that the data sets have the splits that the plan needs, and images of one shape.

    Raises:
        UserError: if they do not, or their classes do not fit.
    """
    for (name, split), why in _wanted(benchmark, methods).items():
        if split not in datasets[name].splits:
            raise UserError(
                f"Benchmark '{benchmark.name}' needs the {split} split of '{name}' {why}; "
                f"its manifest has: {', '.join(datasets[name].splits)}."
            )
    _check_classes(benchmark, datasets)
    shape = datasets[benchmark.id].shape
    for name, spec in datasets.items():
        if spec.shape != shape:
            raise UserError(
                f"Benchmark '{benchmark.name}': images of '{name}' have shape "
                f"{'x'.join(map(str, spec.shape))}, those of '{benchmark.id}' "
                f"{'x'.join(map(str, shape))}.",
                "One network takes both: choose data sets of one shape.",
            )


def _wanted(
    benchmark: BenchmarkSpec, methods: Sequence[Method]
) -> dict[tuple[str, SplitName], str]:
    """Data set and split -> what it is needed for."""
    tuning = benchmark.tuning.split
    wanted: dict[tuple[str, SplitName], str] = {(benchmark.id, "test"): "to test on"}
    if any(model.training is not None for model in benchmark.models.values()):
        wanted[benchmark.id, "train"] = "to train on"
    for method in methods:
        for split in method.fitted_on().values():
            why = f"to fit {method.detector.name} on"
            wanted.setdefault((benchmark.id, split), why)
    wanted |= {(name, "test"): "to test on" for name in benchmark.names}
    if any(method.tuned_on != "none" for method in methods):
        wanted[benchmark.id, tuning] = "to tune on"
    if any(method.tuned_on == "ood_oracle" for method in methods):
        wanted |= {(name, tuning): "for ood_oracle tuning" for name in benchmark.ood_groups}
    if benchmark.tuning_ood is not None:
        wanted[benchmark.tuning_ood, tuning] = "for ood_validation tuning"
    heads = {benchmark.models[method.model].head for method in methods}
    if any(HEADS[head].calibrated for head in heads):
        wanted.setdefault((benchmark.id, "validation"), "to calibrate a temperature on")
    for each in benchmark.auxiliary_splits:
        wanted.setdefault(each, "for auxiliary images")
    return wanted


def _check_classes(benchmark: BenchmarkSpec, datasets: Mapping[str, DatasetSpec]) -> None:
    """Check that the ID set has classes, the csID sets the same, and a limit leaves one of each."""
    if datasets[benchmark.id].num_classes is None:
        raise UserError(
            f"Benchmark '{benchmark.name}': the manifest of '{benchmark.id}' has no num_classes.",
            "An ID data set has classes: write num_classes.",
        )
    classes, most = datasets[benchmark.id].num_classes or 0, benchmark.most_images
    for name in benchmark.csid:
        if datasets[name].num_classes != classes:
            raise UserError(
                f"Benchmark '{benchmark.name}': csid: '{name}' has "
                f"{datasets[name].num_classes or 'no'} classes, the ID set '{benchmark.id}' "
                f"{classes}.",
                "The images of a csID set have labels: the classes of the ID set.",
            )
    if most is not None and most < classes:
        raise UserError(
            f"limit: {counted(most, 'image')} cannot have one of each of the {classes} classes "
            f"of '{benchmark.id}'.",
            f"Give at least {classes}.",
        )
