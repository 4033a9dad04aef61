"""Why a method failed, in one line."""

from __future__ import annotations

import linecache
from pathlib import Path
from types import FrameType, TracebackType

from oodbench.engine.passes.contract import DetectorError, TuningError
from oodbench.errors import UnsuitableError, UserError
from oodbench.plugins.detector_modules import is_content
from oodbench.plugins.imported_files import is_installed


class ReportedError(Exception):
    """An error of a method that came up in another process; the message is its reason."""


class ReportedUnsuitableError(ReportedError, UnsuitableError):
    """A reason for which a detector cannot run on a network, found in another process."""


def reported(error: Exception) -> ReportedError:
    """An error without its traceback, for another process or a file."""
    kind = ReportedUnsuitableError if isinstance(error, UnsuitableError) else ReportedError
    return kind(reason_of(error))


def reason_of(error: BaseException) -> str:
    """The reason of a failure in one line, with the place in the detector's file.

    Messages of oodbench's own errors are returned unchanged. Other exceptions get their type before
    the message, and after it the file and line of the user's code: the line of the detector's file,
    then the line of a helper file if the exception was raised there.
    """
    line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, DetectorError | TuningError | UserError | ReportedError):
        return line
    frames = list(_frames(error.__traceback__))
    own = [place for place in frames if _is_users(place[0])]
    if not own and type(error) is ValueError:
        return line
    own = own or _contents(frames)
    said = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return f"{said} ({_places(own)})" if own else said


def place_of(error: BaseException) -> tuple[str, str]:
    """File and line of the detector's code that raised an error, and the text of that line.

    Returns:
        As in ("detectors/mine.py, line 12", "return self.mean"); two empty texts if it was raised
        elsewhere.
    """
    return _place(list(_frames(error.__traceback__)))


def place_within(frame: FrameType | None) -> tuple[str, str]:
    """As `place_of`, for the code that runs in a frame or that called it."""
    frames: list[tuple[FrameType, int]] = []
    while frame is not None:
        frames.insert(0, (frame, frame.f_lineno))
        frame = frame.f_back
    return _place(frames)


def _place(frames: list[tuple[FrameType, int]]) -> tuple[str, str]:
    own = [place for place in frames if _is_users(place[0])] or _contents(frames)
    if not own:
        return "", ""
    frame, line = own[-1]
    file = frame.f_code.co_filename
    text = linecache.getline(file, line, frame.f_globals).strip()
    return f"{_shown(file)}, line {line}", text


def _contents(frames: list[tuple[FrameType, int]]) -> list[tuple[FrameType, int]]:
    """The frames of detectors' files and of their helpers."""
    return [place for place in frames if is_content(_module(place[0]))]


def _frames(trace: TracebackType | None) -> list[tuple[FrameType, int]]:
    """Frames from the engine's down to the one that raised, each with its line."""
    found = []
    while trace is not None:
        found.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return found


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_users(frame: FrameType) -> bool:
    """Whether a frame is neither of oodbench nor of an installed package."""
    module = _module(frame)
    if is_content(module):
        return is_content(module, built_in=False)
    file = Path(frame.f_code.co_filename)
    return module.split(".")[0] != "oodbench" and not is_installed(file)


def _places(frames: list[tuple[FrameType, int]]) -> str:
    """The last line in the first file, and the last line in the last file."""
    first = frames[0][0].f_code.co_filename
    places = {}
    for frame, line in frames:
        file = frame.f_code.co_filename
        if file == first or (frame, line) == frames[-1]:
            places[file] = f"{_shown(file)}, line {line}"
    return "; ".join(places.values())


def _shown(file: str) -> str:
    """A file's name with the name of its folder, which do not depend on the machine."""
    path = Path(file)
    if "ipykernel" in file:
        return "a notebook cell"
    return f"{path.parent.name}/{path.name}" if path.is_absolute() else file
