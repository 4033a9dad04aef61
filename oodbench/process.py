"""Settings of the process that affect measured times: the allocator and waiting threads.

`run`, `run_suite`, `evaluate` and the command `train` make them when they start, so that a program
and the command measure alike. `run.json` has the settings in effect.
"""

from __future__ import annotations

import ctypes
import os
import sys

SPIN_COUNT = "2000"
"""How many times a waiting thread of GNU OpenMP polls before it sleeps.

Chosen with `scripts/speed/contended.py`: 2,000 are as fast as 20,000 on two idle cores, and two to
three times as fast beside a busy process.
"""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
ALLOCATOR = {_TRIM_THRESHOLD: 2**30, _MMAP_THRESHOLD: 2**28}
"""What `mallopt` sets, in bytes."""

_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
_allocator = "as the system sets it"


def prepare_process() -> None:
    """Make this process fast on CPUs. May be called many times, best before torch is loaded.

    - GNU OpenMP's threads poll 300,000 times before they sleep. While another process uses a core,
      that makes small networks many times slower; without any polling they are slow on an idle
      machine. `SPIN_COUNT` lies between. OpenMP reads it when torch is loaded: if torch is loaded
      already, nothing is changed, and `process_settings` shows it.
    - glibc's allocator returns the memory of every larger tensor to the system when it is freed,
      and the next tensor costs a fault for each page: as much time as the arithmetic of an
      element-wise operation. Freed memory is kept instead, up to 1 GiB.

    Settings that the user has made in the environment stay.
    """
    global _allocator
    waiting = os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    if not waiting and "torch" not in sys.modules:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    if _user_tunes_allocator():
        _allocator = "as the user sets it"
    elif sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            for parameter, value in ALLOCATOR.items():
                library.mallopt(parameter, value)
            _allocator = "glibc, keeps freed memory"


def process_settings() -> dict[str, object]:
    """The settings in effect, for `run.json`.

    Returns:
        `allocator`: in words; `threads`: torch's number of threads for one operation, None if torch
        is not loaded; and the environment variables `GOMP_SPINCOUNT`, `OMP_WAIT_POLICY` and
        `OMP_NUM_THREADS`, None for the library's default.
    """
    torch = sys.modules.get("torch")
    return {
        "allocator": _allocator,
        "threads": None if torch is None else torch.get_num_threads(),
        **{name: os.environ.get(name) for name in _VARIABLES},
    }


def _user_tunes_allocator() -> bool:
    return any(
        name.startswith("MALLOC_")
        or (name == "GLIBC_TUNABLES" and "glibc.malloc." in value)
        or (name == "LD_PRELOAD" and "malloc" in value)
        for name, value in os.environ.items()
    )
