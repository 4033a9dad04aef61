"""Spec of a reduced run for a first try: fewer images, fewer epochs."""

from __future__ import annotations

from pydantic import model_validator

from oodbench.errors import counted
from oodbench.specs.spec_base import LIMITED, PositiveInt, Spec


class LimitSpec(Spec):
    """Limits for a first try; results of a limited run are not results of the benchmark.

    Set by `--limit` and `--epochs`, not in a benchmark's file.
    """

    images: PositiveInt | None = None
    """Maximum number of images of each split."""
    epochs: PositiveInt | None = None
    """Maximum number of training epochs."""

    @model_validator(mode="after")
    def _limits_something(self) -> LimitSpec:
        if self.images is None and self.epochs is None:
            raise ValueError("give images, epochs, or both")
        return self

    @property
    def label(self) -> str:
        """Text that every report shows with such results."""
        parts = [] if self.images is None else [f"{counted(self.images, 'image')} a set"]
        parts += [] if self.epochs is None else [counted(self.epochs, "epoch")]
        return f"{LIMITED}{' and '.join(parts)}"

    @property
    def weakens(self) -> str:
        """Remark for warnings about low accuracy; "" if the epochs are not limited."""
        if self.epochs is None:
            return ""
        return (
            f"The network was trained for {counted(self.epochs, 'epoch')} only (--epochs), which "
            "may be the reason."
        )

    def labeled(self, name: str) -> str:
        """A name with the limit's label: limited results never mix with others."""
        return f"{name} ({self.label})"

    def check(self, name: str) -> None:
        """Raise ValueError for a name without the limit's label."""
        if not name.endswith(f" ({self.label})"):
            raise ValueError("limited: is not for files; run with --limit N or --epochs N")
