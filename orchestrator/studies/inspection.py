"""The inspection of a task: a worker looks at it before any trial, and says what it is."""

from __future__ import annotations

from justright.failures import WORTH_ANOTHER, Failure, FailureKind
from justright.lane_plan import LanePlan
from justright.lifecycle import StudyState
from justright.messages import Inspection
from orchestrator.studies.study_record import StudyRecord

# What hangs or kills its process at the first look would do so again.
_AGAIN = WORTH_ANOTHER - {FailureKind.CRASHED, FailureKind.STALLED}


class TaskInspection:
    """Where the look at a study's task stands."""

    def __init__(self, record: StudyRecord, max_attempts: int) -> None:
        self._record, self._max_attempts = record, max_attempts
        self._tries = 1
        self._called_off: list[str] = []

    @property
    def job(self) -> str:
        """The job that looks at the task now; "": none."""
        return self._record.job if self._record.state == StudyState.INSPECTING else ""

    @property
    def plan(self) -> LanePlan:
        """How the study's trials are trained, as far as anybody has looked."""
        return self._record.inspection.plan if self._record.inspection else LanePlan()

    def awaits(self, event: Inspection) -> bool:
        """Whether this is the look that was asked for, and not an earlier one's."""
        return self._record.state == StudyState.INSPECTING and event.job == self._record.job

    def sent(self, job: str) -> None:
        """A worker was asked to look."""
        self._record.set_job(job)

    def call_off(self) -> None:
        """Nobody need look any more."""
        if self.job:
            self._called_off.append(self.job)
            self._record.set_job("")

    def take_called_off(self) -> tuple[str, ...]:
        """Jobs that were called off since the last call: nobody shall begin them."""
        found, self._called_off = tuple(self._called_off), []
        return found

    def tries_again(self, failure: Failure) -> bool:
        """After a look that failed: whether another worker shall look."""
        if failure.kind not in _AGAIN or self._tries >= self._max_attempts:
            return False
        self._tries += failure.kind != FailureKind.RETURNED
        self._record.forget_job()
        return True

    def start_anew(self) -> None:
        """Look again, with all tries left."""
        self._tries = 1
        self._record.set_job("")
