"""Tables and costs of a result of `oodbench.evaluate`."""

from __future__ import annotations

import pytest
from helpers.user_network import Net, evaluated, pairs

from oodbench import metrics

pytestmark = pytest.mark.usefixtures("quick_evaluation")


def test_costs(trained: Net) -> None:
    result = evaluated(trained, {"mine": "odin", "e": "energy"}, costs=True)
    by_name = {cost.method: cost for cost in result.costs}
    assert [*by_name] == ["mine", "e"]
    assert (by_name["mine"].forwards_per_image, by_name["mine"].backwards_per_image) == (2, 1)
    assert (by_name["e"].forwards_per_image, by_name["e"].backwards_per_image) == (1, 0)
    ratio = by_name["mine"].relative_to_baseline
    assert ratio is not None
    assert ratio > 0
    for text in (result.to_text(), result.to_markdown(), result._repr_html_()):
        assert "Cost, " in text
        assert "baseline" in text
    with_baseline = evaluated(trained, ["energy", "baseline"], costs=True)
    assert [c.relative_to_baseline for c in with_baseline.costs if c.method == "baseline"] == [1.0]
    labeled = evaluated(trained, {"baseline": "odin"}, costs=True)
    (cost,) = labeled.costs
    assert cost.relative_to_baseline != 1.0, "a label is not taken for what it names"


def test_tables(trained: Net) -> None:
    result = evaluated(trained, ["baseline", "energy", "mmles"])
    text = result.to_text(100)
    assert text.startswith("2 detectors on Net\nIn-distribution: 60 images, 4 classes, accuracy ")
    assert "OOD: noise (50), inverted (40)." in text
    assert max(map(len, text.splitlines())) <= 100
    for nothing in ("Seed", "seed", "Benchmark", "Tuned", "Cost", "version"):
        assert nothing not in text
    assert repr(result) == str(result)
    auroc = f"{100 * metrics.auroc(*map(result.scores['energy'].get, ('id', 'noise'))):.1f}"  # type: ignore[arg-type]
    for shown in (text, result.to_markdown(), result._repr_html_()):
        assert auroc in shown
    frame = result.to_pandas().set_index("method")
    assert f"{100 * frame.loc['energy', 'auroc_noise']:.1f}" == auroc
    wide = result.to_pandas(wide=True).set_index("method")
    assert wide.loc["energy", "auroc.set.noise"] == frame.loc["energy", "auroc_noise"]
    assert frame.loc["mmles", "status"] == "skipped"
    assert "temperature 1" in result.to_markdown()
    page = result._repr_html_()
    assert "<html" not in page
    assert "<body" not in page
    rules = page.split("<style>")[1].split("</style>")[0]
    for rule in rules.split("}")[:-1]:
        for selector in rule.split("{")[0].split(","):
            assert selector.strip().startswith(".oodbench"), "nothing around it is restyled"


def test_ties_are_paired_differences(trained: Net) -> None:
    detectors = {"a": "energy", "b": "energy", "c": "baseline", "d": "odin"}
    result = evaluated(trained, detectors)
    board = result.leaderboard()
    assert board.tested
    rows = {row.method: row for row in board.rows}
    for key, entry in rows["a"].entries.items():
        assert entry.mark == rows["b"].entries[key].mark, "equal scores have equal marks"
    # The mean, the worst and two sets; the best one has none.
    assert len(result.differences) == 3 * 4 * 6
    text = " ".join(result.to_text().split())
    assert "their paired difference" in text
    assert "corrected for comparing 4 methods" in text
    assert "overlap" not in text
    assert "FPR95\N{DOWNWARDS ARROW}" in text
    one = evaluated(trained, ["energy"])
    assert {each.mark for row in one.leaderboard().rows for each in row.entries.values()} == {None}
    assert "Best of its column" not in one.to_text()


def test_tables_of_one_set_and_many(trained: Net) -> None:
    one = evaluated(trained, ["baseline"], ood_data={"noise": pairs(9, 2, "noise")}).to_text(80)
    assert "mean" not in one
    assert "worst" not in one.lower()
    many = {f"a data set with a long name {index}": pairs(9, index, "noise") for index in range(9)}
    text = evaluated(trained, ["baseline"], ood_data=many).to_text(80)
    assert max(map(len, text.splitlines())) <= 80
    assert "Not shown at this width" in text


def test_a_step_in_other_units_is_said(trained: Net) -> None:
    said = "normalization was not given, so the step of the input perturbation"
    assert said in " ".join(evaluated(trained, ["odin"], normalization=None).to_text().split())
    assert said not in " ".join(evaluated(trained, ["odin"]).to_text().split())


def test_it_prints_as_wide_as_the_terminal(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    result = evaluated(trained, ["baseline"])
    for columns, most in ((70, 70), (300, 120), (10, 60)):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert max(map(len, str(result).splitlines())) <= most
