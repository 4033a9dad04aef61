"""Every detector conforms, and every benchmark has a plan."""

import subprocess
import sys
from pathlib import Path

import pytest
from oodbench.testing import parametrize_with_checks

import acme_ood

CONTENT = Path(acme_ood.__file__).parent
DETECTORS = sorted((CONTENT / "detectors").glob("[!_]*.py"))
BENCHMARKS = sorted((CONTENT / "benchmarks").glob("*.yaml"))


@parametrize_with_checks(DETECTORS)
def test_detector(detector, check):
    check(detector)


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda path: path.stem)
def test_benchmark(benchmark):
    command = [sys.executable, "-m", "oodbench", "run", benchmark, "--dry-run"]
    command += ["--plugins", CONTENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
