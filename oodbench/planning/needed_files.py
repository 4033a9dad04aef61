"""The data sets, checkpoints and weights that benchmarks and suites need."""

from __future__ import annotations

from collections.abc import Iterable

from oodbench.data.missing_files import NeededFiles
from oodbench.data.store.checkpoint_files import Weights
from oodbench.errors import UserError
from oodbench.models.registry import library_of
from oodbench.planning.suite_plan import load_suite
from oodbench.plugins.catalog import Catalog
from oodbench.specs import BenchmarkSpec, ModelSpec


def needed_files(catalog: Catalog, name: str) -> NeededFiles:
    """What a benchmark or a suite needs.

    Args:
        catalog: gives benchmarks and manifests.
        name: name, or path of a YAML file.

    Raises:
        UserError: a file is missing or not valid, or a library lacks a network.
    """
    if catalog.is_suite(name):
        return needed_by(load_suite(catalog, name).members.values(), catalog)
    return needed_by([catalog.benchmark(name)], catalog)


def needed_by(benchmarks: Iterable[BenchmarkSpec], catalog: Catalog) -> NeededFiles:
    """What benchmarks need; a data set that several need is named once."""
    manifests: dict[str, None] = {}
    needed = NeededFiles()
    for benchmark in benchmarks:
        names = (*benchmark.names, *(dataset for dataset, _ in benchmark.auxiliary_splits))
        manifests |= dict.fromkeys(benchmark.manifest(each) for each in names)
        for name, model in benchmark.models.items():
            _check_network(name, model)
            url = "" if model.weights is None else _weights_url(model.network, model.weights)
            needed += NeededFiles(
                checkpoints=tuple((each, benchmark.file) for each in model.checkpoint),
                weights=(Weights(model.network, url),) if url else (),
            )
    return needed + NeededFiles(tuple(map(catalog.dataset, manifests)))


def _check_network(name: str, model: ModelSpec) -> None:
    """Check that a library has the network of a model.

    Raises:
        UserError: it has not.
    """
    if library_of(model.network) is None:
        return
    from oodbench.models.published_weights.library_networks import check_name  # imports torch

    try:
        check_name(model.network, model.weights)
    except UserError as error:
        error.say_first(f"models.{name}")
        raise


def _weights_url(network: str, weights: str) -> str:
    from oodbench.models.published_weights.torchvision_networks import weights_url  # imports torch

    return weights_url(network, weights)
