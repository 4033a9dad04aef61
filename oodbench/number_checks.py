"""Checks of numbers that a class is made with: hyperparameters of detectors, options of losses."""

from __future__ import annotations


def positive(name: str, value: float) -> float:
    """A value that must be above 0.

    Raises:
        ValueError: if it is not.
    """
    if not value > 0:
        raise ValueError(f"{name} must be positive, not {value}")
    return value


def not_negative(name: str, value: float) -> float:
    """A value that must be at least 0.

    Raises:
        ValueError: if it is not.
    """
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, not {value}")
    return value


def whole(name: str, value: float) -> int:
    """A value that must be a positive whole number; 2.0 is one.

    Raises:
        ValueError: if it is not.
    """
    if not (value >= 1 and value == int(value)):
        raise ValueError(f"{name} must be a positive whole number, not {value}")
    return int(value)
