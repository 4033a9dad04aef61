"""The commands that `kill_and_resume.py` kills: words, what each begins with, what it writes.

All paths are the same in every trial, so that a command writes the same files.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from robustness.forked_processes import command_of, forked
from robustness.small_content import (
    METHODS,
    command_line,
    evaluation_words,
    save_weights,
    write_content,
    write_manifest,
)

EPOCHS = 8
"""Of a training: enough for a kill to hit it, and the writing of its state."""

DECODED, FETCHED = 1500, 90
"""Images of the data set that is decoded, and of the one that is downloaded."""

ARCHIVE = "shapes.tar"

Words = tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A command, and what surrounds it.

    Attributes:
        command: its name in the table.
        variant: what else it begins with, or reads.
        words: of the command line.
        again: words that are added when it is given again.
        begins_with: name in the trial's folder -> folder that is copied there.
        runs: names of the run directories that it writes, which `verify` checks.
    """

    command: str
    variant: str
    words: Words
    again: Words = ()
    begins_with: Mapping[str, Path] = field(default_factory=dict)
    runs: tuple[str, ...] = ()


class Ground:
    """What the commands work on; each part is made in forked processes when it is needed.

    Args:
        root: folder for everything.
        server: address of a server that has `archive`.
    """

    def __init__(self, root: Path, server: str, archive: bytes) -> None:
        self.root, self.trial = root, root / "trial"
        self.content = write_content(root / "content", epochs=EPOCHS)
        self.cache = root / "cache"
        for kind in ("parts", "whole"):
            file = {"name": ARCHIVE, "urls": [f"{server}/{kind}/{ARCHIVE}"]}
            file |= {"unpacked_limit": 2 * len(archive)}
            known = {"sha256": hashlib.sha256(archive).hexdigest(), "size": len(archive)}
            shape = (3, 64, 64)
            options = {"path": "shapes", "shape": shape, "count": FETCHED}
            write_manifest(self.content, kind, files=[file | known], **options)
            unknown = {"unverified": "the server publishes none"}
            write_manifest(self.content, f"{kind}-unverified", files=[file | unknown], **options)

    def begin(self, case: Case) -> None:
        """Empty the trial's folder, and put there what a case begins with."""
        shutil.rmtree(self.trial, ignore_errors=True)
        self.trial.mkdir()
        for name, folder in case.begins_with.items():
            shutil.copytree(folder, self.trial / name)

    def make(self, name: str, words: Words) -> Path:
        """A folder that a command has written, beside the trials."""
        done = forked(command_of(words, self.cache), self.root / "made")
        if done.code not in (0, 1):  # 1: a finding
            raise SystemExit(f"{' '.join(words)}: exit code {done.code}\n{done.said}")
        return self.root / name

    @cached_property
    def run(self) -> Path:
        return self.make("run", self.run_words(self.root / "run"))

    @cached_property
    def head(self) -> Path:
        """A run to compare with: of two seeds."""
        return self.make("head", (*self.run_words(self.root / "head"), "--seeds", "2"))

    @cached_property
    def artifact(self) -> Path:
        return self.make("artifact", self.fit_words("Net+KNN", self.root / "artifact"))

    @cached_property
    def weights(self) -> Path:
        path = self.root / "resnet.pt"
        done = forked(lambda: save_weights(path), self.root / "made")
        assert done.code == 0, done.said
        return path

    @cached_property
    def many_images(self) -> None:
        """The data set "many", which takes a while to decode."""
        draw = np.random.default_rng(4)
        folder = self.content / "data" / "many" / "test"
        folder.mkdir(parents=True)
        for index in range(DECODED):
            (folder / f"{index:04}.png").write_bytes(_png(draw, 48))
        write_manifest(self.content, "many", path="test", shape=(3, 48, 48), count=DECODED)

    # --- words -----------------------------------------------------------------------------------

    def run_words(self, out: Path) -> Words:
        return tuple(command_line(self.content, out)[3:])

    def fit_words(self, method: str, out: Path) -> Words:
        return ("fit", str(self.run), method, "--out", str(out), "--accept", "0.9", *self.where)

    @property
    def where(self) -> Words:
        """Options of commands that read the content."""
        data = str(self.content / "data")
        return ("--plugins", str(self.content), "--data-root", data, "--device", "cpu")


def _png(draw: np.random.Generator, side: int) -> bytes:
    content = io.BytesIO()
    pixels = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "png", compress_level=1)
    return content.getvalue()


def archive_content() -> bytes:
    """A tar file of images that is sent by the server."""
    draw, content = np.random.default_rng(3), io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for index in range(FETCHED):
            image = _png(draw, 64)
            about = tarfile.TarInfo(f"shapes/{index:02}.png")
            about.size = len(image)
            archive.addfile(about, io.BytesIO(image))
    return content.getvalue()


# --- commands ------------------------------------------------------------------------------------

RESUME = ("--resume",)


def _run(ground: Ground, variant: str, *more: str, warm: bool) -> list[Case]:
    words = (*ground.run_words(ground.trial / "run"), *more)
    if warm:
        assert ground.run  # it fills the cache
    begins = {"cache": ground.cache} if warm else {}
    return [Case("run", variant, words, RESUME, begins, ("run",))]


def _suite(ground: Ground) -> list[Case]:
    words = ("run", "pair", *ground.where, "--seeds", "1", "--methods", ",".join(METHODS))
    out = ground.trial / "suite"
    return [Case("run", "suite", (*words, "--out", str(out)), RESUME, {}, ("suite",))]


def _train(ground: Ground) -> list[Case]:
    assert ground.run
    words = ("train", "small", "--seed", "0", *ground.where)
    return [Case("train", "", words, (), {"cache/decoded": ground.cache / "decoded"})]


def _fetch(ground: Ground) -> list[Case]:
    words = ("--plugins", str(ground.content), "--data-root", str(ground.trial / "data"))
    return [
        Case("data fetch", name, ("data", "fetch", name, *words))
        for name in ("parts", "whole", "parts-unverified", "whole-unverified")
    ]


def _decode(ground: Ground) -> list[Case]:
    _ = ground.many_images
    words = ("data", "fetch", "many", *ground.where[:4])
    return [Case("decoding", "", words)]


def _evaluate(ground: Ground) -> list[Case]:
    words = evaluation_words(ground.content / "data", ground.weights, ground.trial / "run")
    return [Case("evaluate", "", words, RESUME, {}, ("run",))]


def _fit(ground: Ground) -> list[Case]:
    words = ground.fit_words("Net+KNN", ground.trial / "artifact")
    cache = {"cache": ground.cache}
    other = ground.make("other", ground.fit_words("Net+MSP", ground.root / "other"))
    return [
        Case("fit", "new folder", words, (), cache),
        Case("fit", "over another", words, (), cache | {"artifact": other}),
    ]


def _score(ground: Ground) -> list[Case]:
    data, trial = ground.content / "data", ground.trial
    places = (str(data / "colors" / "test"), str(data / "noise" / "test"))
    words = ("score", str(ground.artifact), *places, "--out", str(trial / "scores.csv"))
    words += ("--explain", str(trial / "page.html"), "--device", "cpu", "--workers")
    return [Case("score", f"{count} workers", (*words, count)) for count in ("0", "1")]


def _report(ground: Ground) -> list[Case]:
    words = ("report", str(ground.run), "--format", "html", "--out", str(ground.trial / "a.html"))
    return [Case("report", "", (*words, "--figures", str(ground.trial / "figures")))]


def _leaderboard(ground: Ground) -> list[Case]:
    words = ("leaderboard", str(ground.run), str(ground.head), "--format", "html")
    return [Case("leaderboard", "", (*words, "--out", str(ground.trial / "a.html")))]


def _compare(ground: Ground) -> list[Case]:
    trial = ground.trial
    words = ("compare", str(ground.run), str(ground.head), "--out", str(trial / "a.html"))
    badges = ("--badge", str(trial / "badge.svg"), "--badge-json", str(trial / "badge.json"))
    return [Case("compare", "", (*words, *badges))]


def _site(ground: Ground) -> list[Case]:
    site = str(ground.trial / "site")
    words = ("site", str(ground.run), str(ground.head), "--out", site)
    old = ground.make("site", ("site", str(ground.head), "--out", str(ground.root / "site")))
    return [
        Case("site", "new folder", words),
        Case("site", "over another", words, (), {"site": old}),
    ]


CASES: Mapping[str, Callable[[Ground], list[Case]]] = {
    "run fresh": lambda ground: _run(ground, "fresh", warm=False),
    "run cached": lambda ground: _run(ground, "cached", warm=True),
    "run shards": lambda ground: _run(ground, "shards", "--shard-images", "16", warm=True),
    "run suite": _suite,
    "train": _train,
    "data fetch": _fetch,
    "decoding": _decode,
    "evaluate": _evaluate,
    "fit": _fit,
    "score": _score,
    "report": _report,
    "leaderboard": _leaderboard,
    "compare": _compare,
    "site": _site,
}
"""Name in the table -> cases, which are tried in turn."""
