"""YAML files of benchmarks, JSON of run directories, lists of images."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from robustness.hostile_inputs.runs import edited_run, reading
from robustness.hostile_inputs.trial import Place, Trial, fetching, manifest

Words = list[str | Path]

# --- YAML ----------------------------------------------------------------------------------------


def _benchmark(change: Callable[[str], str | bytes], place: Place) -> Words:
    """A benchmark with another text."""
    text = (place.shared / "content" / "benchmarks" / "small.yaml").read_text()
    path = place.file("small.yaml", change(text))
    return ["run", path, "--plugins", place.shared / "content", "--dry-run"]


def _more(text: str) -> Callable[[str], str]:
    """With lines at the end."""
    return lambda benchmark: f"{benchmark}{text}\n"


def _first(text: str) -> Callable[[str], str]:
    """With lines at the start."""
    return lambda benchmark: f"{text}\n{benchmark}"


def _value(key: str, value: str) -> Callable[[str], str]:
    """With another value of a key of the first level."""

    def changed(benchmark: str) -> str:
        lines = [
            f"{key}: {value}" if line.startswith(f"{key}:") else line
            for line in benchmark.splitlines()
        ]
        return "\n".join(lines) + "\n"

    return changed


def _aliases(levels: int, form: str) -> str:
    """Values that repeat each other nine times a level."""
    first = "x0: &x0 {a: 1}" if "<<" in form else "x0: &x0 [1]"
    others = [
        f"x{level}: &x{level} {form.format(*[f'*x{level - 1}'] * 9)}" for level in range(1, levels)
    ]
    return "\n".join([first, *others])


LISTS = "[{}, {}, {}, {}, {}, {}, {}, {}, {}]"
MERGES = "{{<<: [{}, {}, {}, {}, {}, {}, {}, {}, {}], b: 1}}"
PARAMETERS = "methods: {{M: {{model: Net, detector: knn, parameters: {{k: {}}}}}}}"

YAML: dict[str, Callable[[str], str | bytes]] = {
    "aliases: 9**12 values, unknown keys": _first(_aliases(12, LISTS)),
    "aliases: 9**12 values, the name": lambda text: _first(_aliases(12, LISTS))(
        _value("name", "*x11")(text)
    ),
    "aliases: 9**12 values, a parameter": lambda text: _first(_aliases(12, LISTS))(
        _value("evaluation", "*x11")(text)
    ),
    "merges: 9**12 values": _first(_aliases(12, MERGES)),
    "aliases: 9**6 values": _first(_aliases(6, LISTS)),
    "alias to itself": _value("ood", "&x {near: [*x]}"),
    "brackets: 100,000": _value("title", "[" * 100_000),
    "brackets: 100,000, closed": _value("title", "[" * 100_000 + "]" * 100_000),
    "brackets: 900, closed": _value("title", "[" * 900 + "]" * 900),
    "maps: 900": _value("title", "{a: " * 900 + "1" + "}" * 900),
    "lists in lists: 50,000": _value("title", "\n  " + "- " * 50_000 + "1"),
    "keys that are keys: 50,000": _value("title", "\n  " + "? " * 50_000 + "1"),
    "a key twice": _more("title: Other"),
    "a key twice, deep inside": _value("evaluation", "{resamples: 100, resamples: 200}"),
    "runs code": _value("title", '!!python/object/apply:os.system ["touch x"]'),
    "a class": _value("title", "!!python/name:os.system ''"),
    "unknown tag": _value("title", "!mine {a: 1}"),
    "a set": _value("title", "!!set {a, b}"),
    "bytes": _value("title", "!!binary aGVsbG8="),
    "bytes that are none": _value("title", "!!binary '%%%'"),
    "pairs": _value("evaluation", "!!omap [resamples: 1]"),
    "a date": _value("title", "2020-01-01"),
    "a date that is none": _value("title", "2020-13-45"),
    "an integer of 5,000 digits": _value("version", "1" * 5000),
    "a hexadecimal integer of a million digits": _value("version", "0x" + "f" * 1_000_000),
    "a hexadecimal integer as a parameter": lambda text: text.replace(
        "{k: 5}", "{k: 0x" + "f" * 9999 + "}"
    ),
    "a list of such integers as a parameter": lambda text: text.replace(
        "{k: 5}", "{k: [[0x" + "f" * 9999 + "]]}"
    ),
    "NaN": _value("version", ".nan"),
    "infinity": lambda text: text.replace("epsilon: 0.01", "epsilon: .inf"),
    "1e999": lambda text: text.replace("epsilon: 0.01", "epsilon: 1e999"),
    "base 60": _value("version", "1:30:00"),
    "10**18 resamples": _value("evaluation", "{resamples: 1000000000000000000}"),
    "10**18 seeds": _value("evaluation", "{seeds: 1000000000000000000}"),
    "10**18 epochs": lambda text: text.replace("epochs: 1", "epochs: 1000000000000000000"),
    "a key of a megabyte": _more("k" * (1 << 20) + ": 1"),
    "a name that leads out": _value("name", "../../outside/new"),
    "a name with a line feed": _value("name", '"a\\nb"'),
    "a lone surrogate": _value("title", '"\\ud800"'),
    "a lone surrogate as a name": _value("name", '"\\ud800"'),
    "zero bytes": lambda text: text.encode() + b"\0",
    "UTF-16": lambda text: text.encode("utf-16"),
    "not UTF-8": lambda text: text.encode() + b"\xff\xfe",
    "20 MB of commas": _value("title", "[" + "a," * 10_000_000 + "]"),
    "two documents": _more("---\na: 1"),
    "an anchor of a megabyte": _value("title", "&" + "a" * (1 << 20) + " [x]"),
    "a network of a million characters": lambda text: text.replace("resnet8", "r" * 1_000_000),
    "extends itself": _first("extends: small.yaml"),
}


def _manifest(text: str, place: Place) -> Words:
    manifest(place)
    path = place.folder / "plugins" / "data_manifests" / "toy.yaml"
    content = json.loads(path.read_text())
    lines = "".join(f"{key}: {json.dumps(value)}\n" for key, value in content.items())
    path.write_text(lines + text)
    (place.folder / "data" / "toy" / "images").mkdir(parents=True)
    return fetching(place)


MANIFESTS = {
    "aliases in the options": _aliases(12, LISTS).replace("x11:", "options:"),
    "a path that leads out": 'folder: "../../outside"',
    "an absolute folder": "folder: /etc",
    "a file name that leads out": f"files: [{{name: ../../outside/new, sha256: {'a' * 64}}}]",
    "an address that is a file": "files: [{name: a, urls: ['file:///etc/passwd'], sha256: "
    + "a" * 64 + "}]",
    "10**18 bytes": f"files: [{{name: a, size: 1e18, sha256: {'a' * 64}}}]",
    "an image of a terabyte": "resize: {short_side: 1000000000000}",
}  # fmt: skip


# --- JSON ----------------------------------------------------------------------------------------


def _lines(change: Callable[[dict[str, Any]], str], command: str, place: Place) -> Words:
    """A run with another first record."""
    run = edited_run(place)
    path = run / "records.jsonl"
    first, rest = path.read_text().split("\n", 1)
    path.write_bytes((change(json.loads(first)) + "\n" + rest).encode("utf-8", "surrogatepass"))
    return reading(command, run)


def _with(**values: Any) -> Callable[[dict[str, Any]], str]:
    return lambda record: json.dumps({**record, **values})


def _raw(key: str, text: str) -> Callable[[dict[str, Any]], str]:
    """A value as it is written, JSON or not."""
    return lambda record: json.dumps({**record, key: "HERE"}).replace('"HERE"', text)


FAILED = {"status": "failed", "value": None, "ci_low": None, "ci_high": None}
RECORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "100,000 brackets": _raw("detector_params", "[" * 100_000 + "]" * 100_000),
    "900 brackets": _raw("detector_params", '{"a": ' + "[" * 900 + "]" * 900 + "}"),
    "100,000 open brackets": lambda record: "[" * 100_000,
    "an integer of 5,000 digits": _raw("seed", "1" * 5000),
    "an integer of 4,000 digits": _raw("seed", "1" * 4000),
    "a negative seed": _raw("seed", "-1"),
    "NaN": _raw("value", "NaN"),
    "infinity": _raw("value", "Infinity"),
    "1e999": _raw("value", "1e999"),
    "a key twice": lambda record: json.dumps(record)[:-1] + ', "value": 0.123}',
    "a lone surrogate": _raw("method", '"Net+\\ud800"'),
    "a lone surrogate as a reason": lambda record: _raw("reason", '"\\udfff"')(record | FAILED),
    "bytes of a surrogate": lambda record: json.dumps(record)[:-1] + ', "\ud800": 1}',
    "escapes of a terminal": _with(method="Net+\x1b[31mMSP"),
    "a method that leads out": _with(method="../../outside/new"),
    "a method of a megabyte": _with(method="M" * (1 << 20)),
    "true as a number": _with(value=True),
    "text as a number": _with(value="0.5"),
    "a list": lambda record: json.dumps([record]),
    "zero bytes": lambda record: "\0" * 1000,
    "a terabyte of images": _with(n_id=1 << 62),
    "an unknown schema": _with(schema_version=1 << 200),
}
HARMLESS = ("900 brackets", "a key twice", "a lone surrogate as a reason", "a terabyte of images")
"""Reports read the last of two values, and show reasons and counts as they are; `verify` finds
them where scores are stored."""


def _about(change: Callable[[dict[str, Any]], str | bytes], command: str, place: Place) -> Words:
    """A run with another run.json."""
    run = edited_run(place)
    path = run / "run.json"
    text = change(json.loads(path.read_text()))
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return reading(command, run)


def _resamples(about: dict[str, Any]) -> str:
    about["benchmark"]["evaluation"]["resamples"] = 10**12
    return json.dumps(about)


RUN_JSON: dict[str, Callable[[dict[str, Any]], str | bytes]] = {
    "100,000 brackets": lambda about: "[" * 100_000,
    "900 brackets": lambda about: json.dumps(about)[:-1] + ', "benchmark": {"a": '
    + "[" * 900 + "]" * 900 + "}}",
    "an integer of 5,000 digits": lambda about: json.dumps(about)[:-1] + ', "seeds": ['
    + "1" * 5000 + "]}",
    "NaN": lambda about: json.dumps(about)[:-1] + ', "seal": "x", "benchmark": {"a": NaN}}',
    "10**12 resamples": _resamples,
    "files that lead out": lambda about: json.dumps(
        {**about, "files": {"../../outside/secret": "0" * 64}}
    ),
    "text": lambda about: '"run"',
    "not UTF-8": lambda about: b"\xff\xfe{",
    "seeds: 10**30": lambda about: json.dumps({**about, "seeds": [10**30]}),
}  # fmt: skip


def _list(content: str | bytes, place: Place) -> Words:
    place.file("data/toy/list.txt", content)
    return manifest(place, kind="list", paths={"test": "list.txt"})


IMAGE_LISTS: dict[str, str | bytes] = {
    "a path of a megabyte": "a" * (1 << 20) + ".png",
    "a path with a zero": "a\0b.png",
    "a device": "/dev/zero\n" * 10,
    "not UTF-8": b"\xff\xfe\xfd",
    "no line end in 50 MB": b"x" * (50 << 20),
}


def trials() -> list[Trial]:
    """All of them."""
    found = [Trial("YAML", name, partial(_benchmark, change)) for name, change in YAML.items()]
    found += [Trial("YAML", name, partial(_manifest, text)) for name, text in MANIFESTS.items()]
    for command in ("report", "verify", "compare", "site", "leaderboard"):
        for name, change in RECORDS.items():
            ends = (0, 1, 2) if name in HARMLESS else (1, 2)
            make = partial(_lines, change, command)
            if command in ("report", "verify") or name in HARMLESS:
                found.append(Trial("records", f"{name} ({command})", make, ends))
    for command in ("report", "verify", "site"):
        found += [
            Trial("run.json", f"{name} ({command})", partial(_about, change, command), (0, 1, 2))
            for name, change in RUN_JSON.items()
        ]
    found += [Trial("list", name, partial(_list, text)) for name, text in IMAGE_LISTS.items()]
    return found
