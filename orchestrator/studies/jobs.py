"""The jobs of a study, as messages."""

from __future__ import annotations

from collections.abc import Sequence

from justright.messages import Job, LanePlan
from orchestrator.studies.study_record import StudyRecord
from orchestrator.studies.trial_record import TrialRecord


class JobFactory:
    """Makes jobs from what is known of the study. It sends nothing, and notes nothing."""

    def __init__(self, record: StudyRecord) -> None:
        self._record = record

    def train(self, job: str, trials: Sequence[TrialRecord], plan: LanePlan) -> Job:
        """Train these, all to the step of the first one."""
        works = tuple(record.work() for record in trials)
        return self._job(job, plan).model_copy(update={"trials": works, "until": trials[0].until})

    def inspect(self, job: str, lanes: int | None) -> Job:
        """Look at the task. ``lanes``: trials in a job; None: as many as are measured to pay."""
        spec = self._record.spec
        look = {"lanes": lanes, "most": spec.trials, "search": tuple(spec.search)}
        return self._job(job, LanePlan()).model_copy(update=look)

    def tidy(self, job: str) -> Job:
        """Remove what the study's trials have left in the store of checkpoints."""
        return self._job(job, LanePlan()).model_copy(update={"tidy": True})

    def _job(self, job: str, plan: LanePlan) -> Job:
        spec = self._record.spec
        return Job(
            id=job,
            study=spec.name,
            task=spec.task,
            epochs=spec.epochs,
            seed=spec.seed,
            metric=spec.metric,
            place=self._record.checkpoint_prefix,
            stall=spec.stall,
            plan=plan,
        )
