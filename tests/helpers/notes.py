"""A progress reporter that keeps what it is told."""

from __future__ import annotations

from oodbench.progress import Silent


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.details: list[str] = []
        self.warnings: list[str] = []
        self.ends: list[str] = []

    def detail(self, text: str) -> None:
        self.details.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def done(self, text: str) -> None:
        self.ends.append(text)
