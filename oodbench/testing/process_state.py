"""Global state of the process: random generators, modes of torch, handling of errors."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

SEED = 1_908_056_901
"""No detector's."""


def _set_warning_filters(filters: list[Any]) -> None:
    warnings.resetwarnings()
    warnings.filters[:] = filters  # type: ignore[index]


_GLOBAL: Mapping[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "torch's global generator": (torch.get_rng_state, torch.set_rng_state),
    "numpy's global generator": (np.random.get_state, np.random.set_state),
    "Python's global generator": (random.getstate, random.setstate),
    "the grad mode of torch": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, torch.set_default_device),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "torch's precision of float32 products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "numpy's handling of errors": (np.geterr, lambda errors: np.seterr(**errors)),
    "the filters of warnings": (lambda: [*warnings.filters], _set_warning_filters),
}
"""State of the process -> functions that give and set it."""


def process_state() -> dict[str, Any]:
    """What -> its present value."""
    return {what: give() for what, (give, _) in _GLOBAL.items()}


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What has another value."""
    return [what for what in before if not _equal(before[what], after[what])]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_equal, one, other))
    same = one == other
    return bool(same.all()) if isinstance(same, np.ndarray | Tensor) else bool(same)


@contextmanager
def restored() -> Iterator[None]:
    """At the end, the state of the process is as before."""
    before = process_state()
    try:
        yield
    finally:
        for what in changed(before, process_state()):  # some setters take seconds
            _GLOBAL[what][1](before[what])


def unusual_seeds() -> None:
    """Seed the global generators as nobody does: a detector may seed them with 0 each time."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    torch.manual_seed(SEED)
