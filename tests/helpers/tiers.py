"""Which cases of a parametrized test run by default, and which with `make test-full` only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def by_default(kept: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """Cases for `pytest.mark.parametrize`: all but those of `kept` have the marker `full`.

    A case is a value, a tuple with a value for each argument of the test, or a `pytest.param` with
    an id, which `kept` names. Every member of `kept` must be a case, so that a renamed one does not
    leave the default tier without notice.
    """
    named = {_name(case): case for case in cases}
    kept = list(kept)
    assert kept
    assert all(name in named for name in kept), f"{kept} are not all among {list(named)}"
    return [_param(case, full=name not in kept) for name, case in named.items()]


def _name(case: Any) -> Any:
    return case.id if hasattr(case, "marks") else case


def _param(case: Any, *, full: bool) -> Any:
    marks = [pytest.mark.full] if full else []
    if hasattr(case, "marks"):
        return pytest.param(*case.values, marks=[*case.marks, *marks], id=case.id)
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks)
