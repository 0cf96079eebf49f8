"""The signed envelope around what must not be forged: jobs, and commands to the orchestrator.

HMAC-SHA256 (RFC 2104) over the purpose, the expiry and the whole content, so that none of them can
be exchanged for another. The content of a job names its study, trials and attempts.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from justright.errors import ExpiredMessage, ForgedMessage, UsageError

_FINGERPRINT = 16  # hexadecimal digits
SHORTEST = 16  #: characters of a secret

Purpose = Literal["job", "command"]

# Long enough for a queue that is full or an orchestrator that is away, and far more than clocks
# of machines differ.
VALID: dict[Purpose, float] = {"job": 24 * 3600.0, "command": 7 * 24 * 3600.0}  #: seconds


class _Envelope(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    purpose: str
    expires: int = Field(ge=0)  #: Seconds since 1970.
    body: str
    mac: str


class Signer:
    """Seals and opens envelopes with one secret."""

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        """
        Raises:
            UsageError: the secret is too short to be one.
        """
        if len(secret) < SHORTEST:
            raise UsageError(
                f"JUSTRIGHT_SECRET has {len(secret)} characters, expected at least {SHORTEST}. "
                "Make one: openssl rand -hex 32"
            )
        self._key, self._clock = secret.encode(), clock

    @property
    def fingerprint(self) -> str:
        """Tells one secret from another, and nothing of what it is."""
        found = hmac.new(self._key, b"justright fingerprint", hashlib.sha256)
        return found.hexdigest()[:_FINGERPRINT]

    def seal(self, purpose: Purpose, body: str) -> str:
        """The content in its envelope: one line of JSON."""
        expires = int(self._clock() + VALID[purpose])
        mac = self._mac(purpose, expires, body)
        return _Envelope(purpose=purpose, expires=expires, body=body, mac=mac).model_dump_json()

    def open(self, purpose: Purpose, raw: str | bytes) -> str:
        """The content of an envelope.

        Raises:
            ForgedMessage: it is no envelope, of another purpose, altered, or of another secret.
            ExpiredMessage: it was ours, and its time has passed.
        """
        try:
            envelope = _Envelope.model_validate_json(raw)
        except ValidationError:
            raise ForgedMessage(f"found a {purpose} without a signature") from None
        expected = self._mac(purpose, envelope.expires, envelope.body)
        if envelope.purpose != purpose or not hmac.compare_digest(
            expected.encode(), envelope.mac.encode("utf-8", "replace")
        ):
            raise ForgedMessage(
                f"found a {purpose} whose signature is wrong: it was altered, or its sender has "
                "another JUSTRIGHT_SECRET"
            )
        late = self._clock() - envelope.expires
        if late > 0:
            raise ExpiredMessage(f"found a {purpose} that expired {late:.0f} s ago", envelope.body)
        return envelope.body

    def _mac(self, purpose: str, expires: int, body: str) -> str:
        # No part but the last can have a line break, so no two contents give the same text.
        text = f"justright\n{purpose}\n{expires}\n{body}"
        return hmac.new(self._key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
