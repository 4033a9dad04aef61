"""Stored runs: a whole run directory, or a committed leaderboard of records alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.stored_runs import draw, write_run

from oodbench.errors import UserError
from oodbench.storage.stored_run import read_stored_run


def test_a_run_directory(tmp_path: Path) -> None:
    scores = draw(0)
    write_run(tmp_path / "run", {("A", 0): scores})
    for path in (tmp_path / "run", tmp_path / "run" / "records.jsonl"):
        run = read_stored_run(path)
        assert (run.folder, run.name) == (tmp_path / "run", "run")
        assert {record.method for record in run.records} == {"A"}
        assert [each.method for each in run.costs] == ["A"]
        assert run.description is not None
        assert not run.changed
        assert run.has_scores("A", 0)
        assert not run.has_scores("A", 1)
        assert run.scores("A", 1) is None
        stored = run.scores("A", 0)
        assert stored is not None
        assert stored.keys() == scores.keys()
        np.testing.assert_array_equal(stored["id"], scores["id"])


def test_records_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {("A", 0): draw(0)}, weights=None, keep_scores=False)
    (tmp_path / "run" / "costs.jsonl").unlink()
    run = read_stored_run(tmp_path / "run")
    assert run.description is None
    assert not run.costs
    assert run.scores("A", 0) is None


def test_what_holds_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "records.jsonl"):
        with pytest.raises(UserError, match="holds no run"):
            read_stored_run(path)
    (tmp_path / "runs").mkdir()
    for path in (tmp_path / "run", tmp_path / "run" / "records.jsonl"):
        with pytest.raises(UserError, match="There is no folder") as error:
            read_stored_run(path)
        assert f"Did you mean {tmp_path / 'runs'}?" in error.value.hint
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(UserError, match="nothing of this run is finished"):
        read_stored_run(tmp_path)


def test_edited_files_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {("A", 0): draw(0)})
    (run.folder / "costs.jsonl").write_text("")
    assert read_stored_run(run.folder).changed == ("costs.jsonl",)
