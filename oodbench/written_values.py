"""Base class of all pydantic values that are written to files."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError


class WrittenValues(BaseModel):
    """Values whose `model_dump` can be interrupted.

    pydantic makes a Ctrl-C in a serializer an error of serialization.
    """

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """The values, with pydantic's options.

        Raises:
            KeyboardInterrupt: the user interrupts.
        """
        try:
            return super().model_dump(**options)
        except PydanticSerializationError as error:
            if isinstance(error.__cause__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
