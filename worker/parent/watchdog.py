"""Watches over the job that the child has: does it live, has it room, shall it end?"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from justright.failures import FailureKind
from worker.parent.child_process import START_PATIENCE, Child
from worker.parent.limits import GIB, Limits
from worker.user_code.guard import users_frames


@dataclass(frozen=True)
class GivenUp:
    """Why the child is to be ended in the middle of a job."""

    kind: FailureKind
    message: str
    output: str  #: What the child printed last, or where it hangs.


class Watchdog:
    """What the parent knows of the job that its child has."""

    def __init__(self, child: Child, limits: Limits, stall: float | None) -> None:
        """``stall``: the seconds without a sign of life that the job itself allows."""
        self._child, self._limits = child, limits
        self._stall = stall or limits.stall
        self._began = self._alive = time.monotonic()  # _alive: the last sign of life
        self._asked = ""  # why the child was asked to give its trials back
        self._leave_by = math.inf  # ... and until when
        self._full = ""  # how the child holds more memory than it may

    def note_sign_of_life(self) -> None:
        """The child has said something."""
        self._alive = time.monotonic()

    def watch_another(self, child: Child) -> None:
        """A new child has the job: nothing was asked of this one."""
        self._child, self._asked = child, ""

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life."""
        return time.monotonic() - self._alive

    @property
    def outgrown(self) -> bool:
        """Whether the child holds more memory than it may, or did."""
        return bool(self._full) or self._child.memory() > self._limits.memory

    def check(self, stopping: bool, leave_by: float) -> GivenUp | None:
        """Why the job has ended, for a reason of ours; a child that shall leave is asked to.

        ``stopping``: the worker was asked to leave, and has to be gone by ``leave_by``.
        """
        now = time.monotonic()
        if not self._child.ready:
            self._alive = max(self._alive, min(now, self._began + START_PATIENCE))
        if now - self._alive > self._stall:
            message = (
                f"no sign of life for {self._stall:g} s. It hangs, or its steps take longer: then "
                "say so with --stall SECONDS"
            )
            return GivenUp(FailureKind.STALLED, message, users_frames(self._child.stacks()))
        if stopping and not self._asked:
            self._ask_to_leave("the worker was asked to leave", leave_by)
        memory = 0 if self._asked else self._child.memory()
        if memory > self._limits.memory:
            self._full = (
                f"its process holds {memory / GIB:.1f} GiB, its worker's limit is "
                f"{self._limits.memory / GIB:.1f} GiB (--memory)"
            )
            self._ask_to_leave(self._full, now + self._limits.grace)
        if not self._asked or now < min(self._leave_by, leave_by):
            return None
        kind = FailureKind.MEMORY if self._full else FailureKind.RETURNED
        return GivenUp(kind, self._asked, self._child.output.tail())

    def _ask_to_leave(self, reason: str, by: float) -> None:
        self._asked, self._leave_by = reason, by
        # Given back, it goes on from its checkpoint; one that needs this much from its first
        # step on would come back for ever, so that counts as a failure.
        self._child.send({"leave": reason, "failure": "memory" if self._full else "returned"})
