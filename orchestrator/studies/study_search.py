"""The search of one study: its policy, from the inspection of the task on."""

from __future__ import annotations

from collections.abc import Callable

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from justright.errors import JustrightError
from justright.failures import Failure, FailureKind
from justright.messages import Space
from justright.spec import StudySpec
from orchestrator.search.asking import FINALISTS
from orchestrator.search.policy import Counts, Policy, PolicyFactory, Proposal, SearchContext
from orchestrator.studies.study_record import StudyRecord
from orchestrator.studies.trial_book import TrialBook
from orchestrator.studies.trial_record import TrialRecord

_NOT_SEARCHED = (
    "--search is for subclasses of justright.Task. An objective suggests its other parameters "
    "itself, and a program takes only the rate: leave --search out."
)


class StudySearch:
    """Asks the policy, and has the trial book do what it says."""

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        record: StudyRecord,
        make_policy: PolicyFactory,
        counts: Callable[[], Counts],
    ) -> None:
        self._study, self._storage, self._record = study, storage, record
        self._make_policy, self._counts = make_policy, counts
        self.policy: Policy | None = None  #: None: the task was not looked at yet.
        self.exhausted = False  #: It had nothing to train while nothing was in training.

    def begin(self) -> Failure | None:
        """Make the policy, of what was seen of the task; or why this cannot be searched."""
        self.policy, self.exhausted = None, False
        record, inspection = self._record, self._record.inspection
        if inspection is None or not record.active:
            return None
        if record.spec.search and inspection.kind != "task":
            return Failure(kind=FailureKind.USAGE, message=_NOT_SEARCHED)
        try:
            self.policy = self._make_policy(
                SearchContext(
                    self._study,
                    self._storage,
                    record.spec,
                    inspection,
                    record.lr_range,
                    record.hint,
                    self._counts,
                )
            )
        except JustrightError as error:  # a sampler that needs what is not installed here
            return Failure(kind=FailureKind.TASK, message=str(error))
        return None

    def restrict_range(self, event: Space) -> Failure | None:
        """An objective named its range: search where that and the user's own meet, if they do."""
        if self._record.range is not None or self.policy is None:
            return None
        low, high = self._record.spec.lr_range
        meet = (max(low, event.low), min(high, event.high))
        if meet[0] >= meet[1]:
            return Failure(
                kind=FailureKind.USAGE,
                message=f"the objective asks for a rate within {event.low:g}:{event.high:g}, "
                f"the study searches {low:g}:{high:g}: nothing is in both. Change --lr.",
            )
        self._record.set_range(meet)
        self.policy.restrict_range(meet)
        return None

    def next_trials(self, book: TrialBook, lanes: int | None, workers: int) -> list[TrialRecord]:
        """The trials that the policy wants trained next, all to one step."""
        if self.policy is None:
            return []
        if self._unknown_range:
            if not book.trials.all_finished:
                return []
            lanes = 1
        wanted = self.policy.suggest(lanes, workers)
        resumed = [book.promote(number, wanted.until) for number in wanted.resume]
        started = [self._within_budget(book, proposal, wanted.until) for proposal in wanted.start]
        records = [record for record in [*resumed, *started] if record is not None]
        if not records and book.trials.idle and self.policy.stop_reason() is None:
            self.exhausted = True
        return records

    def _within_budget(
        self, book: TrialBook, proposal: Proposal, until: int | None
    ) -> TrialRecord | None:
        """The trial, or None where it is one more than the user allowed."""
        spec, record = self._record.spec, book.add(proposal, until)
        searching = book.trials.counts().searching
        if searching <= spec.trials and len(book.trials) <= most_trials(spec):
            return record
        book.abandon([record], "beyond the budget of trials")
        return None

    @property
    def _unknown_range(self) -> bool:
        """An objective tells its range when it is first called: until then, one trial only."""
        inspection = self._record.inspection
        return bool(inspection and inspection.kind == "objective" and self._record.range is None)

    def should_stop(self, trial: FrozenTrial) -> str | None:
        """Why a trial that has reported should stop; None: it goes on."""
        if self.policy is None or self._record.spec.pruner == "none" or not self._record.working:
            return None
        return self.policy.should_stop(trial)

    def total(self, trials: int) -> int:
        """How many trials the study will ask for, as far as anybody knows."""
        if not self._record.active:
            return trials
        return self.policy.total if self.policy else max(self._record.spec.trials, trials)


def most_trials(spec: StudySpec) -> int:
    """The trials of the budget, and the replicates of the best of them."""
    return spec.trials + (spec.replicates - 1) * min(FINALISTS, spec.trials)
