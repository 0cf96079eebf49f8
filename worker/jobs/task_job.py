"""Trains the trials of one job of a Task, from mark to mark.

Those that have come least far train on to their next mark, as lanes of one stack where that pays.
So all trials of a job are compared at equal steps.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from traceback import clear_frames

import torch

from justright.errors import JustrightError, RefusedJob
from justright.failures import Failure, FailureKind
from justright.lane_plan import LanePlan
from justright.messages import OutcomeKind, TrainJob
from worker.checkpoints.artifacts import Artifacts
from worker.checkpoints.store import Checkpoints
from worker.jobs.attempt import Attempt
from worker.jobs.channel import Channel
from worker.jobs.failures import Failures, causes, is_poison, shortage
from worker.jobs.non_finite import non_finite
from worker.lanes.randomness import random_state
from worker.lanes.trial import TrialTraining
from worker.training.trainer import Taken, TaskTrainer, count_steps

log = logging.getLogger(__name__)

_NO_ROOM = (
    "this worker cannot save checkpoints, without which no trial can pause: its log says why. Make "
    "room there, or set JUSTRIGHT_ARTIFACTS to a place that it can write to."
)
_FOR_GOOD = (OutcomeKind.COMPLETE, OutcomeKind.STOPPED, OutcomeKind.DIVERGED)


@dataclass(eq=False)
class RunningTrial:
    """A trial in training."""

    attempt: Attempt
    training: TrialTraining
    checkpoints: Checkpoints | None
    sources: Mapping[str, str] = field(default_factory=dict)  #: Of the code that trains it.
    unit: int = 1  #: Optimizer steps of what its job counts in.

    def save(self) -> bool:
        """Write a checkpoint of it as it is, if it has any; False: its place refused."""
        if self.checkpoints is None:
            return True
        state = self.training.state() | {
            "losses": dict(self.attempt.losses), "sources": dict(self.sources),
        }  # fmt: skip
        return self.checkpoints.save(state, self.training.mark, self.training.step)

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.checkpoints is not None and self.checkpoints.due

    @property
    def leaves(self) -> bool:
        """Whether it shall not even train to its next mark: all others act at their report."""
        told = self.attempt.told
        return told is not None and told.action == "leave"

    def end(self, kind: OutcomeKind, reason: str = "", failure: Failure | None = None) -> None:
        """Say how its attempt ended; a trial that has ended for good needs no checkpoint more."""
        step = -(-self.training.mark // self.unit)
        self.attempt.end(kind, step=step, reason=reason, failure=failure)
        if self.checkpoints is not None and kind in _FOR_GOOD:
            self.attempt.channel.flush()  # else a kill in between would begin it anew
            self.checkpoints.clear()


class NotFused(Exception):
    """Why some trials cannot be trained together. Each for itself may do."""

    def __init__(self, message: str, short_of: FailureKind | None) -> None:
        super().__init__(message)
        self.short_of = short_of  #: What there was too little of, if that was it.


class TaskJob:
    """One job on its way: its trials, from their beginning or checkpoint to their end."""

    def __init__(
        self,
        job: TrainJob,
        trainer: TaskTrainer,
        channel: Channel,
        artifacts: Artifacts,
        checkpoint_every: float,
        failures: Failures,
        own_lanes: int | None = None,
    ) -> None:
        """``checkpoint_every``: seconds of training between two checkpoints, at least.

        ``own_lanes``: the most trials that this worker trains at once, whatever the job has; None:
        no such limit.
        """
        self._job, self._trainer, self._channel = job, trainer, channel
        self._artifacts, self._checkpoint_every = artifacts, checkpoint_every
        self._failures = failures
        self._own_lanes = own_lanes
        self._plan = job.plan
        # NOTE: a job without marks counts in EPOCHS (until, reports, outcomes), as the first
        # edition's did; one with marks counts in optimizer steps.
        self._unit = 1 if job.marks else trainer.horizon.epoch or 1
        self._until = min((job.until or trainer.steps) * self._unit, trainer.steps)

    def run(self, attempts: Sequence[Attempt]) -> None:
        """Train every trial to its end, or to the step at which the job stops.

        A worker with fewer lanes than the job has trials holds and trains so many at a time.
        """
        size = self._own_lanes or max(1, len(attempts))
        for first in range(0, len(attempts), size):
            try:
                self._run_together(attempts[first : first + size])
            finally:
                self._trainer.drop_stack()

    def _run_together(self, attempts: Sequence[Attempt]) -> None:
        running = self._begin_all(attempts)
        while running:
            group = next_group(running, self._plan)
            others = [one for one in running if one not in group]
            left = self._to_next_mark(group)
            running = sorted(others + left, key=lambda one: one.attempt.work.number)

    # -- the beginning --------------------------------------------------------------------------

    def _begin_all(self, attempts: Sequence[Attempt], again: bool = False) -> list[RunningTrial]:
        """Those that can be begun. ``again``: in this very attempt, since their stack has failed;
        what they reported stays right."""
        begun: list[RunningTrial] = []
        for attempt in attempts:
            if begun:  # dozens of large models take long to build
                self._trainer.alive()
            try:
                # A first attempt has nothing to go on from: a store far away need not be asked.
                look = again or attempt.work.attempt > 1
                begun.append(self._begin(attempt, look))
            except JustrightError as error:
                self._failures.end(attempt, error)
        return begun

    def _begin(self, attempt: Attempt, look: bool) -> RunningTrial:
        """The trial at its beginning or, if it shall ``look``, at its last usable checkpoint."""
        work = attempt.work
        checkpoints = self._checkpoints_of(attempt)
        training = self._trainer.start(work)
        for state in checkpoints.states() if checkpoints and look else ():
            try:
                if state.get("sources", self._job.sources) != self._job.sources:
                    log.warning("trial %d goes on from a checkpoint of other code", work.number)
                training.restore(state)
                count_steps(self._trainer, training)
                attempt.losses = dict(state["losses"])
            except Exception as error:  # as many as there are ways in which a model can differ
                log.warning("a checkpoint of trial %d does not fit: %s", work.number, error)
                training = self._trainer.start(work)
                continue
            attempt.go_on(self._told(training.mark))
            break
        else:
            attempt.begin()
        return RunningTrial(attempt, training, checkpoints, self._job.sources, self._unit)

    def _checkpoints_of(self, attempt: Attempt) -> Checkpoints | None:
        if not self._job.checkpoint_prefix or not all(self._trainer.own_state.values()):
            return None  # what a checkpoint cannot hold would be missing after it
        return Checkpoints(
            self._artifacts,
            folder=f"{self._job.checkpoint_prefix}/{attempt.work.number}",
            attempt=attempt.work.attempt,
            every=self._checkpoint_every,
            lanes=len(self._job.trials),
        )

    # -- to the next mark -----------------------------------------------------------------------

    def _to_next_mark(self, group: list[RunningTrial]) -> list[RunningTrial]:
        """Train some trials at the same step to their next mark; those that go on after it."""
        try:
            return self._train(group)
        except NotFused as error:
            failed = error
        # Not while the exception is handled: until then it holds on to the stack's memory.
        self._fuse_less(failed, group)
        return self._begin_all([one.attempt for one in group], again=True)

    def _train(self, group: list[RunningTrial]) -> list[RunningTrial]:
        """Train them to their next mark and report its losses; those that go on.

        Raises:
            NotFused: they cannot be trained together after all.
        """
        ready = [one for one in group if one.training.mark < self._until and not one.leaves]
        ended: list[RunningTrial] = []
        try:
            for one, result in self._results(ready):
                one.attempt.report(
                    self._told(result.step), result.loss, result.train_loss, result.seconds
                )
                if result.diverged:
                    one.end(OutcomeKind.DIVERGED, result.diverged)
                    ended.append(one)
        except JustrightError as error:
            if len(ready) > 1 and not is_poison(error):
                for cause in causes(error):
                    clear_frames(cause.__traceback__)  # they hold the stack
                raise NotFused(str(error), shortage(error)) from None
            for one in ready:
                self._end_by(one, error)
            ended = ready
        left = [one for one in group if one not in ended]
        return [one for one in left if self._goes_on(one)]

    def _end_by(self, one: RunningTrial, error: JustrightError) -> None:
        """End a trial alone by what was raised: too hot, where a number was not finite."""
        lost = non_finite(error, worked=one.training.step > 0)
        if not lost:
            one.end(OutcomeKind.FAILED, failure=self._failures.word(error))
            return
        one.attempt.report(self._told(self._next_mark(one)), None)
        one.end(OutcomeKind.DIVERGED, lost)

    def _results(self, ready: list[RunningTrial]) -> list[tuple[RunningTrial, Taken]]:
        """Train them to their next mark; nothing, if they were interrupted."""
        if not ready:
            return []
        trials, mark = [one.training for one in ready], self._next_mark(ready[0])
        results = self._trainer.train_together(trials, mark, lambda: self._between_batches(ready))
        whose = {id(one.training): one for one in ready}
        return [(whose[id(result.trial)], result) for result in results or ()]

    def _next_mark(self, one: RunningTrial) -> int:
        return min(self._until, self._trainer.next_mark(one.training, self._job.marks))

    def _told(self, step: int) -> int:
        """A step, in what the job counts in."""
        return -(-step // self._unit)

    def _between_batches(self, group: list[RunningTrial]) -> bool:
        """Between two batches: give a sign of life, save now and then; True: stop here."""
        self._trainer.alive()
        leaving = self._channel.leaving is not None
        due = [one for one in group if one.due]
        if not leaving and not due:
            return False
        state = random_state()
        for one in group if leaving else due:
            one.training.random = state
        if leaving:
            return True
        for one in due:
            one.save()
            one.training.random = {}
        return False

    def _goes_on(self, one: RunningTrial) -> bool:
        """What comes of a trial at a mark or between batches; False when its attempt has ended."""
        if one.training.mark >= self._until:
            horizon = self._trainer.steps
            if self._until < horizon and not one.save():
                # It would begin anew, again and again: another worker may have room.
                one.end(OutcomeKind.FAILED, failure=self._failures.word(RefusedJob(_NO_ROOM)))
                return False
            one.end(OutcomeKind.COMPLETE if self._until >= horizon else OutcomeKind.PAUSED)
            return False
        told = one.attempt.told
        if told is None:
            if one.due:
                one.save()
            return True
        if told.action == "stop":
            one.end(OutcomeKind.STOPPED, told.reason)
            return False
        one.save()
        if told.action == "pause":
            one.end(OutcomeKind.PAUSED)
        else:
            one.end(OutcomeKind.FAILED, told.reason)
        return False

    def _fuse_less(self, failed: NotFused, group: list[RunningTrial]) -> None:
        """From now on fewer lanes, if memory was short, else none.

        All that holds the stack's memory is let go: its trials begin again.
        """
        stack = len(group) // 2 if failed.short_of is FailureKind.MEMORY else 1
        log.warning("%d lanes cannot be trained at once: %s", len(group), failed)
        self._trainer.drop_stack()
        for one in group:
            del one.training
        if self._trainer.device.type == "cuda":
            torch.cuda.empty_cache()
        self._plan = self._plan.model_copy(update={"stack": max(1, stack)})


def next_group(running: Sequence[RunningTrial], plan: LanePlan) -> list[RunningTrial]:
    """Who trains next: those that have come least far, together if that pays."""

    def place(one: RunningTrial) -> tuple[int, int]:
        return one.training.mark, one.training.step

    def batches(one: RunningTrial) -> tuple[int, int]:
        return one.attempt.work.seed, one.training.batch_size

    lead = min(running, key=place)
    equals = [o for o in running if (place(o), batches(o)) == (place(lead), batches(lead))]
    group = equals[: plan.stack]
    return group if len(group) >= plan.fuse_from else [lead]
