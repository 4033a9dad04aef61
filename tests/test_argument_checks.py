"""Arguments of the public functions: what is taken, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oodbench
from oodbench import Detector, UserError, argument_checks
from oodbench.engine.device import find_device
from oodbench.plugins.content_folders import checked_plugins


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seeds": True}, "seeds: expected a whole number from 1 to 1,000, not True."),
        ({"seeds": 2.0}, "seeds: expected a whole number from 1 to 1,000, not 2.0."),
        ({"seeds": "3"}, "seeds: expected a whole number from 1 to 1,000, not '3'."),
        ({"seeds": 0}, "seeds: expected a whole number from 1"),
        ({"seeds": 10**9}, "seeds: expected a whole number from 1 to 1,000, not 1000000000."),
        ({"methods": []}, "methods: expected a list of names, not []."),
        ({"methods": [3]}, "methods: expected a list of names, not [3]."),
        ({"methods": 3}, "methods: expected a list of names, not 3."),
        ({"methods": ["knn", ""]}, "methods: expected a list of names"),
        ({"resume": "yes"}, "resume: expected True or False, not 'yes'."),
        ({"resume": 1}, "resume: expected True or False, not 1."),
        ({"out": ""}, "out: expected a path, not ''."),
        ({"out": 5}, "out: expected a path, not 5."),
        ({"out": "a\0b"}, "out: expected a path, not 'a\\x00b'."),
        ({"data_root": b"x"}, "data_root: expected a path, not b'x'."),
        ({"plugins": 5}, "plugins: expected a list of folders, not 5."),
        ({"plugins": [None]}, "plugins: expected a path, not None."),
        ({"device": 3}, "device: expected auto, cpu, cuda or cuda:i, not 3."),
        ({"device": None}, "device: expected auto, cpu, cuda or cuda:i, not None."),
        ({"limit": 0}, "limit: expected a whole number from 1, not 0."),
        ({"epochs": 0.5}, "epochs: expected a whole number from 1, not 0.5."),
        ({"seeds": 10**400}, "seeds: expected a whole number from 1 to 1,000, not 10000"),
        ({"seeds": -(10**9000)}, "seeds: expected a whole number from 1 to 1,000, not a number"),
        ({"tune": 5}, "tune: expected names, all or none, not 5."),
        ({"tune": "all,knn"}, "tune: 'all' stands alone, without names."),
        ({"data_root": "nowhere"}, "data_root: nowhere is not a folder."),
    ],
)
@pytest.mark.parametrize("function", [oodbench.run, oodbench.run_suite])
def test_arguments_that_could_only_fail_later(
    function: Any, given: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        function(**given)
    assert caught.value.message.startswith(said)
    assert len(caught.value.message) < 150
    assert "--" not in str(caught.value), "an option of the command"
    assert list(tmp_path.iterdir()) == [], "something was begun"


@pytest.mark.parametrize(("function", "name"), [("run", "benchmark"), ("run_suite", "suite")])
@pytest.mark.parametrize("value", [None, "", 3, b"digits"])
def test_what_is_no_benchmark(function: str, name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{name}: expected a path, not"):
        getattr(oodbench, function)(value)


def test_what_is_taken() -> None:
    assert argument_checks.whole_number("n", np.int64(3), 1) == 3
    assert type(argument_checks.whole_number("n", np.int64(3), 1)) is int
    assert argument_checks.names("methods", "knn") == ["knn"]
    assert argument_checks.names("methods", ("knn", "odin")) == ["knn", "odin"]
    assert checked_plugins("plugins", "a/b") == [Path("a/b")]
    assert checked_plugins("plugins", Path("a")) == [Path("a")]
    assert checked_plugins("plugins", Detector) == [Detector]
    assert checked_plugins("plugins", ()) == []


def test_devices_have_names() -> None:
    for given in (0, None, True):
        with pytest.raises(UserError, match="expected auto, cpu, cuda or cuda:i"):
            find_device(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("knn", {"k": True}, "k: input should be a valid integer, not True"),
        ("knn", {"k": 1.5}, "k: input should be a valid integer, not 1.5"),
        ("knn", {"k": 2.0}, "k: input should be a valid integer, not 2.0"),
        ("knn", {"k": "5"}, "k: input should be a valid integer, not '5'"),
        ("knn", {"k": -1}, "k must be at least 1, not -1"),
        ("knn", {"k": 2**63}, "k: input should be a number of at most 64 bits"),
        ("knn", {"k": float("inf")}, "k: input should be a finite number, not inf"),
        ("odin", {"temperature": True}, "temperature: input should be a valid number, not True"),
        ("odin", {"temperature": float("nan")}, "temperature: input should be a finite number"),
        ("odin", {"epsilon": float("inf")}, "epsilon: input should be a finite number, not inf"),
        ("odin", {"sign_zero": "minus"}, "sign_zero: input should be 'plus' or 'zero'"),
        ("residual", {"dim": True}, "dim: input should be a valid integer, not True"),
        ("mahalanobis", {"standardize": "yes"}, "standardize: input should be a valid boolean"),
        ("mahalanobis", {"standardize": 1}, "standardize: input should be a valid boolean"),
    ],
)
def test_parameters_of_another_type(name: str, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        oodbench.load_detector(name, **parameters)
    assert f"Detector '{name}' cannot be made with" in caught.value.message
    assert said in caught.value.message


def test_parameters_of_numpy_are_plain_numbers() -> None:
    assert type(oodbench.load_detector("knn", k=np.int64(5)).parameters["k"]) is int
    detector = oodbench.load_detector("odin", temperature=np.float32(2), epsilon=0)
    assert detector.parameters["temperature"] == 2.0
    assert oodbench.load_detector("residual", dim=None).parameters["dim"] is None
