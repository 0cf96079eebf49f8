"""Why something failed: the kinds of failure, and which of them another try may mend."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class FailureKind(StrEnum):
    """Why something failed; decides the exit code and whether it is tried again."""

    USAGE = "usage"  #: What was typed is wrong: no such module or attribute.
    USER = "user"  #: The user's own code raised; ``traceback`` is theirs.
    TASK = "task"  #: The task is not usable as it is: shapes, types, a missing metric.
    CRASHED = "crashed"  #: The training process ended by itself: a signal, or exit().
    STALLED = "stalled"  #: It gave no sign of life for too long.
    MEMORY = "memory"  #: It ran out of memory: the GPU's, or the limit of its worker.
    DISK = "disk"  #: It found no space left.
    LOST = "lost"  #: Its worker died, or its machine, or the line to it.
    RETURNED = "returned"  #: Given back in good order: it goes on from its checkpoint.
    INTERNAL = "internal"  #: justright itself failed on it.
    CHANGED = "changed"  #: The task's code is not what it was when the study began.
    REFUSED = "refused"  #: The worker may not run such a job.


#: What another try may mend. The user's own exceptions come again, so they are final.
WORTH_ANOTHER = frozenset(
    {
        FailureKind.CRASHED,
        FailureKind.STALLED,
        FailureKind.MEMORY,
        FailureKind.DISK,
        FailureKind.LOST,
        FailureKind.RETURNED,
        FailureKind.REFUSED,
    }
)


class Failure(BaseModel):
    """What went wrong, for people."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    kind: FailureKind
    message: str
    traceback: str = ""  #: The user's own.
    output: str = ""  #: The last lines that the training printed.
    #: It says something of the worker (no such file there, no such device): another may be able to.
    elsewhere: bool = False
    counts: bool = True  #: Against the trial's attempts; not where it got on all the same.

    @property
    def of_worker(self) -> bool:
        """Whether it speaks of the worker, and not of the study or the trial."""
        return self.elsewhere or self.kind is FailureKind.REFUSED
