"""A short form of `scripts/robustness/same_records.py`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from robustness.same_records import campaign, compare

METHODS = ("Net+MSP", "Net+KNN", "Net+ODIN")


def test_records_do_not_depend_on_how_they_are_made(tmp_path: Path, one_thread: None) -> None:
    assert campaign(tmp_path, METHODS, (2,), lambda line: None) == []
    base, changed = tmp_path / "base", tmp_path / "changed"
    shutil.copytree(base, changed)
    lines = [json.loads(line) for line in (base / "records.jsonl").read_text().splitlines()]
    lines[0]["value"] += 1e-12
    (changed / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "value is" in compare(changed, base, METHODS)[0]
