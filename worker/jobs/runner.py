"""Runs one job in the child process: loads the task, trains its trials, reports.

Trials of one job are trained epoch by epoch, fused or in turn, so that all are compared at equal
epochs.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from traceback import clear_frames

import torch

from justright.errors import JustrightError, RefusedJob, UsageError, UserCodeError
from justright.failures import Failure, FailureKind
from justright.lane_plan import LanePlan
from justright.messages import (
    Inspection,
    InspectJob,
    Job,
    OutcomeKind,
    TidyJob,
    TrainJob,
    TrialWork,
)
from justright.settings import Settings
from justright.task import Task
from worker.checkpoints.artifacts import Artifacts
from worker.checkpoints.store import Checkpoints
from worker.jobs.attempt import Attempt
from worker.jobs.channel import Channel
from worker.jobs.objective import run_objective
from worker.jobs.program import run_command
from worker.lanes.lanes import Lanes
from worker.lanes.plan import plan_lanes
from worker.lanes.randomness import random_state
from worker.lanes.stack import set_free
from worker.lanes.trial import TrialTraining
from worker.training.trainer import EpochResult, TaskTrainer, pick_device
from worker.user_code.guard import user_code
from worker.user_code.loading import CommandLine, Objective, SourceWatch, load
from worker.user_code.permission import Permission

log = logging.getLogger(__name__)

_FOR_GOOD = (OutcomeKind.COMPLETE, OutcomeKind.STOPPED, OutcomeKind.DIVERGED)
_POISON = ("CUDA error", "cuBLAS", "CUBLAS_STATUS", "cuDNN", "CUDNN_STATUS")


def is_poison(error: BaseException) -> bool:
    """Whether the error, or one that it came from, leaves the GPU's context unusable."""
    return any(
        not isinstance(cause, torch.OutOfMemoryError)
        and any(text in str(cause) for text in _POISON)
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _want(error: BaseException) -> FailureKind | None:
    """What the machine had too little of, where that was the error."""
    for cause in _causes(error):
        if isinstance(cause, (torch.OutOfMemoryError, MemoryError)):
            return FailureKind.MEMORY
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return FailureKind.DISK
    return None


def _home(job: Job) -> str:
    """Where the modules of a task come from: its file's folder, or its top package."""
    place = (job.task.target or "").rpartition(":")[0]
    return str(Path(place).parent) if place.endswith(".py") else place.partition(".")[0]


def _text(value: str) -> str:
    """What can be encoded: a file name in a message may hold half a character."""
    return value.encode("utf-8", "replace").decode()


def failure_of(error: Exception) -> Failure:
    """Word an exception for the study."""
    message = _text(str(error))
    if isinstance(error, UserCodeError):
        traceback = _text(error.traceback)
        kind = _want(error) or FailureKind.USER
        return Failure(kind=kind, message=message, traceback=traceback)
    kind = _want(error) or (
        FailureKind.USAGE
        if isinstance(error, UsageError)
        else FailureKind.REFUSED
        if isinstance(error, RefusedJob)
        else FailureKind.TASK
    )
    if not isinstance(error, JustrightError):
        message = f"{type(error).__name__}: {message}"
    return Failure(kind=kind, message=message)


@dataclass
class _Loaded:
    """The last task that was used, kept for the next job of the same study."""

    key: tuple[str, int | None]
    what: TaskTrainer | Objective | CommandLine
    plans: dict[tuple[int | None, int], LanePlan] = field(default_factory=dict)
    """How to train it, by the lanes that were wanted, and the most: measured once."""


@dataclass(eq=False)
class _Running:
    """A trial of a task in training."""

    attempt: Attempt
    training: TrialTraining
    checkpoints: Checkpoints | None

    def save(self) -> None:
        """Write a checkpoint of it as it is, if it has any."""
        if self.checkpoints is None:
            return
        state = self.training.state() | {"losses": dict(self.attempt.losses)}
        self.checkpoints.save(state, self.training.epoch, self.training.batch)

    def end(self, kind: OutcomeKind, reason: str = "", failure: Failure | None = None) -> None:
        self.attempt.end(kind, step=self.training.epoch, reason=reason, failure=failure)
        if self.checkpoints is not None and kind in _FOR_GOOD:
            self.attempt.channel.flush()  # else a kill in between would begin it anew
            self.checkpoints.clear()


class JobRunner:
    """Keeps a task, its data and its device between jobs."""

    def __init__(
        self,
        channel: Channel,
        permission: Permission,
        settings: Settings,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """``alive`` is called again and again while something goes on."""
        self._channel, self._permission, self._alive = channel, permission, alive
        self._artifacts = Artifacts(settings.artifact_place)
        self._checkpoint_every = settings.checkpoint
        self._device: torch.device | None = None
        self._loaded: _Loaded | None = None
        self._sources = SourceWatch()
        self._home = ""  # where the user's code that is loaded comes from
        self._spent = False
        self._stack: Lanes | None = None

    def outdated(self, job: Job) -> bool:
        """Whether a new process is due before this job.

        The user's code has changed since it was loaded, or it is somebody else's, whose modules
        may have the same names, or an error of the GPU has left its context unusable.
        """
        home = _home(job)
        foreign = bool(home and self._home and home != self._home)
        return self._spent or foreign or self._sources.changed()

    def run(self, job: Job) -> None:
        """Do the job. Every trial ends with an outcome; nothing is raised for the user's faults."""
        trials = job.trials if isinstance(job, TrainJob) else ()
        self._channel.watch(job.study, [work.number for work in trials])
        try:
            match job:
                case TrainJob():
                    self._train(job)
                case InspectJob():
                    self._channel.send(self._inspect(job))
                case TidyJob():
                    self._artifacts.remove(job.checkpoint_prefix)
        except Exception as error:
            if not isinstance(error, JustrightError):
                log.exception("job %s failed where no fault was expected", job.id)
            match job:
                case TrainJob():
                    for work in job.trials:  # those that have ended already are not changed by it
                        self._fail(self._attempt(job, work), error)
                case InspectJob():
                    failure = self._failure(error)
                    self._channel.send(Inspection(study=job.study, job=job.id, failure=failure))
                case TidyJob():
                    pass  # nobody waits for it
        finally:
            self._stack = None
            self._sources.remember()  # what was imported on the way
            self._channel.flush()
            self._channel.watch("", ())

    def _attempt(self, job: TrainJob, work: TrialWork) -> Attempt:
        return Attempt(job.study, work, self._channel, self._alive)

    def _failure(self, error: Exception) -> Failure:
        """The error in words. After one of the GPU the next job needs a new process."""
        self._spent = self._spent or is_poison(error)
        return failure_of(error)

    def _fail(self, attempt: Attempt, error: Exception, step: int = 0) -> None:
        log.warning("trial %d failed: %s", attempt.work.number, error)
        attempt.end(OutcomeKind.FAILED, step=step, failure=self._failure(error))

    def _load(self, job: TrainJob | InspectJob) -> TaskTrainer | Objective | CommandLine:
        key = (job.task.model_dump_json(), job.epochs)
        if self._loaded is None or self._loaded.key != key:
            self._loaded = None  # frees the old task's data first
            task = self._permission.check(job.task)
            self._home = _home(job) or self._home
            try:
                found = load(task)
            finally:
                self._sources.remember()
            if isinstance(found, Task):
                self._device = self._device or pick_device()
                trainer = TaskTrainer(found, self._device, job.epochs)
                trainer.alive = self._alive
                self._loaded = _Loaded(key, trainer)
            else:
                self._loaded = _Loaded(key, found)
        return self._loaded.what

    def _inspect(self, job: InspectJob) -> Inspection:
        what = self._load(job)
        if isinstance(what, TaskTrainer):
            details = what.inspect(job.seed, job.search)
            plan = self._plan(what, job)
            return Inspection(
                study=job.study,
                job=job.id,
                epochs=what.epochs,
                initial_loss=what.initial_loss,
                search_schedule=what.search_schedule,
                details=details,
                plan=plan,
            )
        objective = isinstance(what, Objective)
        owner = "an objective" if objective else "a program"
        reason = f"{owner} has a training loop of its own"
        return Inspection(
            study=job.study,
            job=job.id,
            kind="objective" if objective else "command",
            epochs=job.epochs,
            plan=LanePlan(lanes=job.lanes or 1, reason=reason),
        )

    def _plan(self, trainer: TaskTrainer, job: InspectJob) -> LanePlan:
        assert self._loaded is not None
        plans, wanted = self._loaded.plans, (job.lanes, job.most)
        if wanted not in plans:
            plans[wanted] = plan_lanes(trainer, job.seed, job.lanes, job.most)
        return plans[wanted]

    def _train(self, job: TrainJob) -> None:
        what = self._load(job)
        if isinstance(what, TaskTrainer):
            if what.initial_loss is None:
                what.measure_initial_loss(job.seed)
            self._train_task(job, what)
            return
        for work in job.trials:
            attempt = self._attempt(job, work)
            try:
                if isinstance(what, Objective):
                    run_objective(what, attempt)
                else:
                    run_command(what.command, attempt, epochs=job.epochs, metric=job.metric)
            except JustrightError as error:
                self._fail(attempt, error)

    # -- tasks, epoch by epoch --------------------------------------------------------------------

    def _train_task(self, job: TrainJob, trainer: TaskTrainer) -> None:
        until = min(job.until or trainer.epochs, trainer.epochs)
        running = self._begin_all(job, trainer, [self._attempt(job, work) for work in job.trials])
        plan = job.plan
        while running:
            group = next_group(running, plan)
            others = [one for one in running if one not in group]
            failed: NotFused | None = None
            try:
                left = self._one_epoch(trainer, group, until)
            except NotFused as error:
                failed = error
            if failed is not None:
                plan = self._fuse_less(plan, failed, group)
                left = self._begin_all(job, trainer, [one.attempt for one in group], again=True)
            running = sorted(others + left, key=lambda one: one.attempt.work.number)

    def _begin_all(
        self, job: TrainJob, trainer: TaskTrainer, attempts: list[Attempt], again: bool = False
    ) -> list[_Running]:
        """Those that can be begun. ``again``: in this very attempt, since their stack has failed;
        what they reported stays right."""
        begun: list[_Running] = []
        for attempt in attempts:
            if begun:  # dozens of large models take long to build
                self._alive()
            try:
                # A first attempt has nothing to go on from: a store far away need not be asked.
                look = again or attempt.work.attempt > 1
                begun.append(self._begin(job, trainer, attempt, look))
            except JustrightError as error:
                self._fail(attempt, error)
        return begun

    def _begin(self, job: TrainJob, trainer: TaskTrainer, attempt: Attempt, look: bool) -> _Running:
        """The trial at its beginning or, if it shall ``look``, at its last usable checkpoint."""
        work = attempt.work
        checkpoints = None
        if job.checkpoint_prefix:
            folder = f"{job.checkpoint_prefix}/{work.number}"
            every = self._checkpoint_every
            checkpoints = Checkpoints(
                self._artifacts, folder, work.attempt, every, lanes=len(job.trials)
            )
        training = trainer.start(work)
        for state in checkpoints.states() if checkpoints and look else ():
            try:
                training.restore(state)
                attempt.losses = dict(state["losses"])
            except Exception as error:  # as many as there are ways in which a model can differ
                log.warning("a checkpoint of trial %d does not fit: %s", work.number, error)
                training = trainer.start(work)
                continue
            log.info("trial %d goes on after epoch %d", work.number, training.epoch)
            break
        return _Running(attempt, training, checkpoints)

    def _fuse_less(self, plan: LanePlan, failed: NotFused, group: list[_Running]) -> LanePlan:
        """What to do where lanes failed: fewer, if memory was short, else none.

        All that holds the stack's memory is let go: its trials begin again.
        """
        stack = len(group) // 2 if failed.want is FailureKind.MEMORY else 1
        log.warning("%d lanes cannot be trained at once: %s", len(group), failed)
        self._stack = None
        for one in group:
            del one.training
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.empty_cache()
        return plan.model_copy(update={"stack": max(1, stack)})

    def _one_epoch(self, trainer: TaskTrainer, group: list[_Running], until: int) -> list[_Running]:
        """Train trials at the same step for one epoch and report it; those that go on.

        Raises:
            NotFused: they cannot be trained together after all.
        """
        ready = [one for one in group if one.training.epoch < until and not self._leaves(one)]
        ended: list[_Running] = []
        try:
            for one, result in self._results(trainer, ready):
                one.attempt.report(result.epoch, result.loss, result.train_loss, result.seconds)
                if result.diverged:
                    one.end(OutcomeKind.DIVERGED, result.diverged)
                    ended.append(one)
        except JustrightError as error:
            if len(ready) > 1 and not is_poison(error):
                for cause in _causes(error):
                    clear_frames(cause.__traceback__)  # they hold the stack
                raise NotFused(str(error), _want(error)) from None
            for one in ready:
                one.end(OutcomeKind.FAILED, failure=self._failure(error))
            ended = ready
        left = [one for one in group if one not in ended]
        return [one for one in left if self._after_epoch(one, until, trainer.epochs)]

    def _results(
        self, trainer: TaskTrainer, ready: list[_Running]
    ) -> list[tuple[_Running, EpochResult]]:
        """Train them for one epoch; nothing, if they were interrupted."""
        if not ready:
            return []
        lanes = self._lanes(trainer, [one.training for one in ready])
        results = trainer.train_lanes(lanes, lambda: self._between_batches(ready))
        whose = {id(one.training): one for one in ready}
        return [(whose[id(result.trial)], result) for result in results or ()]

    def _lanes(self, trainer: TaskTrainer, trials: list[TrialTraining]) -> Lanes:
        """The stack of these trials: the last one, if all of them were in it."""
        if len(trials) == 1:
            for trial in self._stack.trials if self._stack is not None else ():
                set_free(trial)
            self._stack = None
            return trainer.lanes(trials)
        if self._stack is not None and not user_code(partial(self._stack.take, trials)):
            self._stack = None  # frees its memory first
        if self._stack is None:
            self._stack = user_code(partial(trainer.lanes, trials))
        return self._stack

    def _after_epoch(self, one: _Running, until: int, horizon: int) -> bool:
        """What comes of a trial between epochs or batches; False when its attempt has ended."""
        if one.training.epoch >= until:
            if until < horizon:
                one.save()
            one.end(OutcomeKind.COMPLETE if until >= horizon else OutcomeKind.PAUSED)
            return False
        told = one.attempt.told
        if told is None:
            if one.checkpoints is not None and one.checkpoints.due:
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

    def _leaves(self, one: _Running) -> bool:
        """Whether a trial shall not even begin its next epoch: all others act at their report."""
        told = one.attempt.told
        return told is not None and told.action == "leave"

    def _between_batches(self, group: list[_Running]) -> bool:
        """Between two batches: give a sign of life, save now and then; True: stop here."""
        self._alive()
        leaving = self._channel.leaving is not None
        due = [one for one in group if one.checkpoints is not None and one.checkpoints.due]
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


class NotFused(Exception):
    """Why some trials cannot be trained together. Each for itself may do."""

    def __init__(self, message: str, want: FailureKind | None) -> None:
        super().__init__(message)
        self.want = want  #: What there was too little of, if that was it.


def next_group(running: Sequence[_Running], plan: LanePlan) -> list[_Running]:
    """Who trains the next epoch: those that have come least far, together if that pays."""

    def place(one: _Running) -> tuple[int, int]:
        return one.training.epoch, one.training.batch

    def batches(one: _Running) -> tuple[int, int]:
        return one.attempt.work.seed, one.training.batch_size

    lead = min(running, key=place)
    equals = [o for o in running if (place(o), batches(o)) == (place(lead), batches(lead))]
    group = equals[: plan.stack]
    return group if len(group) >= plan.fuse_from else [lead]
