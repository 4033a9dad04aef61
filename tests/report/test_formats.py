"""Every format shows the same leaderboard, whole."""

from __future__ import annotations

import html
import random
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from helpers.boards import (
    METHODS,
    cost_records,
    differences,
    quality_records,
    unescaped,
)

from oodbench.report import Leaderboard
from oodbench.report.formats import FORMATS
from oodbench.report.leaderboard import ORACLE_LABEL


@pytest.mark.parametrize("name", FORMATS)
def test_no_method_and_no_reason_is_left_out(name: str, board: Leaderboard) -> None:
    text = unescaped(name, FORMATS[name](board))
    for wanted in (*METHODS, "DisMax+ReAct", "needs a linear_head", "SoftMax+Vim", "<inf>"):
        assert wanted in text, f"{name}: {wanted!r} is missing"
    assert "skipped" in text
    assert "failed" in text


@pytest.mark.parametrize("name", FORMATS)
def test_oracles_are_labeled_and_below(name: str, board: Leaderboard) -> None:
    text = unescaped(name, FORMATS[name](board))
    assert ORACLE_LABEL in text
    ranked = [text.index(method) for method in METHODS if "oracle" not in method]
    assert max(ranked) < text.index("SoftMax+ODIN (oracle)")


@pytest.mark.parametrize("name", FORMATS)
def test_the_order_of_records_does_not_change_a_byte(name: str, board: Leaderboard) -> None:
    records, costs = quality_records(3), cost_records(3)
    random.Random(2).shuffle(records)
    random.Random(3).shuffle(costs)
    shuffled = Leaderboard.from_records(records, costs, differences=differences(records))
    assert FORMATS[name](shuffled) == FORMATS[name](board)


@pytest.mark.parametrize("name", FORMATS)
def test_one_seed_and_no_costs(name: str, without_costs: Leaderboard) -> None:
    text = FORMATS[name](without_costs)
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", text.lower())
    if name in ("table", "md", "html", "latex"):
        assert "which one seed cannot show" in text.replace("\n  ", " ")
        assert "FLOPs" not in text
        assert "requires" not in text


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_but_skipped_methods(name: str) -> None:
    records = [record for record in quality_records(1) if record.status == "skipped"]
    text = unescaped(name, FORMATS[name](Leaderboard.from_records(records, [])))
    assert "DisMax+ReAct" in text
    assert "needs a linear_head" in text


@pytest.mark.parametrize("name", ["table", "md", "html", "latex"])
def test_the_values_of_a_single_set_are_shown_once(name: str) -> None:
    records = quality_records(1)
    kept = next(record.ood_dataset for record in records if record.ood_dataset)
    single = [record for record in records if record.ood_dataset in (None, kept)]
    texts = [
        unescaped(name, FORMATS[name](Leaderboard.from_records(chosen, [])))
        for chosen in (records, single)
    ]
    assert ["worst" in text.lower() for text in texts] == [True, False]
    assert ["on each OOD set" in text for text in texts] == [name != "table", False]


@pytest.mark.parametrize("name", ["table", "md", "html", "latex"])
def test_documents_explain_marks_and_intervals(name: str, board: Leaderboard) -> None:
    text = re.sub(r"\s+", " ", unescaped(name, FORMATS[name](board)))
    for wanted in (
        "= after a value: tied with the best.",
        "paired difference",
        "corrected for comparing 8 methods",
        "chosen by the same data",
        "share of OOD images accepted at the highest threshold",
        "100 % minus TNR@95TPR",
        "FPR95 (OOD positive) is another metric",
        "The 95% interval is the confidence interval of the mean",
        "Student's t interval",
        "share all test images",
        "standard deviation over seeds",
        "1,360 test images",
    ):
        assert wanted in text, f"{name}: {wanted!r} is missing"


def test_methods_with_missing_seeds_say_so() -> None:
    records = [r for r in quality_records(3) if (r.method, r.seed) != ("SoftMax+Energy", 2)]
    text = Leaderboard.from_records(records, []).to_markdown()
    assert re.search(r"\| SoftMax +\| Energy \(2/3 seeds\)", text)
    assert "fewer seeds than the others" in text


@pytest.mark.parametrize(
    ("steps", "shown"),
    [
        ((0.0, 0.0014, 0.0), "Required; chosen: epsilon 0, 0.0014, 0"),
        ((0.0, 0.0, 0.0), "Required; chosen: none (epsilon 0)"),
        ((0.01, 0.01), "Required; chosen: epsilon 0.01"),
    ],
)
def test_chosen_values_are_printed_by_seed(steps: tuple[float, ...], shown: str) -> None:
    records = [
        replace(r, detector_params={"epsilon": steps[r.seed], "k": 3})
        for r in quality_records(len(steps))
        if r.status == "ok"
    ]
    costs = [
        replace(cost, input_preprocessing=cost.method in ("SoftMax+ODIN", "SoftMax+MSP"))
        for cost in cost_records(len(steps))
    ]
    board = Leaderboard.from_records(records, costs)
    for name in ("table", "md", "html", "latex"):
        text = re.sub(r"\s+", " ", unescaped(name, FORMATS[name](board)))
        assert shown in text, name
        assert shown.split("(")[-1].removeprefix("Required; chosen: ").rstrip(")") + "; k 3" in text
        assert "per seed" not in text
    # What was not tuned did not choose.
    assert re.search(r"\| MSP +\| Required +\|", board.to_markdown())


def test_two_seeds_show_their_values() -> None:
    records = quality_records(2)
    board = Leaderboard.from_records(records, [], differences=differences(records))
    first = board.rows[0].entries["auroc", board.column("mean")].estimate.by_seed
    values = ", ".join(f"{100 * value:.1f}" for value in first.values())
    for name in ("table", "md", "html", "latex"):
        text = re.sub(r"\s+", " ", unescaped(name, FORMATS[name](board)))
        assert values in text, name
        assert "2 seeds: no interval over seeds" in text
        assert "Both seeds" in text or "Both \\\\ seeds" in text
        assert "Student" not in text
        assert "95% interval (%)" not in text
        assert "\N{PLUS-MINUS SIGN}" not in text


def test_training_and_detector_have_columns_of_their_own_where_there_is_room(
    board: Leaderboard,
) -> None:
    assert re.search(r"\| SoftMax +\| ODIN +\| FGSM", board.to_markdown())
    assert '<td class="text">SoftMax</td>\n<td class="text">ODIN</td>' in board.to_html()
    assert re.search(r" SoftMax +ODIN +FGSM", board.to_text(160))
    assert re.search(r" SoftMax\+ODIN +FGSM", board.to_text(100))


def test_arrows_say_which_way_is_better(board: Leaderboard) -> None:
    up, down = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"
    for text in (board.to_markdown(), html.unescape(board.to_html())):
        for wanted in (f"AUROC{up} mean (%)", f"FPR95{down} mean (%)", f"TNR@95TPR{up}"):
            assert wanted in text
        assert f"FPR95 (OOD positive){down}" in text
    assert r"FPR95$\downarrow$" in board.to_latex()
    assert f"AUROC{up}" in board.to_text(120)


def test_pages_say_when_and_with_what_they_were_made(board: Leaderboard) -> None:
    made = replace(board, about=("Run of 2026-01-02 03:04 UTC.", "oodbench 1.2, revision abc."))
    page = made.to_html()
    assert "Run of 2026-01-02 03:04 UTC. oodbench 1.2, revision abc." in page
    assert "Test accuracy of the models: SoftMax 97.5 %." in page
    for name in ("table", "md", "csv", "json", "latex"):
        assert FORMATS[name](made) == FORMATS[name](board), "the same whenever the scores are"


def test_a_notebook_shows_a_table(board: Leaderboard) -> None:
    shown = board._repr_html_()
    assert "<table" in shown
    assert "DisMax+Entropy" in shown or "<td" in shown
    assert "<html" not in shown
    assert repr(board) == (
        "<Leaderboard of 'toy_set' version 3: 10 methods, 3 seeds, best: DisMax+Entropy>"
    )


def test_reports_need_no_torch() -> None:
    code = (
        "import sys;"
        "from oodbench.report.writers import terminal, markdown, html, latex, run_files;"
        "print([m for m in ('torch', 'pandas', 'scipy.stats') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
