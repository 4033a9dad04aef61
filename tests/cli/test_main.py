"""The command as a whole: help, what is refused, tracebacks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import Command, process
from helpers.tiny_content import check_refusal

from oodbench.cli import main

pytestmark = pytest.mark.usefixtures("one_thread", "kept_networks", "empty_folder")


LIGHT = [
    ["--help"],
    ["run", "--help"],
    ["list", "detectors"],
    ["list", "benchmarks", "--json"],
    ["list", "datasets"],
    ["list", "models"],
    ["run", "--dry-run"],
    ["run", "dismax-paper", "--dry-run"],
    ["--version"],
    ["new", "detector", "--help"],
]


def test_no_torch_is_imported() -> None:
    """One process makes all commands: one that imports torch is the first to be named."""
    code = (
        "import sys\nfrom oodbench.cli.main import main\n"
        f"for arguments in {LIGHT!r}:\n"
        "    sys.argv = ['oodbench', *arguments]\n"
        "    try:\n        main()\n    except SystemExit as end:\n        assert not end.code\n"
        "    heavy = {'torch', 'torchvision', 'sklearn', 'scipy', 'matplotlib', 'pandas'}\n"
        "    print('HEAVY', arguments, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("HEAVY")]
    assert said == [f"HEAVY {arguments} []" for arguments in LIGHT]


def test_help_names_every_command(command: Command) -> None:
    done = command("--help")
    assert done.code == 0
    for name in ("run", "list", "train", "report", "new"):
        assert re.search(rf"^\s+{name}\b", done.out, re.MULTILINE), f"{name} is not in the help"


def test_nothing_to_do_shows_the_help(command: Command) -> None:
    done = command()
    assert done.code == 2
    assert "Usage: oodbench" in done.out + done.err


REFUSED = {
    "benchmark": (["run", "digts"], "no benchmark 'digts'", "'digits'"),
    "benchmark file": (["run", "no/such.yaml"], "no benchmark file no/such.yaml"),
    "method": (["run", "--methods", "SoftMax+MSQ"], "'SoftMax+MSQ'", "'SoftMax+MSP'"),
    "detector": (["run", "--methods", "basline"], "'basline'", "'baseline'"),
    "no method": (["run", "--methods", " , "], "--methods: expected names separated by commas"),
    "no seed": (["run", "--seeds", "0"], "'--seeds'"),
    "half a seed": (["run", "--seeds", "x"], "'--seeds'"),
    "option": (["run", "--sed", "1"], "--sed", "--seeds"),
    "argument": (["run", "digits", "letters"], "letters"),
    "command": (["rnu"], "'rnu'", "'run'"),
    "kind": (["list", "detector"], "'detector'", "'detectors'"),
    "format": (["report", ".", "--format", "xml"], "'xml'", "'latex'"),
    "run": (["report", "."], "holds no run", "run.json"),
    "no run": (["report", "nowhere"], "no folder nowhere"),
    "plug-ins": (["list", "models", "--plugins", "nowhere"], "nowhere is not a folder"),
    "model": (["train", "digits", "--model", "softmax"], "no model 'softmax'", "'SoftMax'"),
    "seeds twice": (["train", "--seeds", "1", "--seed", "2"], "give one of them", "seed 2 alone"),
    "suite": (["run", "dismax-papr"], "no benchmark 'dismax-papr'", "'dismax-paper'"),
    "method of a suite": (["run", "dismax-paper", "--methods", "basline"], "'baseline'"),
    "training a suite": (["train", "dismax-paper"], "is a suite", "dismax-resnet-svhn"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(command: Command, tmp_path: Path, case: str) -> None:
    arguments, *said = REFUSED[case]
    check_refusal(command(*arguments), *said)
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--out", ""], "Invalid value for '--out': expected a path, not nothing."),
        (["run", "--data-root", " "], "Invalid value for '--data-root': expected a path"),
        (["run", "--plugins", ""], "Invalid value for '--plugins': expected a path"),
        (["report", "x", "--figures", ""], "Invalid value for '--figures': expected a path"),
        (["data", "list", "--data-root", ""], "Invalid value for '--data-root': expected a path"),
        (["run", "--dry-run", "--seeds", "1000000000"], "--seeds: expected a whole number from 1"),
        (["train", "--seeds", "1000000000"], "--seeds: expected a whole number from 1 to 1,000"),
        (["train", "--seed", "1000000000"], "--seed: expected a whole number from 0 to 999"),
        (["train", "--seed", "-1"], "Invalid value for '--seed'"),
        (["run", "--plugins", "~nobody-here/x"], "~nobody-here/x begins with the home folder of"),
        (["run", "~nobody-here/x.yaml"], "~nobody-here/x.yaml begins with the home folder of"),
        (["data", "path", "cifar10", "--data-root", "~nobody-here"], "~nobody-here begins with"),
    ],
)
def test_options_that_are_no_paths_or_numbers(
    command: Command, tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = command(*arguments)
    assert done.code == 2
    assert done.err.startswith(f"error: {said}")
    assert list(tmp_path.iterdir()) == []


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """What the tests above see from inside is what a shell sees; names cost no import of torch."""
    done = process("run", "digts", "--out", tmp_path / "run")
    check_refusal(done, "'digits'")
    assert done.out == ""


@pytest.mark.parametrize("place", [0, 2])
def test_debug_shows_the_traceback(place: int) -> None:
    arguments = ["run", "digts"]
    arguments.insert(place, "--debug")
    done = process(*arguments)
    assert "Traceback" in done.err
    assert "UserError: There is no benchmark 'digts'" in done.err
    assert done.code != 0


def test_a_file_without_permission(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tests may run as root, who may read everything: the command raises the system's error."""

    def refused(**_: object) -> None:
        raise PermissionError(13, "Permission denied", "net.pt")

    monkeypatch.setattr(main, "app", refused)
    monkeypatch.setattr("sys.argv", ["oodbench", "list", "models"])
    with pytest.raises(SystemExit, match="2"):
        main.main()
    assert capsys.readouterr().err.startswith("error: net.pt: Permission denied.\nChange ")
