"""Runs in processes of their own, to be killed and interrupted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path


def start(command: Sequence[str], cache: Path) -> subprocess.Popen[str]:
    """Start a command, in a process group of its own.

    Args:
        command: with its arguments.
        cache: folder of its cache.
    """
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OODBENCH_CACHE": str(cache)},
        start_new_session=True,
    )
