"""Places that `corruptions.py` damages, and what reads each of them."""

from __future__ import annotations

import re
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from robustness.small_content import (
    METHODS,
    Warnings,
    cached_in,
    command,
    difference,
    evaluation_words,
    run_small,
    save_weights,
    write_content,
)

import oodbench
from oodbench.errors import InterruptedRun, UserError
from oodbench.storage.locks import LOCK
from oodbench.training.state import TrainingState


@dataclass
class Reading:
    """What the readers of a damaged place said, and what was wrong without a word."""

    found: list[str] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)

    def ask(self, reader: str, call: Callable[[], str]) -> None:
        """Call a reader, which raises what it says and returns what is wrong."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wrong = call()
        except UserError as error:
            self.found.append(f"{reader}: {error.message}")
        except Exception as error:
            self.crashed.append(f"{reader}: {type(error).__name__}: {error}")
        else:
            if wrong:
                self.wrong.append(f"{reader}: {wrong}")

    @property
    def outcome(self) -> str:
        if self.crashed:
            return "CRASH"
        if self.wrong:
            return "SILENT"
        return "found" if self.found else "healed" if self.healed else "harmless"

    @property
    def words(self) -> str:
        return "; ".join([*self.crashed, *self.wrong, *self.found, *self.healed])


class FoundError(UserError):
    """A warning, an exit code: a reader has said that something is wrong."""


@dataclass
class Places:
    """Undamaged places, made once."""

    root: Path

    def __post_init__(self) -> None:
        self.content = write_content(self.root / "content", epochs=2)
        self.cache = self.root / "cache"
        self.others = self.root / "cache-of-others"  # so that the cache has one run's files alone
        self.run = self.root / "run"
        run_small(self.content, self.run, self.cache)
        self.reports: dict[Path, str] = {}
        self.made: set[str] = set()

    def report(self, folder: Path) -> str:
        """The report of an undamaged place."""
        if folder not in self.reports:
            said = command("report", folder, "--format", "json")
            assert said.code == 0, said.err
            self.reports[folder] = said.out
        return self.reports[folder]

    def place(self, name: str) -> Path:
        """The undamaged folder of a kind of place."""
        folder = self.run if name == "run" else self.root / name
        if name not in self.made and name != "run":
            getattr(self, f"_make_{name.replace('-', '_')}")(folder)
        self.made.add(name)
        return folder

    def _make_evaluation(self, folder: Path) -> None:
        weights = self.root / "resnet.pt"
        save_weights(weights)
        with cached_in(self.others):
            said = command(*evaluation_words(self.content / "data", weights, folder))
        assert said.code == 0, said.err

    def _make_suite(self, folder: Path) -> None:
        with cached_in(self.others):
            done = oodbench.run_suite("pair", out=folder, **self.options)
        assert done.complete, folder

    @property
    def options(self) -> dict[str, Any]:
        return {
            "plugins": [self.content],
            "data_root": self.content / "data",
            "seeds": 1,
            "methods": list(METHODS),
            "device": "cpu",
        }

    def _make_artifact(self, folder: Path) -> None:
        with cached_in(self.cache):
            said = command("fit", self.run, "Net+KNN", "--accept", 0.9, "--out", folder)
        assert said.code == 0, said.err
        self.decided = self.decisions(folder)

    def _make_checkpoint(self, folder: Path) -> None:
        shutil.copytree(self.cache, folder)

    def _make_decoded(self, folder: Path) -> None:
        shutil.copytree(self.cache, folder)

    def _make_half_trained(self, folder: Path) -> None:
        """A cache with the state of a training that was stopped after its first epoch."""
        keep = TrainingState.keep

        def stop(self: TrainingState, *arguments: Any) -> None:
            keep(self, *arguments)
            self.flush()
            raise KeyboardInterrupt

        shutil.copytree(self.cache / "decoded", folder / "decoded")
        with patch.object(TrainingState, "keep", stop), suppress(KeyboardInterrupt, InterruptedRun):
            run_small(self.content, self.root / "stopped", folder)
        assert list(folder.rglob("*.training")), list(folder.rglob("*"))

    def decisions(self, folder: Path) -> str:
        fitted = oodbench.load_fitted(folder, device="cpu")
        images = torch.from_numpy(np.random.default_rng(0).random((6, 3, 8, 8), dtype=np.float32))
        decisions = fitted.predict(images)
        return f"{decisions} {decisions.scores.tolist()} {fitted.threshold} {fitted.model.classes}"


def _read_results(
    places: Places,
    folder: Path,
    expected: Path,
    resume: Callable[[Warnings], Any],
    members: Sequence[str] = ("",),
) -> Reading:
    """`verify` and `report`, which change nothing, and then the command with --resume."""
    reading = Reading()

    def verify() -> str:
        said = command("verify", folder)
        if said.code != 0:
            lines = [*said.out.splitlines(), *said.err.splitlines()]
            raise FoundError(next((each.strip() for each in lines if _tells(each)), said.out))
        return ""

    def report() -> str:
        said = command("report", folder, "--format", "json")
        if said.code != 0:
            raise FoundError(said.err.splitlines()[0])
        return "" if said.out == places.report(expected) else "another report"

    def again() -> str:
        say = Warnings()
        resume(say)
        reading.healed += [f"resume: {text}" for text in say.said]
        pairs = ((folder / member, expected / member) for member in members)
        return next(filter(None, (difference(*pair) for pair in pairs)), "")

    reading.ask("verify", verify)
    reading.ask("report", report)
    if not reading.found:
        reading.ask("read", lambda: other_numbers(folder, expected))
    if not reading.crashed:
        reading.ask("resume", again)
    return reading


def _tells(line: str) -> bool:
    return line.startswith(("error: ", "  NOT")) or (line.startswith("  ") and "check" not in line)


def other_numbers(folder: Path, expected: Path) -> str:
    """Files whose numbers a person would read wrongly; content is read by programs alone."""
    for path in sorted(expected.rglob("*")):
        name = path.relative_to(expected)
        if path.is_dir() or name.parts[0] == "content" or path.name == LOCK:
            continue
        damaged = folder / name
        if not damaged.exists() or damaged.read_bytes() == path.read_bytes():
            continue  # nobody reads a wrong number in a report that is not there
        if path.suffix == ".png":
            return _other_pixels(damaged, path)
        got, wanted = (_numbers(each) for each in (damaged, path))
        if len(got) != len(wanted) or not np.allclose(got, wanted, rtol=1e-9, atol=1e-9):
            return f"other numbers in {name}"
    return ""


def _other_pixels(damaged: Path, path: Path) -> str:
    try:
        with Image.open(damaged) as got, Image.open(path) as wanted:
            return "" if np.array_equal(np.asarray(got), np.asarray(wanted)) else "another picture"
    except (OSError, SyntaxError, ValueError) as error:
        raise FoundError(f"no picture: {error}") from error


def _numbers(path: Path) -> list[float]:
    text = path.read_bytes().decode(errors="replace")
    return [float(each) for each in re.findall(r"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", text)]


def read_run(places: Places, folder: Path) -> Reading:
    def resume(say: Warnings) -> None:
        run_small(places.content, folder, places.cache, resume=True, progress=say)

    return _read_results(places, folder, places.run, resume)


def read_evaluation(places: Places, folder: Path) -> Reading:
    def resume(say: Warnings) -> None:
        with cached_in(places.others):
            said = command("evaluate", "--resume", "--out", folder)
        if said.code != 0:
            raise FoundError(said.err.splitlines()[-1])
        say.said += [line for line in said.err.splitlines() if "warning" in line]

    return _read_results(places, folder, places.place("evaluation"), resume)


def read_suite(places: Places, folder: Path) -> Reading:
    def resume(say: Warnings) -> None:
        with cached_in(places.others):
            oodbench.run_suite("pair", out=folder, resume=True, progress=say, **places.options)

    return _read_results(places, folder, places.place("suite"), resume, ("small", "other"))


def read_artifact(places: Places, folder: Path) -> Reading:
    reading = Reading()
    reading.ask(
        "load_fitted",
        lambda: "" if places.decisions(folder) == places.decided else "other decisions",
    )
    return reading


def read_cache(places: Places, folder: Path) -> Reading:
    reading, out = Reading(), places.root / "fresh"
    shutil.rmtree(out, ignore_errors=True)
    before = _contents(folder)

    def fresh() -> str:
        say = Warnings()
        run_small(places.content, out, folder, progress=say)
        reading.healed += say.said
        if any(_contents(folder).get(name) != content for name, content in before.items()):
            reading.healed.append("replaced")
        return difference(out, places.run)

    reading.ask("run", fresh)
    return reading


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


READERS: dict[str, tuple[str, Callable[[Places, Path], Reading]]] = {
    "run": ("**/*", read_run),
    "evaluation": ("**/*", read_evaluation),
    "suite": ("**/*", read_suite),
    "artifact": ("*", read_artifact),
    "checkpoint": ("checkpoints/*.safetensors", read_cache),
    "half-trained": ("checkpoints/*.training", read_cache),
    "decoded": ("decoded/*/*", read_cache),
}
"""Kind of place -> pattern of the files that are damaged, and what reads them."""
