"""Large splits: decoded by worker processes while they are read, with the pixels of the cache."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiers import by_default
from PIL import Image

from oodbench.data.decoding_choice import is_large, is_streamed
from oodbench.data.decoding_workers import worker_count
from oodbench.data.loaded_splits import LoadedSplits
from oodbench.data.store.locations import decoded_root
from oodbench.data.streamed_split import StreamedSplit
from oodbench.errors import UserError
from oodbench.specs import DatasetSpec

COUNT, SIDE = 37, 6


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OODBENCH_DATA", raising=False)
    monkeypatch.setenv("OODBENCH_WORKERS", "2")
    monkeypatch.setattr("oodbench.data.decoding_choice.ALWAYS_CACHED", 0)


def spec(**update: Any) -> DatasetSpec:
    values = {
        "schema_version": 1,
        "name": "toy",
        "title": "Toy",
        "summary": "Toy.",
        "kind": "folder",
        "paths": {"test": "test"},
        "shape": [3, SIDE, SIDE],
        "resize": {"short_side": 8},
        "num_classes": 3,
        "splits": {"test": COUNT},
        "license": "none",
        "citation": "none",
    }
    return DatasetSpec.model_validate({**values, **update})


def write_images(root: Path, form: str = "jpg") -> list[Path]:
    """The images that `spec` describes, of several sizes, in order."""
    generator, paths = np.random.default_rng(0), []
    for label in range(3):
        for index in range(COUNT // 3 + (label < COUNT % 3)):
            path = root / f"toy/test/{'abc'[label]}/{index:02}.{form}"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (9 + index % 5, 8 + index % 3, 3)
            Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(path)
            paths.append(path)
    return paths


def stores(
    root: Path, manifest: DatasetSpec | None = None, most: int | None = None
) -> tuple[LoadedSplits, LoadedSplits]:
    """One that streams, and one that caches."""
    specs = {"toy": manifest or spec()}
    once = {("toy", "test"): 1}
    return (
        LoadedSplits(specs, root, most=most, reads=once, batch_size=10),  # type: ignore[arg-type]
        LoadedSplits(specs, root, most=most),
    )


def streamed(store: LoadedSplits) -> StreamedSplit:
    found = store.images("toy", "test")
    assert isinstance(found, StreamedSplit)
    return found


def read(images: StreamedSplit) -> tuple[np.ndarray, Any]:
    batches = list(images.batches())
    assert [len(batch) for batch, _ in batches[:-1]] == [10] * (len(batches) - 1)
    assert 1 <= len(batches[-1][0]) <= 10
    labels = [found for _, found in batches]
    return (
        np.concatenate([batch.numpy() for batch, _ in batches]),
        None if labels[0] is None else np.concatenate(labels),
    )


@pytest.mark.parametrize("workers", ["0", "1", "3"])
def test_images_are_those_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("OODBENCH_WORKERS", workers)
    write_images(tmp_path)
    stream, cache = stores(tmp_path)
    images = streamed(stream)
    assert stream.digests("toy", "test") is None
    assert stream.pixels() == {}
    for _ in range(2):
        pixels, labels = read(images)
        expected = cache.get("toy", "test")
        np.testing.assert_array_equal(pixels, expected.images)
        np.testing.assert_array_equal(labels, expected.labels)
        assert len(images) == COUNT
    assert images.fingerprint == expected.fingerprint()
    assert stream.pixels() == cache.pixels() == {"toy": {"test": expected.fingerprint()}}
    np.testing.assert_array_equal(stream.digests("toy", "test"), cache.digests("toy", "test"))
    first, some = images.first()
    np.testing.assert_array_equal(first.numpy(), expected.images[:10])
    np.testing.assert_array_equal(some, expected.labels[:10])


@pytest.mark.parametrize("workers", ["0", "1"])
def test_no_random_number_is_drawn(
    workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detectors that draw some get those of a run that caches."""
    monkeypatch.setenv("OODBENCH_WORKERS", workers)
    write_images(tmp_path)
    before = torch.get_rng_state()
    assert len(list(streamed(stores(tmp_path)[0]).batches())) == 4
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_stored(tmp_path: Path) -> None:
    write_images(tmp_path)
    read(streamed(stores(tmp_path)[0]))
    assert list(decoded_root().glob("*")) == []


def test_what_is_in_the_cache_is_not_decoded_again(tmp_path: Path) -> None:
    write_images(tmp_path)
    stream, cache = stores(tmp_path)
    expected = cache.get("toy", "test")
    found = stream.images("toy", "test")
    assert not isinstance(found, StreamedSplit)
    np.testing.assert_array_equal(found.images, expected.images)


def test_images_without_classes(tmp_path: Path) -> None:
    write_images(tmp_path)
    stream, cache = stores(tmp_path, spec(num_classes=None))
    pixels, labels = read(streamed(stream))
    assert labels is None
    np.testing.assert_array_equal(pixels, cache.get("toy", "test").images)
    assert stream.pixels() == {"toy": {"test": cache.fingerprint("toy", "test")}}


def test_a_limited_run_reads_the_same_images(tmp_path: Path) -> None:
    write_images(tmp_path)
    stream, cache = stores(tmp_path, most=14)
    images = streamed(stream)
    pixels, labels = read(images)
    np.testing.assert_array_equal(pixels, cache.get("toy", "test").images)
    np.testing.assert_array_equal(labels, cache.get("toy", "test").labels)
    assert images.fingerprint == cache.fingerprint("toy", "test")
    assert stream.checksum("toy", "test") == cache.checksum("toy", "test")
    assert stream.checksum("toy", "test") != stores(tmp_path)[0].checksum("toy", "test")


def test_the_checksum_is_known_before_a_pass_and_the_same_for_a_copy(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "one")
    write_images(tmp_path / "two")
    for path in paths:
        os.utime(path, (1, 1))
    one, two = (stores(tmp_path / name)[0].checksum("toy", "test") for name in ("one", "two"))
    assert one == two
    paths[0].write_bytes(paths[0].read_bytes() + b" ")
    assert stores(tmp_path / "one")[0].checksum("toy", "test") != two


# --- images that cannot be decoded ---------------------------------------------------------------


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_corrupt_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("OODBENCH_WORKERS", workers)
    write_images(tmp_path)[20].write_bytes(b"no image")
    with pytest.raises(UserError) as caught:
        read(streamed(stores(tmp_path)[0]))
    assert caught.value.message == (
        "data set 'toy', split 'test': image test/b/07.jpg cannot be decoded: it is not an image "
        "of a known format."
    )
    assert "corrupt_images: skip" in caught.value.hint


def test_an_image_that_was_removed_is_named(tmp_path: Path) -> None:
    paths = write_images(tmp_path)
    images = streamed(stores(tmp_path)[0])
    paths[-1].unlink()
    with pytest.raises(UserError, match=r"image test/c/11\.jpg cannot be read: No such file"):
        read(images)


def test_corrupt_images_are_left_out_and_counted(tmp_path: Path) -> None:
    paths = write_images(tmp_path)
    for path in (*paths[3:7], paths[30]):
        path.write_bytes(b"")
    stream, cache = stores(tmp_path, spec(corrupt_images="skip"))
    images = streamed(stream)
    with pytest.warns(UserWarning, match="5 of 37 images could not be decoded and are left out"):
        pixels, labels = read(images)
    with pytest.warns(UserWarning, match="5 of 37 images could not be decoded and are left out"):
        expected = cache.get("toy", "test")
    np.testing.assert_array_equal(pixels, expected.images)
    np.testing.assert_array_equal(labels, expected.labels)
    assert len(images) == 32
    assert images.fingerprint is None
    read(images)  # the number of images is known now
    assert images.fingerprint == expected.fingerprint()


def test_a_class_of_corrupt_images_alone(tmp_path: Path) -> None:
    for path in write_images(tmp_path)[25:]:
        path.write_bytes(b"")
    images = streamed(stores(tmp_path, spec(corrupt_images="skip"))[0])
    with (
        pytest.warns(UserWarning, match="12 of 37"),
        pytest.raises(UserError, match="the manifest says 3 classes, found 2"),
    ):
        read(images)


def test_a_wrong_count_is_found_before_the_first_image(tmp_path: Path) -> None:
    write_images(tmp_path)
    store = stores(tmp_path, spec(splits={"test": 38}))[0]
    with pytest.raises(UserError, match="the manifest says 38 images, found 37"):
        store.images("toy", "test")


def test_images_that_change_during_a_run(tmp_path: Path) -> None:
    paths = write_images(tmp_path, "png")
    images = streamed(stores(tmp_path)[0])
    read(images)
    Image.new("RGB", (9, 9)).save(paths[0])
    with pytest.raises(UserError, match="split 'test': the images changed during the run"):
        read(images)


def test_the_checksum_of_the_manifest_is_checked(tmp_path: Path) -> None:
    write_images(tmp_path)
    right = streamed(stores(tmp_path)[0])
    read(right)
    assert right.fingerprint is not None
    read(streamed(stores(tmp_path, spec(sha256={"test": right.fingerprint}))[0]))
    images = streamed(stores(tmp_path, spec(sha256={"test": "0" * 64}))[0])
    with pytest.raises(UserError, match=f"the manifest says sha256 0+, found {right.fingerprint}"):
        read(images)


# --- the choice, and the processes ---------------------------------------------------------------


def test_which_splits_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    size = COUNT * 3 * SIDE * SIDE
    monkeypatch.setattr("oodbench.data.decoding_choice.ALWAYS_CACHED", size - 1)
    assert is_large(spec(), "test")
    assert is_streamed(spec(), "test", reads=1, most=None)
    assert not is_streamed(spec(), "test", reads=2, most=None)
    assert is_streamed(spec(), "test", reads=2, most=COUNT - 1)
    assert not is_streamed(spec(), "test", reads=2, most=COUNT)
    monkeypatch.setattr("oodbench.data.decoding_choice.NEVER_CACHED", size - 1)
    assert is_streamed(spec(), "test", reads=2, most=None)
    monkeypatch.setattr("oodbench.data.decoding_choice.ALWAYS_CACHED", size)
    assert not is_streamed(spec(), "test", reads=1, most=3)
    assert not is_large(spec(kind="npz", paths={"test": "a.npz"}), "test")


def test_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_WORKERS", "0")
    assert worker_count() == 0
    monkeypatch.delenv("OODBENCH_WORKERS")
    assert 1 <= worker_count() <= 16
    for wrong in ("-1", "two", "1.5", "²"):
        monkeypatch.setenv("OODBENCH_WORKERS", wrong)
        with pytest.raises(UserError, match=r"OODBENCH_WORKERS is .* not a number of processes"):
            worker_count()


def test_processes_may_be_spawned(tmp_path: Path) -> None:
    """What workers get can be pickled."""
    write_images(tmp_path)
    images = streamed(stores(tmp_path)[0])
    dataset = images._loader(2).dataset
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy[1].pixels.numpy(), dataset[1].pixels.numpy())


def test_little_shared_memory_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oodbench.data.decoding_workers._shared_memory", lambda: 300)
    write_images(tmp_path)
    stream, cache = stores(tmp_path)
    images = streamed(stream)
    loader = images._loader(2)
    assert len(loader) == COUNT, "one image at a time"
    assert loader.prefetch_factor == 2
    np.testing.assert_array_equal(read(images)[0], cache.get("toy", "test").images)


READER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import oodbench.data.decoding_choice as choice
from data.test_streamed_split import spec, stores
choice.ALWAYS_CACHED = 0
if __name__ == "__main__":
    for batch, _ in stores(Path({root!r}))[0].images("toy", "test").batches():
        import multiprocessing
        print("children", *[child.pid for child in multiprocessing.active_children()], flush=True)
        time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", by_default([signal.SIGKILL], [signal.SIGINT, signal.SIGKILL]))
def test_no_process_is_left_behind(tmp_path: Path, how: signal.Signals) -> None:
    """After Ctrl-C, and after the process was killed."""
    write_images(tmp_path)
    script = tmp_path / "reader.py"
    script.write_text(READER.format(tests=str(Path(__file__).parents[1]), root=str(tmp_path)))
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's job in the background ignores interrupts, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        name, *children = process.stdout.readline().split()
        assert (name, len(children)) == ("children", 2), process.communicate(timeout=60)
        process.send_signal(how)
        process.wait(timeout=60)
    end = time.monotonic() + 120
    while any(_runs(child) for child in children):
        assert time.monotonic() < end, f"{children} still run"
        time.sleep(0.1)


def _runs(process: str) -> bool:
    """Whether a process is there, and has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
