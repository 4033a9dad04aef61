"""The commands as a user meets them: exit codes, messages, files."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import Command, Done, process
from helpers.tiny_benchmark import tiny_benchmark

from oodbench.report.writers.run_files import RUN_FILES

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = tiny_benchmark(
    {"SoftMax+MSP": "baseline", "SoftMax+DisMaxEntropy": "dismax_entropy"},
    matrix="{detectors: [entropy]}",
    reference="SoftMax+MSP",
    tuning="{fgsm_step: 0.3}",
)

# The ten lines of the README.
TEN_LINES = '''\
"""Energy score (Liu et al., NeurIPS 2020)."""
from torch import Tensor
from oodbench import Detector, Outputs, register

@register("my_energy")
class MyEnergy(Detector):
    """Log-sum-exp of the logits at a temperature."""

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def score(self, outputs: Outputs) -> Tensor:
        """One score per image, shape [B]; higher is more in-distribution."""
        return self.temperature * (outputs.logits / self.temperature).logsumexp(dim=1)
'''

PLUGIN = """\
import torch

from oodbench import Detector, Outputs, register


@register("{name}", label="{name}"{arguments})
class Mine(Detector):
    count = 0

{body}
"""


@pytest.fixture(scope="module", autouse=True)
def _own_cache_and_plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OODBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("OODBENCH_PLUGINS", raising=False)
        yield


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return command


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A folder of content with the tiny benchmark."""
    return content(tmp_path / "content")


def content(folder: Path, benchmark: str = TINY, **detectors: str) -> Path:
    (folder / "benchmarks").mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks" / "tiny.yaml").write_text(benchmark)
    (folder / "detectors").mkdir(exist_ok=True)
    for name, text in detectors.items():
        (folder / "detectors" / f"{name}.py").write_text(text)
    return folder


def reading(*detectors: str) -> str:
    """The tiny benchmark with another pass, and without the method that is skipped."""
    text = TINY.replace("[entropy]", f"[entropy, {', '.join(detectors)}]")
    return "\n".join(line for line in text.splitlines() if "DisMaxEntropy" not in line)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of the tiny benchmark."""
    folder = tmp_path_factory.mktemp("finished")
    done = process(
        *("run", "tiny", "--plugins", content(folder / "content"), "--seeds", "1"),
        *("--device", "cpu", "--methods", "SoftMax+MSP,entropy", "--out", folder / "run"),
    )
    assert done.code == 0, f"exit code {done.code}\n{done.out}\n{done.err}"
    assert "Run directory: " in done.out
    # Where tests are not given out file by file, a process may come here twice.
    assert "trained" in done.err or "checkpoint from the cache" in done.err
    assert re.search(r"seed 0: mean AUROC \d+\.\d % SoftMax\+\w+, \d+\.\d % SoftMax\+", done.err)
    return folder / "run"


def check_refusal(done: Done, *said: str) -> None:
    """Exit code 2, one or two lines, no traceback, and what they must say."""
    assert done.code == 2, f"exit code {done.code}\n{done.out}\n{done.err}"
    lines = done.err.strip().splitlines()
    assert 1 <= len(lines) <= 2, f"{len(lines)} lines:\n{done.err}"
    assert lines[0].startswith("error: "), done.err
    assert "Traceback" not in done.err
    for part in said:
        assert part in done.err, f"'{part}' is not in:\n{done.err}"


# --- help and lists -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
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
    ],
)
def test_no_torch_is_imported(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom oodbench.cli.main import main\n"
        f"sys.argv = ['oodbench', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'scipy', 'matplotlib', 'pandas'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_help_names_every_command(command: Command) -> None:
    done = command("--help")
    assert done.code == 0
    for name in ("run", "list", "train", "report", "new"):
        assert re.search(rf"^\s+{name}\b", done.out, re.MULTILINE), f"{name} is not in the help"


def test_nothing_to_do_shows_the_help(command: Command) -> None:
    done = command()
    assert done.code == 2
    assert "Usage: oodbench" in done.out + done.err


@pytest.mark.parametrize("kind", ["detectors", "benchmarks", "datasets", "models"])
def test_lists_for_machines(command: Command, plugins: Path, kind: str) -> None:
    done = command("list", kind, "--json", "--plugins", plugins)
    assert done.code == 0
    rows = json.loads(done.out)
    assert rows
    for row in rows:
        assert {"name", "status", "summary", "source"} <= row.keys(), row
        assert row["status"] == "ok", row
    found = {row["name"]: row["source"] for row in rows}
    expected = {
        "detectors": ("baseline", "built-in"),
        "benchmarks": ("tiny", str(plugins)),
        "datasets": ("letters", "built-in"),
        "models": ("resnet8", "built-in"),
    }[kind]
    assert found[expected[0]] == expected[1]


@pytest.mark.parametrize("kind", ["detectors", "benchmarks", "datasets", "models"])
def test_lists_for_people_show_every_name(command: Command, kind: str) -> None:
    rows = json.loads(command("list", kind, "--json").out)
    shown = command("list", kind).out
    for row in rows:
        assert row["name"] in shown


def test_the_variable_is_read(command: Command, plugins: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("OODBENCH_PLUGINS", str(plugins))
    rows = json.loads(command("list", "benchmarks", "--json").out)
    assert "tiny" in {row["name"] for row in rows}


def test_broken_content_is_listed_with_its_error(command: Command, plugins: Path) -> None:
    missing = "import nosuchpackage\n" + TEN_LINES.replace('"my_energy"', '"missing"')
    content(plugins, my_energy=TEN_LINES, torn="def f(:\n", missing=missing)
    (plugins / "benchmarks" / "torn.yaml").write_text("name: torn\nversion: [1\n")
    (plugins / "data_manifests").mkdir()
    (plugins / "data_manifests" / "torn.yaml").write_text("schema_version: 1\nnmae: torn\n")
    done = command("list", "detectors", "--json", "--plugins", plugins)
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in json.loads(done.out)}
    assert rows["my_energy"]["status"] == "ok"
    assert rows["torn"]["status"] == rows["missing"]["status"] == "broken"
    assert rows["torn"]["error"] == "line 1: invalid syntax"
    assert rows["missing"]["error"] == (
        "line 1: ModuleNotFoundError: No module named 'nosuchpackage'"
    )
    assert rows["torn"]["path"] == str(plugins / "detectors" / "torn.py")
    shown = command("list", "detectors", "--plugins", plugins).out
    assert shown.count("BROKEN: ") == 2, shown
    for kind in ("benchmarks", "datasets"):
        rows = {
            r["name"]: r
            for r in json.loads(command("list", kind, "--json", "--plugins", plugins).out)
        }
        assert rows["torn"]["status"] == "broken", kind
        assert "torn.yaml" in rows["torn"]["error"], kind
        assert "BROKEN" in command("list", kind, "--plugins", plugins).out


# --- what is refused ------------------------------------------------------------------------------

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
    "no run": (["report", "nowhere"], "nowhere holds no run"),
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


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "mps", "cpu:x", ""])
def test_unknown_devices(command: Command, plugins: Path, tmp_path: Path, device: str) -> None:
    given = ("run", "tiny", "--plugins", plugins, "--device", device, "--out", "run")
    check_refusal(command(*given), "--device: ", "cpu")
    if device != "cuda:99":  # which another machine may have
        check_refusal(command(*given, "--dry-run"), "--device: ", f"not '{device}'")
    assert not (tmp_path / "run").exists()


def test_parameters_are_checked_before_anything_is_trained(
    command: Command, plugins: Path, tmp_path: Path
) -> None:
    extra = "methods:\n  Mine: {model: SoftMax, detector: odin, parameters: {epsilonn: 0.1}}"
    content(plugins, TINY.replace("methods:", extra))
    done = command("run", "tiny", "--plugins", plugins, "--out", "run")
    check_refusal(done, "'odin' has no parameter 'epsilonn'", "'epsilon'")
    assert not (tmp_path / "run").exists()


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


# --- run, report, train ---------------------------------------------------------------------------


def test_dry_run_does_nothing(command: Command, plugins: Path, tmp_path: Path) -> None:
    done = command("run", "tiny", "--plugins", plugins, "--dry-run", "--out", "run")
    assert done.code == 0
    for said in ("Plan of benchmark 'tiny'", "digits", "letters", "needs a DisMax head"):
        assert said in done.out
    assert not (tmp_path / "run").exists()


VALUES: list[tuple[str, str, str]] = [
    ("models: {SoftMax: {training: {epochs: yes}}}", "epochs", "valid integer, not True"),
    ("models: {SoftMax: {training: {epochs: 010}}}", "010", "read as a number of base 8"),
    (
        "methods: {X: {model: SoftMax, detector: knn, parameters: {k: true}}}",
        "X.parameters",
        "True",
    ),
    ("methods: {X: {model: SoftMax, detector: knn, parameters: {k: 1.5}}}", "X.parameters", "1.5"),
    (
        "methods: {X: {model: SoftMax, detector: knn, parameters: {k: -1}}}",
        "X.parameters: Detector 'knn' cannot be made",
        "k must be at least 1, not -1",
    ),
    (
        "methods: {X: {model: SoftMax, detector: odin, parameters: {temperature: .inf}}}",
        "methods.X.parameters",
        "temperature: input should be a finite number",
    ),
    (f"methods: {{{'M' * 300}: {{model: SoftMax, detector: energy}}}}", "methods.MMM", "300 bytes"),
    (f"methods: {{{'漢' * 100}: {{model: SoftMax, detector: energy}}}}", "methods.漢", "300 bytes"),
    ("methods: {CON: {model: SoftMax, detector: energy}}", "methods.CON", "device on Windows"),
    (f"models: {{{'M' * 300}: {{network: resnet8, head: softmax}}}}", "models.MMM", "300 bytes"),
]


@pytest.mark.parametrize(("line", "key", "said"), VALUES)
@pytest.mark.parametrize("options", [["--dry-run"], ["--out", "run"]])
def test_values_that_could_only_fail_later_are_refused_with_the_plan(
    command: Command, tmp_path: Path, line: str, key: str, said: str, options: list[str]
) -> None:
    text = "schema_version: 1\nextends: digits\nname: mine\nversion: 1\ntitle: t\nsummary: s\n"
    (tmp_path / "mine.yaml").write_text(f"{text}{line}\n", encoding="utf-8")
    done = command("run", "mine.yaml", "--seeds", "1", *options)
    assert done.code == 2
    assert done.out == ""
    assert re.match(r"error: .*mine\.yaml:7:", done.err), done.err
    assert key in done.err
    assert said in done.err
    assert len(done.err) < 500
    assert not list((tmp_path / "run").glob("*"))


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


def test_a_run_leaves_the_files_of_the_contract(finished: Path) -> None:
    files = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    contract = {"leaderboard.md", "leaderboard.csv", "leaderboard.json"}
    assert contract | {"quality.md", "quality.json", "summary.json"} < RUN_FILES.keys()
    assert files == {
        "run.json",
        "records.jsonl",
        "costs.jsonl",
        "training.jsonl",
        "differences.jsonl",
        *RUN_FILES,
        "scores/SoftMax+MSP/seed0.npz",
        "scores/SoftMax+Entropy/seed0.npz",
    }


PARTS = {
    "table": "SoftMax+MSP",
    "md": "| SoftMax+MSP",
    "csv": "SoftMax+MSP",
    "json": '"SoftMax+MSP"',
    "html": "<html",
    "latex": "\\begin{tabular}",
}


@pytest.mark.parametrize("name", PARTS)
def test_reports(command: Command, finished: Path, tmp_path: Path, name: str) -> None:
    printed = command("report", finished, "--format", name)
    assert printed.code == 0, printed.err
    assert PARTS[name] in printed.out
    assert "SoftMax+Entropy" in printed.out
    written = command("report", finished, "--format", name, "--out", tmp_path / "new" / "file")
    assert written.code == 0, written.err
    assert written.out == ""
    text = (tmp_path / "new" / "file").read_text(encoding="utf-8")
    assert text.rstrip("\n") == printed.out.rstrip("\n")
    if name == "csv":
        assert len(list(csv.DictReader(io.StringIO(text)))) > 0
    if name == "json":
        json.loads(text)


@pytest.mark.parametrize(
    ("place", "said"),
    [(".", "Is a directory"), ("file/below", "File exists"), ("/proc/x", "No such file")],
)
def test_a_report_to_a_bad_place(
    command: Command, finished: Path, tmp_path: Path, place: str, said: str
) -> None:
    (tmp_path / "file").write_text("a file")
    check_refusal(command("report", finished, "--out", place), "Cannot write", said, "--out")


def test_a_run_onto_a_run(command: Command, plugins: Path, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    done = command("run", "tiny", "--plugins", plugins, "--seeds", "1", "--out", finished)
    check_refusal(done, "holds a run already", "--resume", "--out")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_ten_lines_make_a_detector(command: Command, plugins: Path) -> None:
    content(plugins, TINY.replace("[entropy]", "all"), my_energy=TEN_LINES)
    shown = command("list", "detectors", "--plugins", plugins)
    assert "my_energy" in shown.out
    done = command(
        *("run", "tiny", "--plugins", plugins, "--seeds", "1", "--device", "cpu", "--out", "run"),
        *("--methods", "baseline,my_energy"),
    )
    assert done.code == 0, done.err
    assert "SoftMax+MyEnergy" in done.out
    board = Path("run/leaderboard.md").read_text()
    assert "SoftMax+MyEnergy" in board


def test_a_skipped_method_that_was_asked_for(command: Command, plugins: Path) -> None:
    """The benchmark names it, so something that was asked for is missing."""
    done = command(
        *("run", "tiny", "--plugins", plugins, "--seeds", "1", "--device", "cpu", "--out", "run")
    )
    assert done.code == 3, done.err
    reason = "needs a DisMax head; SoftMax has a linear head"
    assert reason in " ".join(done.out.split())
    assert "Incomplete" in done.err
    records = [json.loads(line) for line in Path("run/records.jsonl").read_text().splitlines()]
    skipped = [record for record in records if record["status"] == "skipped"]
    assert {record["method"] for record in skipped} == {"SoftMax+DisMaxEntropy"}
    assert {record["reason"] for record in skipped} == {reason}
    assert {r["method"] for r in records if r["status"] == "ok"} == {
        "SoftMax+MSP",
        "SoftMax+Entropy",
    }


def test_only_a_skipped_method(command: Command, plugins: Path) -> None:
    done = command(
        *("run", "tiny", "--plugins", plugins, "--seeds", "1", "--device", "cpu", "--out", "run"),
        *("--methods", "SoftMax+DisMaxEntropy"),
    )
    assert done.code == 3, done.err
    assert "Traceback" not in done.err
    assert "needs a DisMax head" in " ".join(done.out.split())


SCORE = "    def score(self, outputs: Outputs) -> torch.Tensor:\n        "
LOGITS = "outputs.logits.amax(dim=1)"
MISBEHAVING = {
    "wrong_shape": (
        f"{SCORE}return outputs.logits",
        ["[200, 10]", "torch tensor of shape [200]"],
    ),
    "no_tensor": (f"{SCORE}return 1.0", ["gave float", "torch tensor of shape [200]"]),
    "one_nan": (
        f"{SCORE}scores = {LOGITS}\n        scores[3] = float('nan')\n        return scores",
        ["score nan for image 3 of 'digits'"],
    ),
    "batch_mean": (f"{SCORE}return {LOGITS} - {LOGITS}.mean()", ["scores depend on the batch"]),
    "raising": (
        f"{SCORE}raise RuntimeError('no luck')",
        ["RuntimeError: no luck (detectors/raising.py, line 11)"],
    ),
    "in_torch": (
        f"{SCORE}return (\n            outputs.logits @ outputs.logits\n        )",
        ["RuntimeError: mat1 and mat2", "(detectors/in_torch.py, line 12)"],
    ),
    "in_helper": (
        f"{SCORE}from _helper import f\n        return f(outputs)",
        ["KeyError: 'gone' (detectors/in_helper.py, line 12; detectors/_helper.py, line 2)"],
    ),
    "fit_raises": (
        "    def fit(self, batches):\n        raise ValueError('cannot fit')\n\n"
        f"{SCORE}return {LOGITS}",
        ["ValueError: cannot fit (detectors/fit_raises.py, line 11)"],
    ),
}


@pytest.fixture(scope="module")
def misbehaved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run with every misbehaving detector beside two that behave."""
    folder = tmp_path_factory.mktemp("misbehaved")
    texts = {
        name: PLUGIN.format(
            name=name,
            arguments=', needs=("fit",)' if name == "fit_raises" else "",
            body=body,
        )
        for name, (body, _) in MISBEHAVING.items()
    }
    # Swept before the one that behaves: what it does must not reach the others.
    helper = "def f(outputs):\n    raise KeyError('gone')\n"
    plugins = content(folder / "content", reading(*texts), **texts, _helper=helper)
    done = process(
        *("run", "tiny", "--plugins", plugins, "--seeds", "1", "--device", "cpu"),
        *("--out", folder / "run"),
    )
    path = folder / "run" / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {"done": done, "records": records}


def test_a_misbehaving_detector_ends_alone(misbehaved: dict[str, Any]) -> None:
    done = misbehaved["done"]
    assert done.code == 3, f"exit code {done.code}\n{done.err}"
    assert "Traceback" not in done.err, done.err
    assert "Incomplete" in done.err
    fine = {record["method"] for record in misbehaved["records"] if record["status"] == "ok"}
    assert {"SoftMax+MSP", "SoftMax+Entropy"} <= fine


@pytest.mark.parametrize("name", MISBEHAVING)
def test_the_reason_of_a_failure_says_what_and_where(misbehaved: dict[str, Any], name: str) -> None:
    method = f"SoftMax+{name}"
    records = [record for record in misbehaved["records"] if record["method"] == method]
    assert records, f"no records of {method}:\n{misbehaved['done'].err}"
    assert {record["status"] for record in records} == {"failed"}, records[0]
    assert {record["value"] for record in records} == {None}
    (reason,) = {record["reason"] for record in records}
    for said in MISBEHAVING[name][1]:
        assert said in reason, f"'{said}' is not in: {reason}"
    assert f"SoftMax, seed 0: FAILED: {method}: {reason}" in misbehaved["done"].err
    assert f"failed: {method} (seed 0): {reason}" in misbehaved["done"].err
    assert "--debug" in misbehaved["done"].err


def swept(command: Command, plugins: Path, name: str, body: str) -> list[dict[str, Any]]:
    """Records of a run with one detector of ours, which comes before entropy."""
    text = PLUGIN.format(name=name, arguments="", body=body)
    content(plugins, reading(name).replace(f"entropy, {name}", f"{name}, entropy"), **{name: text})
    done = command(
        *("run", "tiny", "--plugins", plugins, "--seeds", "1", "--device", "cpu", "--out", "run")
    )
    assert done.code in (0, 3), done.err
    return [json.loads(line) for line in Path("run/records.jsonl").read_text().splitlines()]


def test_a_detector_that_fails_on_one_image_alone(command: Command, plugins: Path) -> None:
    """Latency is measured with a batch of one: what happens there must not end the run."""
    body = (
        f"{SCORE}if outputs.logits.shape[0] == 1:\n            raise IndexError('one image')\n"
        f"        return {LOGITS}"
    )
    found = swept(command, plugins, "alone", body)
    status = {record["method"]: (record["status"], record["reason"]) for record in found}
    assert status["SoftMax+Entropy"] == ("ok", None)
    assert status["SoftMax+alone"][0] == "failed"
    assert "IndexError: one image" in status["SoftMax+alone"][1]


def test_what_a_detector_does_to_its_inputs_reaches_no_other(
    command: Command, plugins: Path, finished: Path
) -> None:
    """Entropy is scored after a detector that halves the logits in place."""
    body = f"{SCORE}return outputs.logits.mul_(0.5).amax(dim=1)"
    found = swept(command, plugins, "in_place", body)
    values = {(r["method"], r["metric"], r["ood_dataset"]): r["value"] for r in found}
    alone = [json.loads(line) for line in (finished / "records.jsonl").read_text().splitlines()]
    for record in alone:
        key = record["method"], record["metric"], record["ood_dataset"]
        assert values[key] == record["value"], f"{key} differs beside another detector"
    own = {record["status"] for record in found if record["detector"] == "in_place"}
    assert own == {"ok"}, "the detector itself is scored and measured"


def test_a_detector_may_take_gradients_of_its_own(command: Command, plugins: Path) -> None:
    body = (
        f"{SCORE}logits = outputs.logits.requires_grad_()\n"
        "        with __import__('torch').enable_grad():\n"
        "            logits.logsumexp(dim=1).sum().backward()\n"
        "        return logits.grad.amax(dim=1)"
    )
    found = swept(command, plugins, "graded", body)
    own = {(r["status"], r["reason"]) for r in found if r["detector"] == "graded"}
    assert own == {("ok", None)}


def test_a_broken_plugin_does_not_stop_a_pass(command: Command, plugins: Path) -> None:
    text = TINY.replace("[entropy]", "all").replace("SoftMax+DisMaxEntropy: ", "Other: ")
    needy = PLUGIN.format(
        name="needy",
        arguments="",
        body=f"    def __init__(self, must):\n        self.must = must\n\n{SCORE}return {LOGITS}",
    )
    text = "\n".join(line for line in text.splitlines() if "Other" not in line)
    content(
        plugins,
        text
        + "exclude: [{model: SoftMax, detector: mahalanobis, reason: slow}]\n".replace(
            "exclude", "\nexclude"
        ),
        torn="raise RuntimeError('no luck')\n",
        needy=needy,
    )
    done = command(
        *("run", "tiny", "--plugins", plugins, "--seeds", "1", "--device", "cpu", "--out", "run")
    )
    assert done.code == 0, f"nobody asked for them\n{done.err}"
    records = [json.loads(line) for line in Path("run/records.jsonl").read_text().splitlines()]
    reasons = {r["method"]: r["reason"] for r in records if r["status"] == "skipped"}
    assert "declares no detector" in reasons["SoftMax+torn"]
    assert "missing 1 required positional argument: 'must'" in reasons["SoftMax+needy"]
    check_refusal(
        command("run", "tiny", "--plugins", plugins, "--out", "other", "--methods", "torn"),
        "'torn' was asked for and is broken",
    )


# --- suites ---------------------------------------------------------------------------------------

SUITE = """\
schema_version: 1
name: pair
version: 1
title: A pair
summary: One benchmark that can be run and one whose images are nowhere
members:
  tiny: {network: Net, id: Digits}
  lost: {network: Net, id: Lost}
ood: {letters: Letters}
published: paper
tables:
  one:
    about: detection
    title: A table
    published: one
    measures: [auroc]
    columns: {MSP: SoftMax+MSP}
"""
PAPER = """\
schema_version: 1
name: paper
title: A paper
sources: {paper: {citation: A. Author. 2020., url: "https://example.org"}}
tables:
  one:
    source: paper
    place: Table 1
    title: A table
    columns: [MSP]
    measures: {auroc: {unit: percent, decimals: 1}}
    rows:
      - {network: Net, id: Digits, ood: Letters, values: {auroc: [12.3]}}
      - {network: Net, id: Lost, ood: Letters, values: {auroc: [45.6]}}
"""
LOST = """\
schema_version: 1
name: lost
title: Lost
summary: Nobody has these images
kind: folder
paths: {test: test}
shape: [1, 8, 8]
splits: {test: 10}
license: none
citation: none
"""


def with_suite(folder: Path) -> Path:
    """The folder of content with a suite; its second benchmark cannot be run."""
    content(folder, TINY.replace("[entropy]", "[baseline]").replace("SoftMax+DisMax", "#"))
    texts = {
        "benchmarks/pair.yaml": SUITE,
        "benchmarks/lost.yaml": "extends: tiny\nname: lost\nood: {near: [lost]}\n",
        "benchmarks/published/paper.yaml": PAPER,
        "data_manifests/lost.yaml": LOST,
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def suite_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """How a run of the suite ended, and its directory."""
    folder = tmp_path_factory.mktemp("suite")
    done = process(
        *("run", "pair", "--plugins", with_suite(folder / "content"), "--seeds", "1"),
        *("--device", "cpu", "--out", folder / "run"),
    )
    return done, folder / "run"


def test_a_suite_is_run_and_compared(suite_run: tuple[Done, Path]) -> None:
    done, folder = suite_run
    assert done.code == 3, f"a benchmark is missing\n{done.err}"
    assert "Traceback" not in done.err
    for said in ("[1/2] tiny", "[2/2] lost", "failed: lost: ", "Incomplete"):
        assert said in done.err, f"'{said}' is not in:\n{done.err}"
    for said in ("Suite pair, version 1", "1 of 2 benchmarks are complete", "12.3", "45.6"):
        assert said in done.out, f"'{said}' is not in:\n{done.out}"
    assert f"Run directory: {folder}" in done.out
    rows = list(csv.DictReader(io.StringIO((folder / "comparison.csv").read_text())))
    assert {row["id"]: bool(row["measured"]) for row in rows} == {"Digits": True, "Lost": False}


@pytest.mark.parametrize("name", ["table", "md", "csv", "json", "html", "latex"])
def test_reports_of_a_suite(command: Command, suite_run: tuple[Done, Path], name: str) -> None:
    done = command("report", suite_run[1], "--format", name)
    assert done.code == 0, done.err
    assert "SoftMax+MSP" in done.out
    assert ("0.456" if name in ("csv", "json") else "45.6") in done.out
    assert "matplotlib" not in done.err


def test_a_benchmark_of_a_suite_has_reports_like_any_other(
    command: Command, suite_run: tuple[Done, Path]
) -> None:
    done = command("report", suite_run[1] / "tiny")
    assert done.code == 0, done.err
    assert "Benchmark tiny, version 1" in done.out


def test_a_suite_without_any_data_says_so_once(command: Command, tmp_path: Path) -> None:
    plugins = with_suite(tmp_path / "content")
    suite = (plugins / "benchmarks" / "pair.yaml").read_text()
    suite = suite.replace("  tiny: {network: Net, id: Digits}\n", "")
    suite = suite.replace("ood: {letters: Letters}", "ood: {lost: Letters}")
    (plugins / "benchmarks" / "pair.yaml").write_text(suite)
    done = command("run", "pair", "--plugins", plugins, "--seeds", "1", "--out", "run")
    assert done.code == 2
    assert done.out == "", "no tables"
    assert done.err.count("data set 'lost' is missing: ") == 1
    assert (
        "error: No benchmark of suite 'pair' can be run: data sets are missing: lost." in done.err
    )
    assert not Path("run").exists()


@pytest.mark.parametrize("suite", ["dismax-paper-quick", "dismax-paper"])
def test_a_suite_without_network_says_what_to_fetch(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str
) -> None:
    monkeypatch.setenv("OODBENCH_OFFLINE", "1")
    monkeypatch.setenv("OODBENCH_DATA", str(tmp_path / "data"))
    done = command("run", suite, "--seeds", "1", "--device", "cpu", "--out", "run")
    assert done.code == 2
    for name in ("cifar10", "svhn"):
        (line,) = re.findall(rf"^.*'{name}' is missing.*$", done.err, re.MULTILINE)
        assert line.startswith(f"data set '{name}' is missing: it needs ")
        assert line.count("data set") == 1
    assert re.search("`oodbench data fetch [a-z0-9_ ]*cifar10 [a-z0-9_ ]*svhn", done.err)


@pytest.mark.parametrize("benchmark", ["tiny", "pair"])
def test_nothing_to_resume(command: Command, tmp_path: Path, benchmark: str) -> None:
    plugins = with_suite(tmp_path / "content")
    done = command(
        *("run", benchmark, "--plugins", plugins, "--seeds", "1", "--device", "cpu"),
        *("--methods", "SoftMax+MSP", "--out", "new", "--resume"),
    )
    assert done.err.count("There is nothing to resume in new: a new run begins there.") == 1
    assert done.code == {"tiny": 0, "pair": 3}[benchmark]
    done = command(
        *("run", "tiny", "--plugins", plugins, "--seeds", "1", "--device", "cpu"),
        *("--methods", "SoftMax+MSP", "--resume"),
        *("--out", {"tiny": "new", "pair": "new/tiny"}[benchmark]),
    )
    assert "nothing to resume" not in done.err
    assert "finished before" in done.err


def test_a_suite_goes_on(command: Command, suite_run: tuple[Done, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(suite_run[1], folder)
    options = ("--plugins", suite_run[1].parent / "content", "--seeds", "1", "--device", "cpu")
    check_refusal(command("run", "pair", *options, "--out", folder), "--resume")
    done = command("run", "pair", *options, "--out", folder, "--resume")
    assert done.code == 3, done.err
    assert "[1/2] tiny: finished before" in done.err


def test_the_plan_of_a_suite(command: Command, tmp_path: Path) -> None:
    plugins = with_suite(tmp_path / "content")
    done = command("run", "pair", "--plugins", plugins, "--dry-run", "--out", "run")
    assert done.code == 0, done.err
    for said in ("Plan of benchmark 'tiny'", "Plan of benchmark 'lost'", "Suite 'pair'", "FLOPs"):
        assert said in done.out
    assert not (tmp_path / "run").exists()


def test_suites_are_listed_among_the_benchmarks(command: Command) -> None:
    rows = {row["name"]: row for row in json.loads(command("list", "benchmarks", "--json").out)}
    assert rows["digits"]["kind"] == "benchmark"
    assert rows["dismax-paper"]["kind"] == "suite"
    assert len(rows["dismax-paper"]["members"]) == 6


def test_a_page_and_figures(command: Command, finished: Path, tmp_path: Path) -> None:
    done = command("report", finished, "--format", "html", "--figures", "figures")
    assert done.code == 0
    assert done.out.startswith("<!DOCTYPE html>")
    assert "Run of 20" in done.out
    assert "oodbench 0" in done.out
    assert list((tmp_path / "figures").glob("*.png"))
    assert "scores.png" in done.err
    command("report", finished, "--figures", "other", "--format", "md", "--out", "page.md")
    assert (tmp_path / "page.md").read_text().startswith("# Benchmark tiny")
    assert list((tmp_path / "other").glob("*.png"))


def test_a_compact_table(command: Command, finished: Path, suite_run: tuple[Done, Path]) -> None:
    done = command("report", finished, "--format", "latex", "--compact")
    assert done.code == 0
    assert done.out.count("\\begin{table}") == 1
    check_refusal(command("report", finished, "--compact"), "--compact", "--format latex")
    refused = command("report", suite_run[1], "--format", "latex", "--compact")
    check_refusal(refused, "--compact", "no leaderboard")


@pytest.mark.parametrize("width", [40, 120])
def test_a_report_is_as_wide_as_the_terminal(
    command: Command, finished: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = command("report", finished).out
    assert "\x1b[1m" in shown, "bold"
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert width - 20 < max(map(len, lines)) <= width
    monkeypatch.delenv("FORCE_COLOR")
    assert "\x1b" not in command("report", finished).out


@pytest.mark.parametrize("kind", ["detectors", "benchmarks", "datasets", "models"])
def test_piped_lists_have_one_line_for_each_row(command: Command, kind: str) -> None:
    rows = json.loads(command("list", kind, "--json").out)
    lines = command("list", kind).out.splitlines()
    assert len(lines) == len(rows) + 2
    for row, line in zip(rows, lines[2:], strict=True):
        assert line.startswith(row["name"])
        assert " ".join(row["summary"].split()) in line


def test_figures_of_a_run(command: Command, finished: Path, suite_run: tuple[Done, Path]) -> None:
    done = command("report", finished, "--figures", "drawn")
    assert done.code == 0, done.err
    assert done.out.split() == ["drawn/scores.png"], "no test accuracy was noted in training"
    assert Path("drawn/scores.png").read_bytes().startswith(b"\x89PNG")
    done = command("report", suite_run[1], "--figures", "drawn")
    assert (done.code, done.out) == (0, "There is nothing to draw in this run.\n")


# --- training -------------------------------------------------------------------------------------


def test_train_prints_checkpoints_and_is_cached(
    command: Command, plugins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    arguments = ("train", "tiny", "--plugins", plugins, "--seeds", "2", "--device", "cpu")
    first = command(*arguments)
    assert first.code == 0, first.err
    assert first.err.count(": trained, ") == 2, first.err
    lines = [line.split("  ") for line in first.out.splitlines()]
    assert [line[0] for line in lines] == ["SoftMax seed 0", "SoftMax seed 1"]
    paths = [Path(line[1]) for line in lines]
    written = [path.stat().st_mtime_ns for path in paths]
    assert all(path.suffix == ".safetensors" and path.stat().st_size > 1000 for path in paths)
    again = command(*arguments, "--model", "SoftMax")
    assert again.code == 0, again.err
    assert again.out == first.out
    assert again.err.count(": in the cache, ") == 2, again.err
    assert [path.stat().st_mtime_ns for path in paths] == written


def test_one_seed_is_trained_alone(command: Command, plugins: Path) -> None:
    arguments = ("train", "tiny", "--plugins", plugins, "--model", "SoftMax", "--device", "cpu")
    alone = command(*arguments, "--seed", "2")
    assert alone.code == 0, alone.err
    (line,) = alone.out.splitlines()
    assert line.startswith("SoftMax seed 2  ")
    together = command(*arguments, "--seeds", "3")
    assert together.out.splitlines()[2] == line, "the same checkpoint"
    assert together.err.count("seed 2: in the cache") == 1, together.err
