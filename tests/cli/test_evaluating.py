"""The command `oodbench evaluate`: a user's network and folders, from flags and from YAML."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.class_folders import write_images, write_sets
from helpers.commands import Command, Done, captured, start
from helpers.finished_run import few_repetitions
from helpers.tiers import by_default
from helpers.tiny_content import check_refusal
from PIL import Image

import oodbench
from oodbench.plugins.catalog import Catalog
from oodbench.results import Run

SETS = ("--ood", "near/dark=dark", "--ood", "far/noise=noise")
MODEL = ("--model", "net.py:build", "--normalization", "none")
DATA = ("--id", "colors=test", *SETS)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders of images and a network, in the working directory; do not change them."""
    folder = write_sets(tmp_path_factory.mktemp("sets"))
    before = Path.cwd()
    os.chdir(folder)
    try:
        with few_repetitions():
            yield folder
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def finished_evaluation(sets: Path) -> tuple[Done, Path]:
    """An evaluation with flags, of a checkpoint, with images to fit on."""
    checkpoint = ("--checkpoint", "net.pt", "--fit", "fit", "--device", "cpu")
    methods = ("--methods", "energy,knn", "--out", sets / "run")
    done = captured("evaluate", *MODEL, *DATA, *checkpoint, *methods)
    assert done.code == 0, f"{done.out}\n{done.err}"
    return done, sets / "run"


def test_it_says_what_it_will_do_and_looks_at_a_few_images(
    finished_evaluation: tuple[Done, Path],
) -> None:
    done, _ = finished_evaluation
    for words in ("ID train", "near-OOD", "KNN", "1 forward pass"):
        assert words in done.err
    assert "Of 'colors', validation images are 18 of the 90 images of --fit" in done.err
    assert "validation images are 18 of the 90 images of --fit" in done.out.replace("\n  ", " ")
    assert "net: accuracy 100% of 24 images of 3 classes" in done.err
    assert "The passes over all images take about" in done.err
    assert "Near-OOD: dark (9)." in done.out


def test_the_content_of_the_run_directory_is_the_benchmark(
    finished_evaluation: tuple[Done, Path], tmp_path: Path
) -> None:
    _, folder = finished_evaluation
    catalog = Catalog(folder / "content")
    benchmark = catalog.benchmark("evaluation")
    assert benchmark.ood == {"near": ("dark",), "far": ("noise",)}
    manifest = catalog.dataset("evaluation-colors")
    assert manifest.splits == {"test": 24, "train": 72, "validation": 18}
    assert manifest.classes == ("blue", "green", "red")
    again = oodbench.run("evaluation", plugins=[folder / "content"], out=tmp_path / "again")
    first = Run(folder)
    assert [(r.method, r.metric, r.value) for r in again.records] == [
        (r.method, r.metric, r.value) for r in first.records
    ]
    for method in ("net+MSP", "net+Energy", "net+KNN"):
        for name, scores in first.scores(method, 0).items():
            np.testing.assert_array_equal(scores, again.scores(method, 0)[name])
    assert not oodbench.verify(folder).discrepancies


def test_scores_are_those_of_the_network(finished_evaluation: tuple[Done, Path]) -> None:
    _, folder = finished_evaluation
    spaces: dict[str, object] = {}
    exec(compile(Path("net.py").read_text(), "net.py", "exec"), spaces)
    model = spaces["build"]()  # type: ignore[operator]
    files = sorted(Path("noise").iterdir())
    images = np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files])
    with torch.no_grad():
        logits = model(torch.from_numpy(images).float() / 255)
    expected = logits.double().logsumexp(dim=1).numpy()
    np.testing.assert_allclose(Run(folder).scores("net+Energy", 0)["noise"], expected, rtol=1e-5)


def test_resuming_needs_nothing_but_the_run_directory(
    finished_evaluation: tuple[Done, Path], tmp_path: Path, command: Command
) -> None:
    _, folder = finished_evaluation
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    done = command("evaluate", "--resume", "--out", copy, "--methods", "gen")
    assert done.code == 0, done.err
    assert "GEN" in done.out
    assert "KNN" in done.out
    other = ("--out", copy, "--resume", *MODEL, "--id", "colors=val", *SETS)
    check_refusal(command("evaluate", *other), "holds another evaluation")
    check_refusal(
        command("evaluate", *MODEL, *DATA, "--out", copy), "holds a run already", "--resume"
    )
    check_refusal(command("evaluate", "--resume", "--out", tmp_path), "no evaluation to resume")


def test_a_yaml_file_two_models_and_a_list(sets: Path, tmp_path: Path, command: Command) -> None:
    lines = [f"{sets}/test/{c}/{i:02}.png {c}" for c in ("red", "blue", "green") for i in range(5)]
    (tmp_path / "images.txt").write_text("\n".join(lines))
    (tmp_path / "both.yaml").write_text(
        f"model:\n  A: {{network: '{sets}/net.py:build', checkpoint: '{sets}/net.pt'}}\n"
        f"  B: '{sets}/net.py:build'\nnormalization: {{A: none, B: 0.5/0.5}}\n"
        f"id: colors=images.txt\nood: {{near/dark: '{sets}/dark'}}\n"
        f"csid: {{shifted: '{sets}/val'}}\nmethods: [knn]\nclasses: names.txt\n"
    )
    (tmp_path / "names.txt").write_text("blue\ngreen\nred\n")
    done = command("evaluate", tmp_path / "both.yaml", "--out", tmp_path / "run")
    assert done.code == 0, done.err  # without --fit, KNN does not run on any model
    run = Run(tmp_path / "run")
    assert {record.method for record in run.records if record.status == "ok"} == {"A+MSP", "B+MSP"}
    skipped = {record.method: record.reason for record in run.records if record.reason}
    assert skipped["A+KNN"] == "is fitted on training images, and 'colors' has none"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["benchmark"]["name"] == "both"
    accuracy = [r.value for r in run.records if r.metric == "id_accuracy" and r.method == "A+MSP"]
    assert accuracy == [1.0]


def test_a_detector_that_was_asked_for_and_lacks_images_is_incomplete(
    sets: Path, tmp_path: Path, command: Command
) -> None:
    done = command("evaluate", *MODEL, *DATA, "--methods", "knn", "--out", tmp_path / "run")
    assert done.code == 3
    assert "is fitted on training images, and 'colors' has none" in done.out


def test_content_that_is_not_whole_is_made_again(
    finished_evaluation: tuple[Done, Path], tmp_path: Path, command: Command
) -> None:
    """As after a kill while it was written, or after a benchmark was deleted from it or added."""
    given = (*MODEL, *DATA, "--checkpoint", "net.pt", "--fit", "fit", "--device", "cpu")
    given = (*given, "--methods", "energy,knn", "--resume")
    copy = Path(shutil.copytree(finished_evaluation[1], tmp_path / "copy"))
    (benchmark,) = (copy / "content" / "benchmarks").glob("*.yaml")
    whole = benchmark.read_bytes()
    benchmark.unlink()
    check_refusal(command("evaluate", "--resume", "--out", copy), "is not whole", "Begin it again")
    again = command("evaluate", *given, "--out", copy)
    assert (again.code, benchmark.read_bytes()) == (0, whole), again.err
    shutil.copy(benchmark, benchmark.with_name("other.yaml"))
    assert command("evaluate", "--resume", "--out", copy).code == 0
    begun = tmp_path / "begun"
    shutil.copytree(copy / "content" / "data_manifests", begun / "content" / "data_manifests")
    check_refusal(command("evaluate", "--resume", "--out", begun), "is not whole")
    assert command("evaluate", *given, "--out", begun).code == 0


@pytest.mark.parametrize("how", by_default([signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]))
def test_interrupted_it_keeps_what_is_done_and_continues(
    sets: Path, tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "run"
    models = ("--model", "A=net.py:build", "--model", "B=net.py:build", "--normalization", "none")
    process = start(
        *("evaluate", *models, *DATA, "--out", out),
        cwd=sets,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell may ignore it
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "A, seed 0: checkpoint" in line:
            process.send_signal(how)
            break
    said += process.stderr.readlines()
    assert process.wait() == 3, "".join(said)
    assert "What is finished is stored" in "".join(said)
    words = said[-1].split()
    assert words == ["oodbench", "evaluate", "--resume", "--out", str(out)]
    again = subprocess.run(
        [sys.executable, "-m", *words], cwd=sets, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "A, seed 0: finished before" in again.stderr
    assert {record.method.split("+")[0] for record in Run(out).records} == {"A", "B"}


# --- wrong uses -----------------------------------------------------------------------------------

WRONG = {
    "no such folder": (("--id", "tset"), ("--id: there is no folder or list tset", "test")),
    "empty folder": (("--id", "empty"), ("--id: folder empty has no images",)),
    "no class folders": (("--id", "noise"), ("--id: folder noise has no class folders",)),
    "--ood without a name": (("--ood", "noise"), ("expected near/birds=DIR, not 'noise'",)),
    "--ood without a folder": (("--ood", "far/a"), ("expected near/birds=DIR, not 'far/a'",)),
    "a name twice": (("--ood", "far/dark=noise"), ("'dark' names two data sets",)),
    "a set twice": (("--ood", "near/dark=noise"), ("--ood: 'near/dark' is given twice",)),
    "ID and OOD in one folder": (("--ood", "far/t=test"), ("--id and --ood far/t are the same",)),
    "OOD inside ID": (("--ood", "far/t=test/red"), ("--ood far/t", "lies inside --id")),
    "no such checkpoint": (("--checkpoint", "no.pt"), ("--checkpoint: there is no file no.pt",)),
    "checkpoint of another network": (
        ("--checkpoint", "other.pt"),
        ("other.pt is of another architecture",),
    ),
    "unknown network": (("--model", "resnet81"), ("no network 'resnet81'", "resnet8")),
    "misspelt library": (
        ("--model", "torchvison:resnet18"),
        ("no module 'torchvison'", "Did you mean 'torchvision:resnet18'?"),
    ),
    "unknown network of torchvision": (
        ("--model", "torchvision:resnet99"),
        ("no classifier of this name", "resnet"),
    ),
    "no callable": (("--model", "net.py:biuld"), ("has no callable 'biuld'", "'build'")),
    "no network": (("--model", "net.py:no_model"), ("made an int, which is no torch.nn.Module",)),
    "no file of a network": (("--model", "nets.py:build"), ("cannot read", "nets.py")),
    "other number of classes": (
        ("--model", "net.py:linear_classes"),
        ("has 7 classes, the ID data set 'colors' has 3", "--classes FILE"),
    ),
    "unknown method": (("--methods", "knnn"), ("'knnn' is neither a detector", "'knn'")),
    "unreadable image": (("--ood", "far/broken=broken"), ("broken/0.png cannot be decoded",)),
    "unknown transform": (
        ("--transform", "big"),
        ("error: --transform: expected model, imagenet, a size",),
    ),
    "class not in the list": (("--classes", "two.txt"), ("'red' is not in the order",)),
    "empty list of classes": (("--classes", "empty.txt"), ("empty.txt names no class",)),
    "no list of classes": (("--classes", "no.txt"), ("--classes: cannot read no.txt",)),
    "another order of classes": (
        ("--model", "net.py:permuted"),
        ('images of "blue" are predicted as "green"', "--classes FILE"),
    ),
    "tuning without images": (("--tune", "all"), ("--tune needs validation images",)),
    "images of several sizes": (
        ("--ood", "far/sizes=sizes"),
        ("Images have 2 sizes", "--transform"),
    ),
}
REPLACING = {"--id", "--model", "--methods", "--classes", "--transform"}


@pytest.fixture(scope="module")
def wrong_files(sets: Path) -> None:
    """What only wrong uses name."""
    (sets / "empty").mkdir()
    write_images(sets / "broken", 1, 0)
    (sets / "broken" / "0.png").write_bytes((sets / "noise" / "00.png").read_bytes()[:60])
    write_images(sets / "sizes", 1, 0)
    Image.new("RGB", (9, 8)).save(sets / "sizes" / "wide.png")
    (sets / "two.txt").write_text("blue\ngreen\nyellow\n")
    (sets / "empty.txt").write_text("\n")
    torch.save(torch.nn.Linear(4, 3).state_dict(), sets / "other.pt")


def test_a_dry_run_finds_what_the_run_would_refuse(
    wrong_files: None, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "run"
    done = command("evaluate", *MODEL, *DATA, "--checkpoint", "net.pt", "--dry-run", "--out", out)
    assert done.code == 0, done.err
    assert "net: accuracy 100% of 24 images" in done.err
    assert "Plan of benchmark 'evaluation'" in done.out
    library = ("--model", "torchvision:resnet18", "--transform", "32x32", *DATA)
    absent = command("evaluate", *library, "--dry-run", "--out", out)
    assert absent.code == 0, absent.err
    assert "Not looked at, because the weights may have to be downloaded: resnet18." in absent.err
    wrong = ("--checkpoint", "other.pt", "--dry-run", "--out", out)
    check_refusal(command("evaluate", *MODEL, *DATA, *wrong), "of another architecture")
    assert not out.exists()


@pytest.mark.parametrize("key", ["model", "checkpoint", "ood"])
def test_a_misspelled_key_is_named(key: str, command: Command, tmp_path: Path) -> None:
    text = "model: resnet8\ncheckpoint: net.pt\nid: test\nood: {near/noise: noise}\n"
    (tmp_path / "net.yaml").write_text(text.replace(f"{key}:", f"{key}s:"))
    done = command("evaluate", tmp_path / "net.yaml", "--dry-run")
    check_refusal(done, f"{key}s: unknown key", f"'{key}'")


@pytest.mark.usefixtures("wrong_files")
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_use_has_one_clear_error(case: str, command: Command, tmp_path: Path) -> None:
    options, said = WRONG[case]
    given = [*MODEL, *DATA, "--out", tmp_path / "run"]
    if options[0] in REPLACING and options[0] in given:
        place = given.index(options[0])
        given[place : place + 2] = options
    else:
        given += options
    done = command("evaluate", *given)
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.code == 2, f"{done.out}\n{done.err}"
    assert len(lines) == 1, done.err
    assert "Traceback" not in done.err
    for words in said:
        assert words in done.err
    assert not (tmp_path / "run").exists()


def test_options_of_a_resumed_evaluation_are_those_it_began_with(command: Command) -> None:
    done = command("evaluate", "--resume", "--out", "run", "--model", "resnet8", "--tune", "odin")
    assert done.code == 2
    assert "--resume continues with the options" in done.err
    assert "--model, --tune cannot be changed" in done.err


def test_folders_in_their_order_are_taken_as_they_are(
    sets: Path, command: Command, tmp_path: Path
) -> None:
    options = ("--model", "net.py:permuted", "--normalization", "none", *DATA)
    done = command(
        *("evaluate", *options, "--classes", "folders", "--methods", "energy"),
        *("--out", tmp_path / "run"),
    )
    assert done.code == 0, done.err
    (tmp_path / "names.txt").write_text("red\nblue\ngreen\n")
    done = command(
        *("evaluate", *options, "--classes", tmp_path / "names.txt", "--methods", "energy"),
        *("--out", tmp_path / "named"),
    )
    assert done.code == 0, done.err
    assert "accuracy 100%" in done.err


def test_a_library_that_is_missing(
    sets: Path, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    done = command("evaluate", "--model", "timm:resnet18", *DATA, "--out", tmp_path / "run")
    check_refusal(done, "needs the package timm", "pip install 'oodbench[timm]'")
