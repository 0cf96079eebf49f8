"""The jobs of a study, as messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from justright.lane_plan import LanePlan
from justright.messages import InspectJob, TidyJob, TrainJob
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
        spec = self._record.spec
        return TrainJob(
            **self._common(job),
            epochs=spec.epochs,
            until=trials[0].until,
            seed=spec.seed,
            metric=spec.metric,
            known_metric=self._record.metric,
            trials=tuple(record.work() for record in trials),
            sources=self._record.inspection.sources if self._record.inspection else {},
            plan=plan,
        )

    def inspect(self, job: str, lanes: int | None) -> InspectJob:
        """Look at the task. ``lanes``: trials in a job; None: as many as are measured to pay."""
        spec = self._record.spec
        return InspectJob(
            **self._common(job),
            epochs=spec.epochs,
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
