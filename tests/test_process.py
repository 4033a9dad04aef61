"""Settings of the process: in processes of their own, since they cannot be undone."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
from oodbench.process import SPIN_COUNT, prepare_process
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


SETTINGS = """
import json
from oodbench.process import prepare_process, process_settings
prepare_process()
print(json.dumps(process_settings()))
"""


def settings(before: str = "", **environment: str) -> dict[str, object]:
    found = json.loads(run(before + SETTINGS, **environment))
    assert isinstance(found, dict)
    return found


def test_threads_spin_for_a_while_unless_the_user_says_otherwise() -> None:
    assert settings()["GOMP_SPINCOUNT"] == "2000"
    assert settings(GOMP_SPINCOUNT="7")["GOMP_SPINCOUNT"] == "7"
    passive = settings(OMP_WAIT_POLICY="passive")
    assert passive["OMP_WAIT_POLICY"] == "passive"
    assert passive["GOMP_SPINCOUNT"] is None, "the count would override the policy"


def test_settings_are_those_in_effect() -> None:
    assert settings()["threads"] is None, "torch is not loaded"
    late = settings(before="import torch\n", OMP_NUM_THREADS="1")
    assert late["GOMP_SPINCOUNT"] is None, "OpenMP has read its settings before"
    assert late["threads"] == 1
    assert late["OMP_NUM_THREADS"] == "1"


@needs_glibc
def test_settings_of_the_allocator() -> None:
    assert settings()["allocator"] == "glibc, keeps freed memory"
    assert settings(before="import torch\n")["allocator"] == "glibc, keeps freed memory"
    assert settings(MALLOC_TOP_PAD_="131072")["allocator"] == "as the user sets it"


@pytest.mark.parametrize(
    "start",
    [
        "oodbench.run('no-such')",
        "oodbench.run_suite('no-such')",
        "command('run', '--methods', 'no-such')",
        "command('train', 'no-such')",
    ],
)
def test_program_and_command_prepare_the_process_before_torch_is_loaded(start: str) -> None:
    code = f"""
import sys
import oodbench
import oodbench.process

def command(*arguments):
    from oodbench.cli.main import main
    sys.argv = ["oodbench", *arguments]
    main()

prepared = []
real = oodbench.process.prepare_process
oodbench.process.prepare_process = lambda: (prepared.append("torch" in sys.modules), real())
try:
    {start}
except (oodbench.UserError, SystemExit):
    pass
assert prepared == [False], prepared
"""
    run(code)


def test_evaluate_prepares_the_process() -> None:
    code = """
import oodbench
from oodbench.process import process_settings
try:
    oodbench.evaluate(None, [], id_data=None, ood_data={})
except oodbench.UserError:
    pass
print(process_settings()["allocator"])
"""
    assert run(code) == settings()["allocator"]


def test_the_command_line_starts_without_torch() -> None:
    run("import sys, oodbench.cli.main; assert not {'torch', 'numpy'} & sys.modules.keys()")
