"""Values in files: an interrupt while they are written is an interrupt."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SerializerFunctionWrapHandler, model_serializer

from oodbench.written_values import WrittenValues


class Inner(WrittenValues):
    error: str = "none"

    @model_serializer(mode="wrap")
    def _dumped(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        if self.error == "interrupt":
            raise KeyboardInterrupt
        if self.error == "mistake":
            raise LookupError("a mistake")
        content: dict[str, Any] = dump(self)
        return content


class Outer(WrittenValues):
    inner: Inner = Inner()


def test_an_interrupt_in_a_serializer_is_an_interrupt() -> None:
    assert Outer().model_dump() == {"inner": {"error": "none"}}
    with pytest.raises(KeyboardInterrupt):
        Outer(inner=Inner(error="interrupt")).model_dump(mode="json")
    with pytest.raises(Exception, match="a mistake"):
        Outer(inner=Inner(error="mistake")).model_dump()
