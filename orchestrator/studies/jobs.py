"""The jobs of a study, as messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from justright.lane_plan import LanePlan
from justright.messages import Inspection, InspectJob, TidyJob, TrainJob
from justright.spec import TaskRef
from orchestrator.studies.study_record import StudyRecord
from orchestrator.studies.trial_record import TrialRecord


class _Common(TypedDict):
    """What every job of a study says."""

    id: str
    study: str
    task: TaskRef
    checkpoint_prefix: str
    stall: float | None


class JobFactory:
    """Makes jobs from what is known of the study. It sends nothing, and notes nothing."""

    def __init__(self, record: StudyRecord) -> None:
        self._record = record

    def train(self, job: str, trials: Sequence[TrialRecord], plan: LanePlan) -> TrainJob:
        """Train these, all to the step of the first one."""
        spec, inspection = self._record.spec, self._record.inspection
        until = trials[0].until
        return TrainJob(
            **self._common(job),
            epochs=spec.epochs,
            steps=spec.steps,
            until=until,
            marks=_marks(inspection, until),
            seed=spec.seed,
            metric=spec.metric,
            known_metric=self._record.metric,
            trials=tuple(record.work() for record in trials),
            sources=inspection.sources if inspection else {},
            plan=plan,
        )

    def inspect(self, job: str, lanes: int | None) -> InspectJob:
        """Look at the task. ``lanes``: trials in a job; None: as many as are measured to pay."""
        spec = self._record.spec
        return InspectJob(
            **self._common(job),
            epochs=spec.epochs,
            steps=spec.steps,
            seed=spec.seed,
            search=tuple(spec.search),
            lanes=lanes,
            most=spec.trials,
        )

    def tidy(self, job: str) -> TidyJob:
        """Remove what the study's trials have left in the store of checkpoints."""
        return TidyJob(**self._common(job))

    def _common(self, job: str) -> _Common:
        spec = self._record.spec
        return {
            "id": job,
            "study": spec.name,
            "task": spec.task,
            "checkpoint_prefix": self._record.checkpoint_prefix,
            "stall": spec.stall,
        }


def _marks(inspection: Inspection | None, until: int | None) -> tuple[int, ...]:
    """Where a job of a task takes losses: those that pause need more of them than the others."""
    if inspection is None or inspection.kind != "task" or inspection.steps is None:
        return ()
    if until is None:
        return inspection.coarse_marks
    return (*(mark for mark in inspection.marks if mark < until), until)
