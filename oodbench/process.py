"""Settings of the whole process: for a program of its own, not for a library in another's."""

from __future__ import annotations

import ctypes
import os
import sys

SPIN_COUNT = "20000"
"""Turns that a waiting thread of GNU OpenMP spins for."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
ALLOCATOR = {_TRIM_THRESHOLD: 2**30, _MMAP_THRESHOLD: 2**28}
"""What `mallopt` sets, in bytes."""


def prepare_process() -> None:
    """Make this process fast on CPUs; call it before numpy and torch are loaded.

    - Threads that spin for long while they wait (GNU OpenMP's default is 300,000 turns) make small
      networks many times slower on a machine that has something else to do; threads that do not
      spin at all are slow alone.
    - glibc's allocator gives the memory of every larger tensor back to the system when it is freed,
      and the next one costs a fault for each page: as much time as the arithmetic of an
      element-wise operation. Freed memory is kept instead, up to 1 GiB.

    What the user has set in the environment stays.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    if sys.platform == "linux" and not _user_tunes_allocator():
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            for parameter, value in ALLOCATOR.items():
                library.mallopt(parameter, value)


def _user_tunes_allocator() -> bool:
    return any(
        name.startswith("MALLOC_")
        or (name == "GLIBC_TUNABLES" and "glibc.malloc." in value)
        or (name == "LD_PRELOAD" and "malloc" in value)
        for name, value in os.environ.items()
    )
