"""What a check asserts, and what it raises."""

from __future__ import annotations

from unittest import SkipTest

from torch import Tensor

ROUNDING = 1e-8
"""How far float64 scores may differ that should not, relative to their spread and their size."""

SINGLE_PRECISION = 1e-3
"""The same for float32 features."""


class CheckFailed(AssertionError):  # noqa: N818 - read as "check failed: ..."
    """A detector does not conform.

    Args:
        seen: what the check saw, with numbers; no final period.
        remedy: what to do; one or two sentences.
        detector: its name.
    """

    def __init__(self, seen: str, remedy: str = "", detector: str = "") -> None:
        text = f"{detector}: {seen}" if detector else seen
        super().__init__(f"{text}. {remedy}" if remedy else text)
        self.seen, self.remedy = seen, remedy


class NotRun(SkipTest):
    """A check that cannot be made here, and why; pytest counts it as skipped."""


class NotApplicable(NotRun):
    """A check that says nothing about a detector of this kind, and why."""


def expect(condition: bool, seen: str, remedy: str = "") -> None:
    """Fail unless a condition holds.

    Raises:
        CheckFailed: if it does not.
    """
    if not condition:
        raise CheckFailed(seen, remedy)


def said(error: Exception) -> str:
    """Type and first line of an exception."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def expect_same(
    found: Tensor, expected: Tensor, tolerance: float, what: str, remedy: str = ""
) -> None:
    """Scores are the same up to rounding.

    Args:
        found: shape [B].
        expected: shape [B].
        tolerance: see `differing`; 0: bit for bit.
        what: how `found` came about; begins the message.
        remedy: what to do if they differ.

    Raises:
        CheckFailed: if they differ.
    """
    expect(found.shape == expected.shape, f"{what}: {list(found.shape)} scores", remedy)
    worst, difference, allowed = differing(found, expected, tolerance)
    expect(
        difference <= allowed,
        f"{what}: image {worst} has {float(found[worst]):.9g}, expected "
        f"{float(expected[worst]):.9g} (they differ by {difference:.2g}, allowed is "
        f"{allowed:.2g})",
        remedy,
    )


def differing(found: Tensor, expected: Tensor, tolerance: float) -> tuple[int, float, float]:
    """The image whose scores differ most, by how much, and what is allowed.

    Args:
        found: shape [B].
        expected: shape [B].
        tolerance: relative to the spread, and a hundredth of it to the size.
    """
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    spread = float(expected.std()) if len(expected) > 1 else 0.0
    allowed = tolerance * (spread + float(expected.abs().max()) / 100)
    difference = (found - expected).abs().nan_to_num(float("inf"))
    worst = int(difference.argmax())
    return worst, float(difference[worst]), allowed
