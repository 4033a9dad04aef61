"""Values as text."""

from __future__ import annotations

from oodbench.report.leaderboard import Choice
from oodbench.report.tables.values import parameters_text


def test_parameters_text() -> None:
    same = Choice(0, None, {"temperature": 1000.0, "epsilon": 0.0014})
    other = Choice(1, None, {"temperature": 1000.0, "epsilon": 0.002})
    by_set = (Choice(2, "x", {"k": 1}), Choice(2, "y", {"k": 2}))
    assert parameters_text([same]) == "epsilon 0.0014; temperature 1000"
    assert parameters_text([same, other]) == "epsilon 0.0014, 0.002; temperature 1000"
    assert parameters_text(by_set) == "k 1 (x), 2 (y)"
    assert parameters_text([Choice(0, None, {"k": 1}), *by_set]) == "k 1 (x), 1, 2 (y)"
    assert parameters_text([Choice(0, None, {"taps": ["a", 2.0]})]) == "taps [a, 2]"
    assert parameters_text([same, other], ["temperature"]) == "temperature 1000"
    assert parameters_text([]) == "-"
