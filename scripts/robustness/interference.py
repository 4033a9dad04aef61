"""Plug-in detectors that change what they should not: the scores of the others stay, bit for bit.

    python scripts/robustness/interference.py [--only NAME,NAME]

Each offender changes one thing when it is fitted and with every batch that it scores: torch's
settings, generators, the process, the outputs that all detectors share, the last layer, modes of
the model's modules. It comes first in `oodbench.evaluate`, before detectors with and without fits
and gradients. It may fail, with a reason; the scores of the others have to be those without it. The
exit code is 1 if any differ.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from robustness.small_content import one_thread
from robustness.soak import Net, images

import oodbench
from oodbench import Detector, Outputs, register
from oodbench.detector import Batches

OTHERS = ("baseline", "energy", "knn", "odin", "mds", "react", "vim", "gradnorm")
_left: list[Any] = []
"""Contexts that offenders leave open."""


def _entered(context: Any) -> None:
    context.__enter__()
    _left.append(context)


def _trained(outputs: Outputs) -> None:
    for module in gc.get_objects():
        if isinstance(module, Net):
            module.train()


def _frozen(outputs: Outputs) -> None:
    for module in gc.get_objects():
        if isinstance(module, nn.Conv2d):
            module.weight.requires_grad_(False)


OFFENCES: dict[str, Callable[[Outputs], Any]] = {
    "grad_mode": lambda outputs: torch.set_grad_enabled(False),
    "grad_mode_on": lambda outputs: torch.set_grad_enabled(True),
    "inference_mode": lambda outputs: _entered(torch.inference_mode()),
    "autocast": lambda outputs: _entered(torch.autocast("cpu", dtype=torch.bfloat16)),
    "default_dtype": lambda outputs: torch.set_default_dtype(torch.float64),
    "default_device": lambda outputs: torch.set_default_device("meta"),
    "torch_seed": lambda outputs: torch.manual_seed(7),
    "numpy_seed": lambda outputs: np.random.seed(7),  # noqa: NPY002
    "python_seed": lambda outputs: random.seed(7),
    "threads": lambda outputs: torch.set_num_threads(2),
    "deterministic": lambda outputs: torch.use_deterministic_algorithms(True, warn_only=True),
    "mkldnn": lambda outputs: torch.backends.mkldnn.set_flags(False),
    "denormals": lambda outputs: torch.set_flush_denormal(True),
    "matmul_precision": lambda outputs: torch.set_float32_matmul_precision("medium"),
    "numpy_errors": lambda outputs: np.seterr(all="raise"),
    "warnings_as_errors": lambda outputs: warnings.simplefilter("error"),
    "environment": lambda outputs: os.environ.update(OODBENCH_CACHE="/nowhere", TMPDIR="/nowhere"),
    "working_directory": lambda outputs: os.chdir("/"),
    "collector": lambda outputs: gc.disable(),
    "logits_in_place": lambda outputs: outputs.logits.mul_(2),
    "features_in_place": lambda outputs: outputs.features.zero_(),
    "labels_in_place": lambda outputs: outputs.labels.zero_(),
    "head_in_place": lambda outputs: outputs.head.weight.data.zero_(),
    "training_mode": _trained,
    "frozen_weights": _frozen,
}
"""Name -> what an offender does with every batch."""


def offender(name: str) -> Detector:
    """A detector that does one of the offences."""
    offend = OFFENCES[name]

    @register(f"offender_{name}", needs=("features", "head", "fit", "labels"))
    class Offender(Detector):
        """A detector that changes what it should not."""

        def fit(self, batches: Batches) -> None:
            for outputs in batches:
                offend(outputs)

        def score(self, outputs: Outputs) -> Tensor:
            if not name.startswith("labels"):
                offend(outputs)
            return outputs.logits.amax(dim=1)

    return Offender()


@contextmanager
def state_kept() -> Iterator[None]:
    """Put the state of the process back at the end, whatever a detector did to it."""
    grad, dtype, threads = (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )
    environment, place, errors = dict(os.environ), Path.cwd(), np.geterr()
    torch_state, numpy_state, python_state = (
        torch.get_rng_state(), np.random.get_state(), random.getstate(),  # noqa: NPY002
    )  # fmt: skip
    precision, mkldnn = torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled
    strict = torch.are_deterministic_algorithms_enabled()
    with warnings.catch_warnings():
        try:
            yield
        finally:
            for each in reversed(_left):
                each.__exit__(None, None, None)
            _left.clear()
            torch.set_default_device(None)
            torch.set_grad_enabled(grad)
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            torch.set_rng_state(torch_state)
            torch.use_deterministic_algorithms(strict)
            torch.set_flush_denormal(False)
            torch.set_float32_matmul_precision(precision)
            torch.backends.mkldnn.set_flags(mkldnn)
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
            np.seterr(**errors)
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(place)
            gc.enable()


def scores_with(first: Sequence[Any], others: Sequence[str]) -> Any:
    """The result of evaluating these detectors on a new network."""
    torch.manual_seed(0)
    model = Net().eval()
    return oodbench.evaluate(
        model,
        [*first, *others],
        id_data=images(32, 3),
        ood_data={"other": images(24, 5)},
        fit_data=images(64, 1),
        validation_data=images(40, 2),
        device="cpu",
    )


def campaign(names: Sequence[str], others: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """Evaluate with each offender; returns those that changed scores of others."""
    one_thread()
    with state_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = scores_with((), others).scores
    changed = []
    for name in names:
        crash, found = "", None
        with state_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = scores_with((offender(name),), others)
            except Exception as error:
                crash = f"{type(error).__name__}: {error}"
        if found is None:
            outcome = f"CRASH {crash}"
        else:
            different = [
                other
                for other in expected
                if other not in found.scores
                or any(
                    not np.array_equal(found.scores[other][key], expected[other][key])
                    for key in expected[other]
                )
            ]
            own = next((why for key, why in found.skipped.items() if "offender" in key), "scored")
            outcome = f"CHANGED {', '.join(different)}" if different else "same"
            outcome += f" ({own})"
        if not outcome.startswith("same"):
            changed.append(f"{name}: {outcome}")
        say(f"{name:22} {outcome}")
    return changed


def main() -> int:
    """Do what the module's docstring says; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(OFFENCES), help="names of offences")
    names = parser.parse_args().only.split(",")
    changed = campaign(names, OTHERS, lambda line: print(line, flush=True))
    print(f"{len(names) - len(changed)} of {len(names)} left the scores of the others as they were")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
