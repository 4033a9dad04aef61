"""Which methods a run has that names none, and what it says of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.plans import benchmark, statuses
from helpers.tiny_benchmark import tiny_benchmark
from rich.console import Console

import oodbench
from oodbench.cli import plan_display
from oodbench.errors import UserError
from oodbench.planning.plan import Plan
from oodbench.planning.planner import make_plan
from oodbench.plugins.catalog import Catalog, DetectorStatus

NAMED = {"SoftMax+ODIN": {"model": "SoftMax", "detector": "odin"}}
MATRIX = {"models": ["SoftMax"], "detectors": "all"}


def planned(
    *,
    methods: list[str] | None = None,
    known: dict[str, DetectorStatus] | None = None,
    catalog: Catalog | None = None,
    **changes: Any,
) -> Plan:
    content = {"methods": NAMED, "matrix": MATRIX, "exclude": [], "default_detectors": ["entropy"]}
    spec = benchmark(**(content | changes))
    return make_plan(spec, catalog or Catalog(), known or statuses(), seeds=1, methods=methods)


def names(plan: Plan) -> list[str]:
    return [method.name for method in plan.methods]


def test_named_methods_and_the_chosen_detectors_run_and_the_others_are_left_out() -> None:
    plan = planned()
    assert names(plan) == ["SoftMax+ODIN", "SoftMax+Entropy"]
    # dismax_entropy cannot run; mahalanobis, which needs tuning, can.
    assert plan.left_out == ("baseline", "mahalanobis")
    assert plan.skips == ()


def test_all_runs_everything() -> None:
    plan = planned(methods=["all"])
    assert names(plan) == ["SoftMax+ODIN", "SoftMax+MSP", "SoftMax+Entropy", "SoftMax+Mahalanobis"]
    assert plan.left_out == ()
    assert [skip.detector for skip in plan.skips] == ["dismax_entropy"]


def test_all_stands_alone() -> None:
    with pytest.raises(UserError, match="'all' stands alone"):
        planned(methods=["all", "odin"])


@pytest.mark.parametrize("name", ["SoftMax+MSP", "baseline", "SoftMax+baseline", "msp"])
def test_names_work_whether_or_not_they_are_chosen(name: str) -> None:
    plan = planned(methods=[name])
    assert "SoftMax+MSP" in names(plan)
    assert plan.left_out == ()


def test_a_matrix_with_names_is_not_cut() -> None:
    plan = planned(matrix={"models": ["SoftMax"], "detectors": ["baseline"]})
    assert names(plan) == ["SoftMax+ODIN", "SoftMax+MSP"]


def test_names_are_checked_and_aliases_work() -> None:
    assert "SoftMax+MSP" in names(planned(default_detectors=["msp"]))
    with pytest.raises(UserError, match="default_detectors: unknown name 'entropi'") as caught:
        planned(default_detectors=["entropi"])
    assert "'entropy'" in caught.value.hint


def test_names_that_are_unknown() -> None:
    with pytest.raises(UserError, match="'ALL' is neither a method of benchmark") as caught:
        planned(methods=["ALL"])
    assert "'all'" in caught.value.hint


def test_a_plan_without_a_method_that_can_run_shows_why(capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(methods=["SoftMax+dismax_entropy"])
    assert plan.methods == ()
    Console(width=100).print(*plan_display.renderables(plan, 100))
    shown = capsys.readouterr().out
    assert "0 methods" in shown
    assert "needs a DisMax head" in shown


MINE = """
from oodbench import Detector, register

@register("{0}")
class {1}(Detector):
    def score(self, outputs):
        return outputs.logits.amax(dim=1)
"""


def test_detectors_of_plugins_are_always_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "detectors"
    folder.mkdir()
    (folder / "mine.py").write_text(MINE.format("mine", "Mine"))
    (folder / "torn.py").write_text("def\n")
    catalog = Catalog([tmp_path])
    plan = planned(catalog=catalog, known=catalog.detectors)
    assert names(plan) == ["SoftMax+ODIN", "SoftMax+Entropy", "SoftMax+Mine"]
    assert [skip.detector for skip in plan.skips] == ["torn"]
    assert "mine" not in plan.left_out
    assert len(plan.left_out) > 20


def test_a_broken_detector_that_is_left_out_is_no_skip() -> None:
    broken = DetectorStatus(None, "line 1")
    assert planned(known=statuses(energy=broken)).skips == ()
    (skip,) = planned(known=statuses(energy=broken), default_detectors=["energy"]).skips
    assert skip.reason == "the detector is broken: line 1"


def test_results_do_not_depend_on_the_choice() -> None:
    spec = benchmark(matrix=MATRIX, exclude=[])
    other = benchmark(matrix=MATRIX, exclude=[], default_detectors=["entropy"])
    assert spec.identity() == other.identity()


def test_the_plan_says_how_many_there_are_and_shows_none_of_them() -> None:
    console = Console(width=200)
    with console.capture() as capture:
        for part in plan_display.renderables(planned(), 200):
            console.print(part)
    text = capture.get()
    assert "2 more detectors" in text
    assert "Mahalanobis" not in text


def test_the_default_of_digits_is_a_dozen() -> None:
    catalog = Catalog()
    spec, known = catalog.benchmark("digits"), catalog.detectors
    plan = make_plan(spec, catalog, known)
    chosen = {method.detector.name for method in plan.methods}
    assert len(chosen) == 12
    assert not plan.skips
    every = make_plan(spec, catalog, known, methods=["all"])
    assert set(names(plan)) < set(names(every))
    assert {method.detector.name for method in every.methods} - chosen == set(plan.left_out)


def test_boards_say_how_many_there_are_until_they_have_run(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        tiny_benchmark(
            {"SoftMax+MSP": "baseline"},
            matrix="{models: [SoftMax], detectors: all}",
            default_detectors="[energy]",
        )
    )
    plugin = tmp_path / "mine" / "detectors"
    plugin.mkdir(parents=True)
    (plugin / "mine.py").write_text(MINE.format("mine", "Mine"))
    run = oodbench.run(path, out=tmp_path / "run", seeds=1, plugins=[tmp_path / "mine"])
    board = run.leaderboard()
    assert {row.detector for row in board.rows} == {"baseline", "energy", "mine"}
    many = len(board.left_out)
    for text in (board.to_text(), board.to_markdown(), board.to_html()):
        assert f"{many} more detectors" in " ".join(text.split())
    assert '"left_out": [' in board.to_json()
    assert oodbench.verify(tmp_path / "run").discrepancies == ()
    run = oodbench.run(
        path,
        out=tmp_path / "run",
        seeds=1,
        plugins=[tmp_path / "mine"],
        resume=True,
        methods=["SoftMax+GEN"],
    )
    assert len(run.leaderboard().rows) == 4
    assert set(board.left_out) - set(run.leaderboard().left_out) == {"gen"}
