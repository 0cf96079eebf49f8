"""All trials of a study, as far as one may ask about them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

from justright.lifecycle import DISPATCHED, FINISHED, TrialState
from orchestrator.answers.diagnosis import diagnose
from orchestrator.search.loss_curve import LossCurve
from orchestrator.search.policy import Counts
from orchestrator.studies.trial_record import TrialRecord

SHOWN = 500  #: Trials of a study that a snapshot has, about.


class Trials:
    """The records by number. Only the trial book changes them."""

    def __init__(self) -> None:
        self._records: dict[int, TrialRecord] = {}
        self._active: dict[int, TrialRecord] = {}  #: Those that had not ended when last looked at.
        self._ended: deque[int] = deque(maxlen=SHOWN)  #: The latest that ended.
        self._searching = 0  #: Trials that repeat no other.
        self._lowest: TrialRecord | None = None  #: The leader, where it is known.
        self._initial_loss: float | None = None  #: Untrained, once somebody has looked.

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> TrialRecord:
        return self._records[number]

    def add(self, record: TrialRecord) -> TrialRecord:
        self._records[record.number] = record
        self._active[record.number] = record
        self._searching += record.replicate_of is None
        self.learned(record)
        return record

    def active(self) -> list[TrialRecord]:
        """Those that have not ended, by number: a study of thousands has few of them."""
        ended = [number for number, record in self._active.items() if record.state in FINISHED]
        for number in ended:
            del self._active[number]
        self._ended.extend(ended)
        return list(self._active.values())

    def shown(self) -> list[TrialRecord]:
        """What clients are shown, by number: all, or of very many those that tell most: what is
        under way, what has ended lately, and what leads."""
        if len(self) <= SHOWN:
            return list(self)
        numbers = {record.number for record in self.active()} | set(self._ended)
        numbers |= {self._lowest.number} if self._lowest else set()
        return [self._records[number] for number in sorted(numbers)]

    def counts(self) -> Counts:
        """How far the asking has come."""
        unfinished = sum(record.replicate_of is None for record in self.active())
        return Counts(self._searching, unfinished)

    def learned(self, record: TrialRecord) -> None:
        """A trial has a new loss, or has diverged: perhaps it leads now, or does not any more."""
        leader = self._lowest
        if leader is not None and leader.diverged:
            self._lowest = leader = self._lead()
        if record.best is None or record.diverged:
            return
        if leader is None or (record.best, record.number) < (leader.best, leader.number):
            self._lowest = record

    def current(self, number: int, attempt: int) -> TrialRecord | None:
        """The trial, if this attempt is its present one and has not ended (fencing)."""
        record = self._records.get(number)
        if record is None or record.attempt != attempt or record.state in FINISHED:
            return None
        return record

    def valued(self, record: TrialRecord) -> None:
        """What an objective returned counts from now on: a leader may lead no more."""
        if record is self._lowest:
            self._lowest = self._lead()
        self.learned(record)

    @property
    def all_finished(self) -> bool:
        """Whether no trial is queued, running or paused."""
        return not self.active()

    @property
    def idle(self) -> bool:
        """Whether no trial is queued or running, nor paused by its study's rest."""
        return not any(r.state in DISPATCHED or r.rests for r in self.active())

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
        for record in self.active():
            if record.state in (TrialState.QUEUED, TrialState.RUNNING):
                jobs.setdefault(record.job, []).append(record)
        return jobs

    def inspected(self, initial_loss: float | None) -> None:
        """The untrained loss, which diagnoses need."""
        self._initial_loss = initial_loss

    def diagnoses(self, records: Iterable[TrialRecord]) -> dict[int, str]:
        """What is the matter with each of these trials, in a word."""
        leader = self._leader()
        return {record.number: diagnose(self._curve(record), leader) for record in records}

    def diagnosis(self, record: TrialRecord) -> str:
        """What is the matter with this one."""
        return diagnose(self._curve(record), self._leader())

    def _leader(self) -> LossCurve | None:
        """The trial that has come lowest."""
        return None if self._lowest is None else self._curve(self._lowest)

    def _lead(self) -> TrialRecord | None:
        alive = [r for r in self if r.best is not None and not r.diverged]
        return min(alive, key=lambda r: (r.best or 0.0, r.number), default=None)

    def _curve(self, record: TrialRecord) -> LossCurve:
        return record.curve(self._initial_loss)
