"""What all messages share: JSON, frozen, with the version of their schema."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 2  #: The newest that is read. 2: a job that counts in optimizer steps.
FIRST_VERSION, STEPS_VERSION = 1, 2


# What is not finite would be written as null, and could not be read again.
DATA = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

Loss = Annotated[float | None, Field(allow_inf_nan=False)]


class Message(BaseModel):
    """What all messages share."""

    model_config: ClassVar[ConfigDict] = DATA

    v: int = Field(default=FIRST_VERSION, ge=1, le=SCHEMA_VERSION)

    def encode(self) -> str:
        """The message as one line of JSON."""
        return self.model_dump_json()
