from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import oodbench
from oodbench import UserError
from oodbench.plugins.catalog import Catalog


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("odin", {"temperature": "hot"}, "temperature: input should be a valid number"),
        ("odin", {"temperature": 0}, "temperature must be positive"),
        ("odin", {"epsilon": -0.1}, "epsilon must not be negative"),
        ("odin", {"sign_zero": "minus"}, "sign_zero: input should be 'plus' or 'zero'"),
        ("mahalanobis", {"standardize": "perhaps"}, "standardize: input should be a valid bool"),
        ("odin", {"temperature": 10**400}, "at most 64 bits, not 1000000000"),
        ("odin", {"temperature": -(10**9000)}, "at most 64 bits, not a number that is too large"),
        ("knn", {"k": list(range(1000))}, "k: input should be a valid integer, not [0, 1, 2"),
        ("odin", {"epsilonn": 1}, "has no parameter 'epsilonn'"),
    ],
)
def test_parameters_are_checked(name: str, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        oodbench.load_detector(name, **parameters)
    assert said in str(error.value)
    assert len(error.value.message) < 250


def test_parameters_are_taken() -> None:
    detector = oodbench.load_detector("odin", temperature=10, epsilon=0)
    assert detector.parameters == {"temperature": 10.0, "epsilon": 0.0, "sign_zero": "plus"}


def test_an_input_gradient_needs_a_step_size(tmp_path: Path) -> None:
    (tmp_path / "detectors").mkdir()
    (tmp_path / "detectors" / "stepless.py").write_text(
        "from oodbench import PerturbingDetector, register\n"
        '@register("stepless", needs=("input_gradient",))\n'
        "class Stepless(PerturbingDetector):\n"
        '    """No step."""\n'
        "    def score(self, outputs): ...\n"
        "    def perturbation_losses(self, outputs): ...\n"
    )
    with pytest.raises(UserError, match="has no step size"):
        Catalog([tmp_path]).load_detector("stepless")
