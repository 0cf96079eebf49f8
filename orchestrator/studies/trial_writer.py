"""Writes what becomes of trials: to their records, and to the ledger."""

from __future__ import annotations

import logging
from typing import Any, cast

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from justright.failures import Failure
from justright.lifecycle import FINISHED, TrialState, transition
from justright.logs import event
from orchestrator.storage import ledger
from orchestrator.storage.notes import failure_note, save_note
from orchestrator.studies.trial_record import TrialRecord
from orchestrator.studies.trials import Trials

log = logging.getLogger(__name__)

#: What the log says of a transition.
_EVENTS = {
    "b": "trial begun",
    "c": "trial paused",
    "d": "trial promoted",
    "e": "trial ended",
    "f": "trial ended",
    "g": "trial given back",
    "h": "trial ended",
    "i": "trial ended",
    "j": "trial ended",
}


class TrialWriter:
    """Each method writes one thing that may be repeated after a kill."""

    def __init__(self, study: optuna.Study, storage: BaseStorage, trials: Trials) -> None:
        self._study, self._storage, self._trials = study, storage, trials
        self.version = 0  #: Counts what clients are shown.

    def note(self, record: TrialRecord, key: str, value: Any) -> None:
        """A user attribute of a trial."""
        self._storage.set_trial_user_attr(record.trial_id, key, value)

    def move(
        self, record: TrialRecord, letter: str, *, worker: str | None = None, reason: str = ""
    ) -> None:
        """A lettered transition of the lifecycle. ``worker`` and ``reason`` are for the log."""
        record.state = transition(record.state, letter)
        self.note(record, ledger.STATE, record.state)
        self.version += 1
        event(
            log,
            _EVENTS[letter],
            study=self._study.study_name,
            trial=record.number,
            attempt=record.attempt,
            worker=worker,
            step=record.step,
            state=record.state if record.state in FINISHED else None,
            reason=reason or None,
        )

    def queue(self, record: TrialRecord, job: str) -> None:
        """It goes out in a job of that id."""
        record.job, record.state = job, TrialState.QUEUED
        self.note(record, ledger.STATE, record.state)
        self.note(record, ledger.ATTEMPT, record.attempt)
        self.note(record, ledger.JOB, job)
        self.version += 1

    def until(self, record: TrialRecord, until: int | None) -> None:
        """The step that it is to be trained to; None: the horizon."""
        record.until = until
        self.note(record, ledger.UNTIL, until)

    def begin_again(self, record: TrialRecord) -> None:
        """The next attempt, which has no job yet."""
        record.begin_again()
        self.note(record, ledger.ATTEMPT, record.attempt)
        self.note(record, ledger.JOB, record.job)

    def learn(
        self, record: TrialRecord, step: int, loss: float | None, train: float | None = None
    ) -> bool:
        """A loss; whether the study had none for that step."""
        new = record.learn(step, loss, train) and loss is not None
        self._trials.learned(record)
        if new:
            self._storage.set_trial_intermediate_value(record.trial_id, step, cast(float, loss))
        return new

    def failed(self, record: TrialRecord, failure: Failure) -> None:
        """Why an attempt failed, also as a note that optuna-dashboard shows."""
        record.failure = failure
        self.note(record, ledger.FAILURE, failure.model_dump(mode="json"))
        text = failure_note(record.attempt, failure)
        save_note(self._storage, self._study._study_id, text, record.trial_id)

    def keep_train_losses(self, record: TrialRecord) -> None:
        """For the diagnosis, should the orchestrator be killed."""
        if record.train:
            self.note(record, ledger.TRAIN, sorted(record.train.items()))

    def tell(
        self, record: TrialRecord, state: optuna.trial.TrialState, value: float | None = None
    ) -> None:
        """Its end, in Optuna's words."""
        self.keep_train_losses(record)
        self.note(record, ledger.DIAGNOSIS, self._trials.diagnosis(record))
        self.told(record, state, value)

    def told(
        self, record: TrialRecord, state: optuna.trial.TrialState, value: float | None = None
    ) -> None:
        """Its end alone, without what its losses say."""
        self._study.tell(record.number, value, state=state, skip_if_finished=True)

    def as_optuna_has_it(self, record: TrialRecord) -> FrozenTrial:
        """The trial, with what was reported so far."""
        return self._storage.get_trial(record.trial_id)
