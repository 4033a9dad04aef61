"""`breakpoint()` in a detector while a run shows its progress."""

from __future__ import annotations

import bdb
import os
import pdb
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class _Debugger(pdb.Pdb):
    """Python's debugger; to quit it interrupts the run, and does not count as a failure."""

    def trace_dispatch(self, frame: FrameType, event: str, arg: Any) -> Any:
        """As the base class."""
        try:
            return super().trace_dispatch(frame, event, arg)
        except bdb.BdbQuit:
            raise KeyboardInterrupt from None


@contextmanager
def breakpoints(make_room: Callable[[], None]) -> Iterator[None]:
    """While it lasts, `breakpoint()` has the terminal for itself.

    A debugger of the user's choice (PYTHONBREAKPOINT, `sys.breakpointhook`) is kept.

    Args:
        make_room: called before the debugger starts; takes a progress bar off the terminal.
    """
    before = sys.breakpointhook
    chosen = before is not sys.__breakpointhook__ or bool(os.environ.get("PYTHONBREAKPOINT"))

    def hook(*args: Any, **named: Any) -> Any:
        if os.environ.get("PYTHONBREAKPOINT") == "0":
            return None
        make_room()
        if chosen:
            return before(*args, **named)
        # Not `pdb.set_trace`, which would stop in this function and not in the caller's.
        return _Debugger().set_trace(sys._getframe(1))

    sys.breakpointhook = hook
    try:
        yield
    finally:
        sys.breakpointhook = before
