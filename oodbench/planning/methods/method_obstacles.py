"""Why a method of a benchmark cannot run."""

from __future__ import annotations

from collections.abc import Collection

from oodbench.detector import head_obstacle
from oodbench.models import feature_layers_of
from oodbench.models.registry import HEADS, NETWORKS, is_callable_name, library_of
from oodbench.planning.plan import Method
from oodbench.specs import BenchmarkSpec, SplitName


def cannot_run(method: Method, benchmark: BenchmarkSpec) -> str | None:
    """Why a detector cannot run on a model, or None."""
    model = benchmark.models[method.model]
    head, needs = HEADS[model.head], method.detector.needs
    found = model.training is None  # those of published networks are found by running them
    named = bool(model.taps) or model.network in NETWORKS
    if needs & {"taps", "tap_maps"} and not named and not found:
        return f"needs taps; models.{method.model}.taps names none"
    if named and method.detector.layerwise and method.arguments.get("layers") is not None:
        taps = model.taps or feature_layers_of(model.network)
        obstacle = method.detector.layers_obstacle(method.arguments, taps)
        if obstacle is not None:
            return obstacle
    if "dropout_logits" in needs and model.network in NETWORKS:
        return f"needs dropout; the network {model.network} has none"
    # A callable of the user's may make an ensemble.
    own = found and is_callable_name(model.network) and not library_of(model.network)
    if "member_logits" in needs and not model.ensemble and not own:
        return f"needs an oodbench.models.Ensemble; {method.model} is a single network"
    if model.ensemble and needs & {"features", "feature_map"}:
        return f"needs features of one network; {method.model} is an ensemble"
    obstacle = head_obstacle(
        needs,
        "other" if model.ensemble else head.kind,
        method.model,
        language=model.has_language,
        rotations=head.rotations and not model.ensemble,
    )
    if obstacle is not None:
        return obstacle
    if "calibration" in needs and method.tuned_on == "none":
        reason = (
            "--tune leaves it out"
            if benchmark.tuning.tune
            else "the benchmark does not tune it without --tune"
        )
        return f"needs tuning data; {reason}"
    return None


def has_no_images(
    method: Method, benchmark: BenchmarkSpec, splits: Collection[SplitName]
) -> str | None:
    """Why a detector cannot be fitted, where no model is trained and the ID set lacks a split."""
    if any(model.training is not None for model in benchmark.models.values()):
        return None
    missing = [split for split in method.fitted_on().values() if split not in splits]
    if not missing:
        return None
    images = {"train": "training"}.get(missing[0], missing[0])
    return f"is fitted on {images} images, and '{benchmark.id}' has none"
