"""A checkpoint as bytes: a line with a checksum, then the state in torch's own format."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import torch

from justright.errors import ArtifactError

_MAGIC = b"justright checkpoint 1 "

State = dict[str, Any]


class Damaged(ArtifactError):
    """A checkpoint that is not what was written."""


def pack(state: State) -> bytes:
    """A state of tensors and plain values as bytes: its SHA-256, then torch's own format.

    Raises:
        ArtifactError: it cannot be written: a model or optimizer keeps something else in it.
    """
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
    except Exception as error:  # whatever the user's own classes raise
        raise ArtifactError(f"its state cannot be saved: {error}") from error
    content = buffer.getvalue()
    return _MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def unpack(raw: bytes) -> State:
    """What ``pack`` was given. Nothing in it is run: torch's reader of tensors and plain values.

    Raises:
        Damaged: it is cut off, altered, or holds something else than tensors and plain values.
    """
    head, _, content = raw.partition(b"\n")
    if head != _MAGIC + hashlib.sha256(content).hexdigest().encode():
        raise Damaged("its checksum is wrong")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch and zip have one for each way of being unreadable
        raise Damaged(str(error).strip().partition("\n")[0] or type(error).__name__) from None
    if not isinstance(state, dict):
        raise Damaged(f"found a {type(state).__name__}")
    return state
