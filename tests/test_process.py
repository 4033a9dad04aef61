"""Settings of the process: in processes of their own, since they cannot be undone."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
from oodbench.process import prepare_process
prepare_process()
import numpy as np
x = np.ones(2**22)
faults = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    y = x + 1
    del y
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""

has_glibc = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
needs_glibc = pytest.mark.skipif(not has_glibc, reason="the allocator is not glibc's")


def run(code: str, **settings: str) -> str:
    keep = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GOMP_", "LD_PRELOAD", "GLIBC_"))
    }
    # Pages of two megabytes would make faults few with any allocator.
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**keep, "NUMPY_MADVISE_HUGEPAGE": "0", **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@needs_glibc
def test_freed_memory_is_kept_and_costs_no_page_faults() -> None:
    assert int(run(FAULTS)) < 100  # 32 MiB are 8,192 pages


@needs_glibc
@pytest.mark.parametrize(
    "setting",
    [
        {"MALLOC_TOP_PAD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.top_pad=131072"},
    ],
)
def test_what_the_user_has_set_for_the_allocator_stays(setting: dict[str, str]) -> None:
    assert int(run(FAULTS, **setting)) > 4000


SPIN = """
import os
from oodbench.process import prepare_process
prepare_process()
print(os.environ["GOMP_SPINCOUNT"])
"""


def test_threads_spin_for_a_while_unless_the_user_says_otherwise() -> None:
    assert run(SPIN) == "20000"
    assert run(SPIN, GOMP_SPINCOUNT="7") == "7"


def test_the_command_line_prepares_its_process_before_torch_is_loaded() -> None:
    code = """
import sys
import oodbench.cli.main
assert "torch" not in sys.modules and "numpy" not in sys.modules
called = []
oodbench.cli.main.prepare_process = lambda: called.append("torch" in sys.modules)
sys.argv = ["oodbench", "--help"]
try:
    oodbench.cli.main.main()
except SystemExit:
    pass
assert called == [False]
"""
    run(code)
