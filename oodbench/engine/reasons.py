"""Why a method failed, in one line."""

from __future__ import annotations

from oodbench.engine.scoring import DetectorError
from oodbench.engine.tuning import TuningError
from oodbench.errors import UserError


def reason_of(error: Exception) -> str:
    """One line of what went wrong: what was written to be read as it is, the rest with its type."""
    line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, DetectorError | TuningError | UserError) or type(error) is ValueError:
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
