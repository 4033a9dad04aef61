"""Runs that score in shards: the records of a run without, and what is kept of a stopped one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from engine.test_workers import decisive
from helpers.commands import Command
from helpers.finished_run import check_same, description, records, run
from helpers.notes import Notes

from oodbench.engine.cells import shard_evaluator
from oodbench.engine.cells.shard_evaluator import ShardEvaluator
from oodbench.engine.cells.sharded_cells import FOLDER
from oodbench.engine.executors import executor_choice
from oodbench.engine.executors.executor import Ended
from oodbench.engine.executors.in_process import InProcess
from oodbench.engine.model_evaluation import ModelEvaluation
from oodbench.errors import InterruptedRun, UserError
from oodbench.files import cache_folder, canonical_json
from oodbench.progress import Silent
from oodbench.storage.run_directory import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread", "content")

ONE: dict[str, Any] = {"seeds": 1, "methods": ["SoftMax+MSP", "SoftMax+ODIN"]}


ONLY = ("--methods", "SoftMax+MSP")


def fitted_files() -> list[Path]:
    return list(cache_folder().glob("fitted/*"))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often detectors are fitted, and shards are scored."""
    done: Counter[str] = Counter()
    score, fit = ShardEvaluator._scored, ModelEvaluation.run

    def scored(self: Any, held: Any, shard: Any) -> Any:
        done["shards"] += 1
        return score(self, held, shard)

    def fitted(self: Any, **options: Any) -> None:
        done["fits"] += 1
        fit(self, **options)

    monkeypatch.setattr(ShardEvaluator, "_scored", scored)
    monkeypatch.setattr(ModelEvaluation, "run", fitted)
    return done


@pytest.fixture(scope="module")
def whole(content: Path, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one model and seed without shards."""
    return run(tmp_path_factory.mktemp("whole") / "run", **ONE).folder


class Stopping(Silent):
    """As a user who presses Ctrl-C when a stage begins."""

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def stage(self, text: str) -> None:
        if self._stage in text:
            raise KeyboardInterrupt


def stopped(folder: Path, stage: str) -> list[Path]:
    """A run that was stopped; returns the shards that it has kept."""
    with pytest.raises(InterruptedRun):
        run(folder, **ONE, shard_images=100, progress=Stopping(stage))
    return sorted(folder.rglob("shards/**/*.npz"))


def test_shards_give_what_whole_sets_give(whole: Path, tmp_path: Path, steps: Counter[str]) -> None:
    done = run(tmp_path / "run", **ONE, shard_images=100)
    assert done.complete, done.failures
    check_same(done.folder, whole)
    assert steps == {"fits": 1, "shards": 9}
    assert canonical_json(decisive(done.folder)) == canonical_json(decisive(whole))
    counts, expected = (
        [
            (each.method, each.forwards_per_image, each.flops_per_image, each.peak_memory_bytes)
            for each in RunDirectory(folder).read_records()[1]
        ]
        for folder in (done.folder, whole)
    )
    assert counts == expected
    assert not (done.folder / FOLDER).exists()
    assert not fitted_files()


def test_a_stopped_run_continues_at_the_next_shard(
    whole: Path, tmp_path: Path, steps: Counter[str]
) -> None:
    folder = tmp_path / "run"
    assert len(stopped(folder, "shard 4 of 9")) == 3
    assert len(fitted_files()) == 1
    assert steps == {"fits": 1, "shards": 3}
    with pytest.raises(InterruptedRun):
        run(folder, **ONE, shard_images=100, resume=True, progress=Stopping("costs and records"))
    assert steps == {"fits": 1, "shards": 9}
    done = run(folder, **ONE, shard_images=100, resume=True)
    assert done.complete
    assert steps == {"fits": 1, "shards": 9}
    check_same(folder, whole)
    assert not (folder / FOLDER).exists()
    assert not fitted_files()


def test_what_was_damaged_or_is_of_other_work_is_computed_again(
    whole: Path, tmp_path: Path, steps: Counter[str]
) -> None:
    folder = tmp_path / "run"
    first, second, _ = stopped(folder, "shard 4 of 9")
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:100])
    (fitted,) = fitted_files()
    content = bytearray(fitted.read_bytes())
    content[-1] ^= 1
    fitted.write_bytes(content)
    steps.clear()
    assert run(folder, **ONE, shard_images=100, resume=True).complete
    assert steps == {"fits": 1, "shards": 8}
    check_same(folder, whole)


def test_other_shards_or_none_continue_the_run(
    whole: Path, tmp_path: Path, steps: Counter[str]
) -> None:
    for images in (300, None):
        folder = tmp_path / f"{images}"
        stopped(folder, "shard 4 of 9")
        steps.clear()
        assert run(folder, **ONE, shard_images=images, resume=True).complete
        assert steps["fits"] == (images is None), "other shards need no other fit"
        check_same(folder, whole)
        assert not (folder / FOLDER).exists()
        assert not fitted_files()


def test_several_workers_score_one_cell(whole: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "run", **ONE, shard_images=100, workers=2)
    assert done.complete, done.failures
    check_same(done.folder, whole)
    environment = description(done.folder)["environment"]
    assert (environment["threads"], environment["workers"]) == (1, 2)


class LosingShards(InProcess[Any]):
    """Loses the second and third shard."""

    def ended(self) -> Any:
        for ended in super().ended():
            lost = any(f"shard {number} of" in ended.task.label for number in (2, 3))
            yield Ended(ended.task, None, "its worker process ended twice") if lost else ended


def test_a_lost_shard_fails_its_cell_and_the_others_are_kept(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: Counter[str]
) -> None:
    folder, notes = tmp_path / "run", Notes()
    with monkeypatch.context() as patch:
        patch.setattr(executor_choice, "InProcess", LosingShards)
        done = run(folder, **ONE, shard_images=100, progress=notes)
    assert not done.complete
    ends = [said for said in notes.ends if said.startswith("SoftMax, seed 0")]
    assert ends == ["SoftMax, seed 0: FAILED: its worker process ended twice"], "a cell ends once"
    assert {each["reason"] for each in records(folder)} == {"its worker process ended twice"}
    steps.clear()
    assert run(folder, **ONE, shard_images=100, resume=True).complete
    assert steps == {"shards": 2}
    check_same(folder, whole)


def test_a_state_that_cannot_be_stored_is_scored_by_the_worker_that_fitted(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: Counter[str]
) -> None:
    def refused(*args: Any) -> None:
        raise UserError("Detector 'mine' cannot be saved: its attribute 'f' is a function (f).")

    monkeypatch.setattr(shard_evaluator, "write_fitted", refused)
    with pytest.warns(UserWarning, match="one worker scores all shards.*attribute 'f'"):
        done = run(tmp_path / "run", **ONE, shard_images=100)
    assert done.complete
    assert steps == {"fits": 1, "shards": 9}
    check_same(done.folder, whole)


def test_methods_that_fail_have_the_reasons_of_a_whole_run(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    (plugins / "detectors").mkdir(parents=True)
    (plugins / "detectors" / "late.py").write_text(LATE)
    options = {"seeds": 1, "methods": ["SoftMax+MSP", "late"], "plugins": [plugins]}
    expected, done = (
        run(tmp_path / name, **options, shard_images=images)
        for name, images in (("whole", None), ("shards", 100))
    )
    assert done.failures == expected.failures
    assert "image 407 of 'digits'" in done.failures[0]
    assert records(done.folder) == records(expected.folder)


LATE = """
from oodbench import Detector, register


@register("late")
class Late(Detector):
    \"\"\"Not finite from the fifth call on: two calls are of parts of the first batch.\"\"\"

    def __init__(self):
        self.calls = 0

    def score(self, outputs):
        self.calls += 1
        scores = outputs.logits.amax(dim=1)
        scores[7:8] /= float(self.calls < 5)
        return scores
"""


def test_the_plan_shows_the_shards(command: Command) -> None:
    done = command("run", "tiny", *ONLY, "--shard-images", "100", "--dry-run")
    said = " ".join(done.out.split())
    assert "scored in 9 shards of at most 200 images: digits 3, letters 3, uniform-noise 3" in said


def test_numbers_that_are_refused(command: Command) -> None:
    for number in ("0", "-3", "many"):
        assert command("run", "tiny", "--shard-images", number).code == 2
    with pytest.raises(UserError, match="shard_images: expected a whole number from 1, not 0"):
        run(Path("never"), shard_images=0)
    with pytest.raises(UserError, match="shard_images: expected a whole number"):
        run(Path("never"), shard_images=2.5)
