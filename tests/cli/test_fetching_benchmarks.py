"""Everything that a benchmark needs: fetched with one command, or listed on a machine offline."""

from __future__ import annotations

import errno
import io
import json
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.commands import Command
from helpers.servers import Server, send, serving
from PIL import Image

from oodbench import models
from oodbench.data.store import download, google_drive

LAYOUT = "digits_resnet8_base_e1_lr0.1_default/s{}/best.ckpt"
"""OpenOOD's, of three checkpoints in one archive."""

REASON = "published on Google Drive without a checksum"
DRIVE = "/uc?id=1ckpt"
CONFIRMED = "/download?id=1ckpt&confirm=t&uuid=5"
PAGE = """<html><title>Google Drive - Virus scan warning</title><form id="download-form"
action="/download"><input type="hidden" name="id" value="1ckpt"><input type="hidden" name="confirm"
value="t"><input type="hidden" name="uuid" value="5"></form></html>"""


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def images(seed: int) -> bytes:
    """An archive with eight gray images."""
    files = {}
    for index in range(8):
        stream = io.BytesIO()
        pixels = np.random.default_rng([seed, index]).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, "PNG")
        files[f"set/{index}.png"] = stream.getvalue()
    return zipped(files)


def checkpoints() -> dict[str, bytes]:
    """Three plain state dicts, as OpenOOD publishes them."""
    files = {}
    for seed in range(3):
        torch.manual_seed(seed)
        stream = io.BytesIO()
        torch.save(dict(models.create("resnet8", 10, in_channels=1).state_dict()), stream)
        files[LAYOUT.format(seed)] = stream.getvalue()
    return files


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(google_drive, "HOSTS", {"127.0.0.1"})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        running.behaviors[f"{DRIVE}&export=download"] = lambda handler: send(
            handler, PAGE.encode(), kind="text/html; charset=utf-8"
        )
        running.files[CONFIRMED] = zipped(checkpoints())
        yield running


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    path = folder / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        yaml.safe_dump({"schema_version": 1, "name": path.stem, **content}, sort_keys=False)
    )


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Path:
    """The data root; beside it a benchmark and a suite with two data sets and three checkpoints.

    One data set has a published checksum; the checkpoints are in one archive.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OODBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OODBENCH_PLUGINS", str(tmp_path))
    monkeypatch.delenv("OODBENCH_OFFLINE", raising=False)
    for seed, name in enumerate(("near", "far")):
        content = images(seed)
        server.files[f"/{name}.zip?export=download"] = content
        file: dict[str, Any] = {
            "name": f"{name}.zip",
            "urls": [f"{server.url}/{name}.zip"],
            "unpacked_limit": 100_000,
        }
        if name == "near":
            file |= {"sha256": sha256(content).hexdigest(), "size": len(content)}
        else:
            file["unverified"] = REASON
        manifest = {
            "title": name.title(),
            "summary": "For tests.",
            "kind": "folder",
            "files": [file],
            "paths": {"test": "set"},
            "shape": [1, 8, 8],
            "splits": {"test": 8},
            "license": "none",
            "citation": "none",
        }
        write(tmp_path / "data_manifests", f"tiny-{name}", manifest)
    archive = {
        "name": "digits_res8.zip",
        "urls": [f"{server.url}{DRIVE}"],
        "unverified": REASON,
        "unpacked_limit": 10_000_000,
    }
    model = {
        "network": "resnet8",
        "head": "softmax",
        "normalization": {"mean": [0.3], "std": [0.3]},
        "checkpoint": [{"files": [archive], "path": LAYOUT.format(seed)} for seed in range(3)],
    }
    benchmark = {
        "version": 1,
        "title": "Tiny",
        "summary": "For tests",
        "id": "digits",
        "ood": {"near": ["near"], "far": ["far"]},
        "datasets": {"near": "tiny-near", "far": "tiny-far"},
        "models": {"R": model},
        "methods": {"msp": {"model": "R", "detector": "baseline"}},
        "tuning": {"protocol": "none"},
        "evaluation": {"resamples": 100},
    }
    write(tmp_path / "benchmarks", "tiny", benchmark)
    members = {"tiny": {"network": "R", "id": "digits"}}
    suite = {"version": 1, "title": "All", "summary": "For tests", "members": members}
    write(tmp_path / "benchmarks", "tiny-suite", suite)
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["tiny", "tiny-suite"])
def test_all_of_a_benchmark_is_fetched(
    root: Path, server: Server, command: Command, name: str
) -> None:
    done = command("data", "fetch", name)
    assert done.code == 0, done.err
    known = (root / "tiny-near/near.zip").stat().st_size / 1e6
    assert done.out.startswith(
        f"3 files to download, {known:,.1f} MB and 2 of unknown size, to {root} ("
    )
    for seed in range(3):
        (path,) = root.glob(f"checkpoints/*/unpacked/content/{LAYOUT.format(seed)}")
        assert f"{LAYOUT.format(seed)}: {path}" in done.err
    asked = [path for path, _ in server.requests]
    assert asked.count(CONFIRMED) == 1, "one archive serves three checkpoints"
    # Nothing is left to do.
    again = command("data", "fetch", name)
    assert again.code == 0
    assert again.out == ""
    assert len(server.requests) == len(asked)


@pytest.mark.parametrize(
    "arguments", [("data", "fetch", "tiny"), ("run", "tiny"), ("run", "tiny-suite")]
)
@pytest.mark.parametrize("forbidden", [True, False])
def test_a_machine_offline(
    root: Path,
    server: Server,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    forbidden: bool,
) -> None:
    """One list of all that is missing; what is placed by it is used."""
    near, far, weights = (
        server.files[path]
        for path in ("/near.zip?export=download", "/far.zip?export=download", CONFIRMED)
    )
    if forbidden:
        monkeypatch.setenv("OODBENCH_OFFLINE", "1")
    else:
        refuse_connections(root.parent)
    done = command(*arguments, *(["--out", root.parent / "out"] if "run" in arguments else []))
    assert done.code == 2
    reason = "OODBENCH_OFFLINE forbids downloads" if forbidden else "no connection ("
    assert reason in done.err
    assert done.err.count("error: ") == 1
    assert "Traceback" not in done.err
    listed = done.out[done.out.index("Missing: ") :]
    assert listed.startswith("Missing: 3 files. Download them on another machine, and put each ")
    target = root / "tiny-near/near.zip"
    assert (
        f"near.zip  ({len(near):,} bytes, sha256 {sha256(near).hexdigest()})\n  from  http://127."
    ) in listed
    assert f"/near.zip\n  to    {target}\n  for   data set 'tiny-near'\n" in listed
    assert "far.zip  (size unknown, no published checksum)" in listed
    all_three = ", ".join(f"checkpoint '{LAYOUT.format(seed)}'" for seed in range(3))
    assert f"{DRIVE}\n  to    " in listed
    folder = LAYOUT.partition("/")[0]
    assert listed.endswith(
        f"/digits_res8.zip\n  else  results/{folder}  in {root}\n  for   {all_three}\n"
    )
    places = [line.split()[1] for line in listed.splitlines() if line.startswith("  to ")]
    for place, content in zip(places, (near, far, weights), strict=True):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_bytes(content)
    assert command("data", "fetch", "tiny").code == 0


def refuse_connections(folder: Path) -> None:
    """Replace the server in all files by an address that refuses connections."""
    for path in [*folder.glob("*/*.yaml")]:
        lines = path.read_text().splitlines()
        lines = [
            f"{line.partition('http://')[0]}http://127.0.0.1:9/{line.rpartition('/')[2]}"
            if "http://" in line
            else line
            for line in lines
        ]
        path.write_text("\n".join(lines))


def test_a_file_that_cannot_be_had_does_not_stop_the_others(
    root: Path, server: Server, command: Command
) -> None:
    del server.files["/near.zip?export=download"]
    done = command("data", "fetch", "tiny")
    assert done.code == 3
    assert done.err.count("error: ") == 1
    assert "data set 'tiny-near': cannot download near.zip" in done.err
    assert "Missing: 1 file. " in done.out
    assert (root / "tiny-far/far.zip").is_file()
    assert list(root.glob("checkpoints/*/digits_res8.zip"))


@pytest.mark.parametrize(
    "place", ["", "results", "results/checkpoints", "../results", "checkpoints"]
)
def test_checkpoints_that_the_user_has(
    root: Path, server: Server, command: Command, place: str
) -> None:
    """As OpenOOD's download script stores them; nothing is downloaded."""
    for name, content in checkpoints().items():
        (root / place / name).parent.mkdir(parents=True, exist_ok=True)
        (root / place / name).write_bytes(content)
    done = command("data", "fetch", "tiny")
    assert done.code == 0
    assert done.out.startswith("2 files to download")
    assert CONFIRMED not in [path for path, _ in server.requests]


def test_an_archive_with_a_folder_around_everything(
    root: Path, server: Server, command: Command
) -> None:
    inside = {f"digits_res8/{name}": content for name, content in checkpoints().items()}
    server.files[CONFIRMED] = zipped(inside | {"__MACOSX/._best.ckpt": b""})
    assert command("data", "fetch", "tiny").code == 0


def test_what_is_not_verified_is_named(root: Path, command: Command, tmp_path: Path) -> None:
    """In `run.json` and once in the report of a run."""
    done = command("run", "tiny", "--seeds", "2", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert text.count("not verified against a published checksum") == 1
    assert "as none is known: far.zip, digits_res8.zip; run.json has the checksums" in text
    described = json.loads((tmp_path / "out/run.json").read_text())
    far, weights = described["unverified_files"]
    assert far["of"] == "far"
    assert far["name"] == "far.zip"
    assert far["sha256"] == sha256((root / "tiny-far/far.zip").read_bytes()).hexdigest()
    assert far["source"].endswith("/far.zip")
    assert far["reason"] == REASON
    assert (weights["of"], weights["name"]) == ("R", "digits_res8.zip")
    assert weights["source"].endswith(DRIVE)
    assert len(weights["sha256"]) == 64
    assert command("verify", tmp_path / "out").code == 0
    verified = command("data", "verify", "tiny-far")
    assert "as first fetched, not verified against a published checksum: far.zip" in verified.err


QUOTA = """<html><title>Google Drive - Quota exceeded</title><p class="uc-error-subcaption">Too many
users have viewed or downloaded this file recently.</p></html>"""


@pytest.mark.parametrize(
    ("content", "said", "hint"),
    [
        (
            QUOTA.encode(),
            "it sent a web page instead of the file.",
            "or download http://",
        ),
        (
            zipped(checkpoints())[:5000],
            "it sent the content of an incomplete zip archive.",
            "or download http://",
        ),
        (
            zipped({"../outside": b"x"}),
            "Refused to unpack {path}: its member '../outside' lies outside of the folder it is "
            "unpacked to.",
            "delete {path} and {path}.first-fetch.json to fetch it again.",
        ),
        (
            zipped({"s0/best.ckpt": b"x"}),
            "checkpoint '" + LAYOUT.format(0) + "': digits_res8.zip has no such file.",
            "Its content is in ",
        ),
        (
            zipped({name: content[:500] for name, content in checkpoints().items()}),
            "/s0/best.ckpt is truncated, damaged or no checkpoint",
            "",
        ),
    ],
    ids=["page", "truncated", "outside", "other layout", "truncated checkpoint"],
)
def test_bad_archives(
    root: Path, server: Server, command: Command, content: bytes, said: str, hint: str
) -> None:
    server.files[CONFIRMED] = content
    done = command("run", "tiny", "--seeds", "1", "--out", root.parent / "out")
    assert done.code == 2
    (path, *_) = (*root.glob("checkpoints/*/digits_res8.zip"), "")
    message, last = done.err.strip().splitlines()[-2:]
    assert message.startswith("error: models.R: ")
    assert said.format(path=path) in message
    assert hint.format(path=path) in last


def test_a_full_disk_while_unpacking(
    root: Path, server: Server, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The downloaded archive stays; the next attempt goes on from there."""
    original = Path.open

    def full(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "best.ckpt" and "wb" in arguments:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        done = command("data", "fetch", "tiny")
    assert done.code == 3
    assert "error: No space left on the disk while writing " in done.err
    assert "/s0/best.ckpt." in done.err
    assert not list(root.glob("checkpoints/*/unpacked"))
    assert command("data", "fetch", "tiny").code == 0
    assert [path for path, _ in server.requests].count(CONFIRMED) == 1


def test_names(root: Path, command: Command) -> None:
    done = command("data", "fetch", "tinny")
    assert done.code == 2
    assert done.err.startswith("error: There is no data set, benchmark or suite 'tinny'.\nDid you ")
    assert "'tiny'" in done.err
