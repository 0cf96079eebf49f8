"""When a study ends by itself: its rules hold for every policy, also for one that never stops."""

from __future__ import annotations

from orchestrator.studies.clock import WorkClock
from orchestrator.studies.study_record import StudyRecord
from orchestrator.studies.study_search import StudySearch, most_trials
from orchestrator.studies.trial_book import TrialBook

_NOTHING_YET = (
    "the time was over ({timeout:g} s) before a worker had inspected the task, so nothing was "
    "trained: give it more --timeout, or see in its log what the task does when it is loaded"
)
_NOTHING_LEFT = "the search had nothing more to train, though it had not come to its end"


class Ending:
    """The rules of one study. They are looked at once in every turn."""

    def __init__(
        self, record: StudyRecord, clock: WorkClock, book: TrialBook, search: StudySearch
    ) -> None:
        self._record, self._clock, self._book, self._search = record, clock, book, search

    def reason(self) -> str | None:
        """The reason for which the study should end now, or None."""
        spec, trials = self._record.spec, self._book.trials
        if not self._record.working:
            return None
        if spec.timeout is not None and self._clock.elapsed >= spec.timeout:
            if self._record.inspection is None:
                self._record.warn(_NOTHING_YET.format(timeout=spec.timeout))
            return "timeout"
        if spec.target is not None and trials.best <= spec.target:
            return "target"
        if self._budget_is_spent():
            return "budget"
        if self._search.policy is None or not trials.idle:
            return None
        over = self._search.policy.stop_reason()
        if self._search.exhausted and over is None:
            self._record.warn(_NOTHING_LEFT)
            return "trials"
        if trials.all_finished and len(trials) >= most_trials(spec):
            return "trials"
        return over

    def _budget_is_spent(self) -> bool:
        """Whether it has trained for as many full trainings as it may. Lost attempts count."""
        inspection, budget = self._record.inspection, self._record.spec.budget
        if budget is None or inspection is None or inspection.horizon is None:
            return False
        return sum(record.trained for record in self._book.trials) >= budget * inspection.horizon
