"""Runs with detectors that fail: the others go on, and the reason has file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import Command, captured
from helpers.tiny_content import PLUGIN, TINY, check_refusal, content, reading

pytestmark = pytest.mark.usefixtures("one_thread", "kept_networks", "empty_folder")

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
    # Scored before the one that behaves: what it does must not reach the others.
    helper = "def f(outputs):\n    raise KeyError('gone')\n"
    plugins = content(folder / "content", reading(*texts), **texts, _helper=helper)
    done = captured(
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
    by_label = ("--plugins", plugins, "--out", "other", "--methods", "SoftMax+Label")
    said = ("'SoftMax+Label' is neither", "cannot be used: ", "torn: ", "declares no detector")
    check_refusal(command("run", "tiny", *by_label), *said)
