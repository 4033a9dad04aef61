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
    """Python's debugger; its command `quit` interrupts the run instead of failing it."""

    def trace_dispatch(self, frame: FrameType, event: str, arg: Any) -> Any:
        """As the base class."""
        try:
            return super().trace_dispatch(frame, event, arg)
        except bdb.BdbQuit:
            raise KeyboardInterrupt from None


@contextmanager
def breakpoints(make_room: Callable[[], None]) -> Iterator[None]:
    """Inside this context, `breakpoint()` clears the terminal before the debugger starts.

    The user's choice of a debugger (PYTHONBREAKPOINT, `sys.breakpointhook`) is kept.

    Args:
        make_room: called before the debugger starts; removes the progress bar.
    """
    before = sys.breakpointhook
    chosen = before is not sys.__breakpointhook__ or bool(os.environ.get("PYTHONBREAKPOINT"))

    def hook(*args: Any, **named: Any) -> Any:
        if os.environ.get("PYTHONBREAKPOINT") == "0":
            return None
        make_room()
        if chosen:
            return before(*args, **named)
        # `pdb.set_trace` would stop here instead of in the caller.
        return _Debugger().set_trace(sys._getframe(1))

    sys.breakpointhook = hook
    try:
        yield
    finally:
        sys.breakpointhook = before
