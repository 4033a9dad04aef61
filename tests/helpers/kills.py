"""Processes that are killed at a certain moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def killed_at(function: str, call: Callable[[], object]) -> None:
    """Call something in a forked process, which is killed when it calls a function of `os`."""
    process = os.fork()
    if process == 0:
        try:

            def stop(*_: Any, **__: Any) -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            setattr(os, function, stop)
            call()
        finally:
            os._exit(1)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status), f"it does not call os.{function}"
