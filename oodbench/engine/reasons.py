"""Why a method failed, in one line."""

from __future__ import annotations

import linecache
from pathlib import Path
from types import FrameType, TracebackType

from oodbench.engine.passes.contract import DetectorError, TuningError
from oodbench.errors import UserError
from oodbench.plugins.detector_modules import is_content, is_installed


def reason_of(error: BaseException) -> str:
    """One line of what went wrong, and where in the detector's file.

    What oodbench writes to be read stands as it is. Other exceptions have their type before the
    message, and after it the file and line of the user's code that raised them: the line of the
    detector's file, then that of a helper if the exception comes from there.
    """
    line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, DetectorError | TuningError | UserError):
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
    """The same of the code that runs in a frame, or was called from the detector's code."""
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
    """The last line in the first of the files, and the last line of all."""
    first = frames[0][0].f_code.co_filename
    places = {}
    for frame, line in frames:
        file = frame.f_code.co_filename
        if file == first or (frame, line) == frames[-1]:
            places[file] = f"{_shown(file)}, line {line}"
    return "; ".join(places.values())


def _shown(file: str) -> str:
    """A file's name with its folder's: the whole path would differ from machine to machine."""
    path = Path(file)
    if "ipykernel" in file:
        return "a notebook cell"
    return f"{path.parent.name}/{path.name}" if path.is_absolute() else file
