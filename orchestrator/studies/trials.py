"""All trials of a study, as far as one may ask about them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from justright.lifecycle import ACTIVE, DISPATCHED, FINISHED, TrialState
from orchestrator.answers.diagnosis import diagnose
from orchestrator.search.loss_curve import LossCurve
from orchestrator.studies.trial_record import TrialRecord


class Trials:
    """The records by number. Only the trial book changes them."""

    def __init__(self) -> None:
        self._records: dict[int, TrialRecord] = {}
        self._initial_loss: float | None = None  #: Untrained, once somebody has looked.

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> TrialRecord:
        return self._records[number]

    def add(self, record: TrialRecord) -> TrialRecord:
        self._records[record.number] = record
        return record

    def current(self, number: int, attempt: int) -> TrialRecord | None:
        """The trial, if this attempt is its present one and has not ended (fencing)."""
        record = self._records.get(number)
        if record is None or record.attempt != attempt or record.state in FINISHED:
            return None
        return record

    @property
    def all_finished(self) -> bool:
        """Whether no trial is queued, running or paused."""
        return all(record.state in FINISHED for record in self)

    @property
    def idle(self) -> bool:
        """Whether no trial is queued or running, nor paused by its study's rest."""
        return not any(r.state in DISPATCHED or (r.state in ACTIVE and r.rests) for r in self)

    @property
    def best(self) -> float:
        """The lowest loss of any trial that has not diverged; inf without one."""
        losses = (r.best for r in self if r.best is not None and not r.diverged)
        return min(losses, default=math.inf)

    def open_jobs(self) -> dict[str, list[TrialRecord]]:
        """Jobs that are queued or running, with their trials that have not ended.

        Under "" are the trials that wait for a job.
        """
        jobs: dict[str, list[TrialRecord]] = {}
        for record in self:
            if record.state in (TrialState.QUEUED, TrialState.RUNNING):
                jobs.setdefault(record.job, []).append(record)
        return jobs

    def inspected(self, initial_loss: float | None) -> None:
        """The untrained loss, which diagnoses need."""
        self._initial_loss = initial_loss

    def diagnoses(self) -> dict[int, str]:
        """What is the matter with each trial, in a word."""
        leader = self._leader()
        return {record.number: diagnose(self._curve(record), leader) for record in self}

    def diagnosis(self, record: TrialRecord) -> str:
        """What is the matter with this one."""
        return diagnose(self._curve(record), self._leader())

    def _leader(self) -> LossCurve | None:
        """The trial that has come lowest."""
        alive = [r for r in self if r.best is not None and not r.diverged]
        leader = min(alive, key=lambda r: r.best or 0.0, default=None)
        return None if leader is None else self._curve(leader)

    def _curve(self, record: TrialRecord) -> LossCurve:
        return record.curve(self._initial_loss)
