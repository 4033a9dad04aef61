"""Single values of a records file, edited at random: each edit has to be found, at its line."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import oodbench
from oodbench.errors import ExitCode
from oodbench.metrics import METRICS
from oodbench.storage.description import sealed
from oodbench.storage.method_lines import MethodLines
from oodbench.storage.run_directory import RunDirectory

Content = dict[str, Any]

EDITS = 60


def edited(content: Content, others: list[Content], draw: random.Random) -> str:
    """Change one value of a record; return the name of its field."""
    field = draw.choice(sorted(content.keys()))
    value = content[field]
    known = [each[field] for each in others if each[field] != value]
    if field == "detector_params":
        name = draw.choice([*value, "temperature"])
        content[field] = {**value, name: draw.choice([0.5, 2, None, "x"])}
    elif field == "untuned":
        content[field] = ["epsilon"] if not value else draw.choice([None, [*value, "k"]])
    elif field == "metric":
        content[field] = draw.choice([m for m in (*METRICS, "id_accuracy", "f1") if m != value])
    elif isinstance(value, float):
        content[field] = draw.choice(
            [value + 1e-6, min(1.0, value + 0.01), round(value, 3) + 1e-5, float("nan"), None, 1.5]
        )
    elif isinstance(value, int):
        content[field] = draw.choice([value + 1, value + 100, 0 if value else 7, -1, str(value)])
    elif known and draw.random() < 0.6:
        content[field] = draw.choice(known)
    else:
        content[field] = draw.choice([f"{value}x", "", 3])
    return field


def write(folder: Path, contents: list[Content], *, forged: bool) -> None:
    """Write the records; a forger writes the digests of run.json again, too."""
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in contents), encoding="utf-8")
    if not forged:
        return
    directory = RunDirectory(folder)
    description = json.loads(directory.description_path.read_text(encoding="utf-8"))
    description["files"]["records.jsonl"] = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        records, costs = directory.read_records()
    except oodbench.UserError:
        records, costs = [], []
    of_cost = {(cost.method, cost.seed): cost for cost in costs}
    groups: dict[tuple[str, int], Any] = {}
    for record in records:
        groups.setdefault((record.method, record.seed), []).append(record)
    description["records"] = [
        {
            "method": key[0],
            "seed": key[1],
            "sha256": MethodLines.of(group, of_cost.get(key)).digest,
        }
        for key, group in groups.items()
    ] or description["records"]
    directory.description_path.write_text(json.dumps(sealed(description)), encoding="utf-8")


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Callable[[], Path]:
    def copy() -> Path:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return Path(shutil.copytree(finished, tmp_path / "run"))

    return copy


@pytest.mark.parametrize("forged", [False, True])
def test_each_random_edit_is_found(copied: Callable[[], Path], forged: bool) -> None:
    draw = random.Random(20 + forged)
    folder = copied()
    text = (folder / "records.jsonl").read_text(encoding="utf-8")
    missed, elsewhere = [], []
    for _ in range(EDITS):
        contents = [json.loads(line) for line in text.splitlines()]
        place = draw.randrange(len(contents))
        before = dict(contents[place])
        field = edited(contents[place], contents, draw)
        edit = f"line {place + 1}: {field}: {before[field]!r} -> {contents[place][field]!r}"
        folder = copied()
        write(folder, contents, forged=forged)
        found = oodbench.verify(folder)
        if found.exit_code != ExitCode.FINDING:
            missed.append(edit)
        elif found.discrepancies[0].line != place + 1:
            elsewhere.append(f"{edit}; found: {found.discrepancies[0]}")
    assert not missed, f"{len(missed)} of {EDITS} edits were not found: {missed}"
    assert not elsewhere
    assert oodbench.verify(copied()).exit_code == ExitCode.OK
