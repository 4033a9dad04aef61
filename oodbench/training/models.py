"""Training the models of a benchmark without evaluating them."""

from __future__ import annotations

from pathlib import Path

import torch

from oodbench.errors import UserError, counted, did_you_mean
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Reporter
from oodbench.specs import BenchmarkSpec
from oodbench.training.checkpoints import read_history
from oodbench.training.stores import DataStore, ModelStore


def train_models(
    benchmark: BenchmarkSpec,
    catalog: Catalog,
    *,
    model: str | None,
    seeds: int,
    device: torch.device,
    say: Reporter,
    data_root: Path | None = None,
) -> dict[str, Path]:
    """Train what is not in the cache yet; inside `distributed.group`, together.

    Args:
        benchmark: whose models.
        catalog: gives the training data.
        model: only this one; None for all.
        seeds: number of seeds, 0 .. seeds - 1.
        device: where to train.
        say: takes progress.
        data_root: where data sets are that do not come built in.

    Returns:
        "model seed k" -> checkpoint file.

    Raises:
        UserError: if there is no such model, or training fails.
    """
    if model is not None and model not in benchmark.models:
        raise UserError(
            f"Benchmark '{benchmark.name}' has no model '{model}'.",
            did_you_mean(model, benchmark.models),
        )
    names = [model] if model is not None else list(benchmark.models)
    data = DataStore(
        {benchmark.id: catalog.dataset(benchmark.id)}, data_root, say, benchmark.most_images
    )
    store = ModelStore(benchmark, data, device, say)
    store.check(names)
    paths = {}
    with say.work(len(names) * seeds):
        for name in names:
            for seed in range(seeds):
                label = f"{name} seed {seed}"
                say.stage(label)
                path = store.key(name, seed).path
                source = "in the cache" if path.exists() else "trained"
                store.trained(name, seed)
                last = read_history(path)[-1]
                say.done(
                    f"{label}: {source}, {counted(last['epoch'], 'epoch')}, "
                    f"loss {last['loss']:.3f}, training accuracy {100 * last['accuracy']:.1f} %"
                )
                paths[label] = path
    return paths
