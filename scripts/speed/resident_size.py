"""The resident size of this process, in bytes."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def largest_resident() -> int:
    """The largest so far."""
    import resource  # not on Windows

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


def resident() -> int:
    """The present one, where it can be had: what came before must not hide what is to come."""
    file = Path("/proc/self/statm")
    if file.exists():
        return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return largest_resident()
