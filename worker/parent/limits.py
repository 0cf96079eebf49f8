"""What a training may take."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30  # bytes


@dataclass(frozen=True)
class Limits:
    """What a training may take of time and memory."""

    lease: float  #: Seconds without a heartbeat until the orchestrator takes a job back.
    grace: float  #: Seconds to save and leave in.
    memory: float  #: Bytes of its process.
    stall: float = 3600.0  #: Seconds without a sign of life, where the study does not say.
