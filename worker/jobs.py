"""Runs one job in the child process: loads the task, trains its trials, reports.

Trials of one job are trained epoch by epoch in turn, so that all are compared at equal epochs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from justright.errors import JustrightError, RefusedJob, UsageError, UserCodeError
from justright.messages import (
    Failure,
    FailureKind,
    Inspection,
    Job,
    Outcome,
    OutcomeKind,
    Report,
    TrialWork,
)
from justright.task import Task
from worker.channel import Channel
from worker.command import run_command
from worker.loading import CommandLine, Objective, SourceWatch, load
from worker.objective import run_objective
from worker.training import EpochResult, TaskTrainer, TrialTraining, pick_device

log = logging.getLogger(__name__)


_POISON = ("CUDA error", "cuBLAS", "CUBLAS_STATUS", "cuDNN", "CUDNN_STATUS")


def is_poison(error: BaseException) -> bool:
    """Whether the error, or one that it came from, leaves the GPU's context unusable."""
    cause: BaseException | None = error
    while cause is not None:
        out_of_memory = isinstance(cause, torch.OutOfMemoryError)
        if not out_of_memory and any(text in str(cause) for text in _POISON):
            return True
        cause = cause.__cause__
    return False


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
        return Failure(kind=FailureKind.USER, message=message, traceback=traceback)
    kind = (
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


class JobRunner:
    """Keeps a task, its data and its device between jobs."""

    def __init__(self, channel: Channel, allow_commands: bool) -> None:
        self._channel = channel
        self._allow_commands = allow_commands
        self._device: torch.device | None = None
        self._loaded: _Loaded | None = None
        self._sources = SourceWatch()
        self._home = ""  # where the user's code that is loaded comes from
        self._spent = False

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
        self._channel.watch(job.study, [work.number for work in job.trials])
        try:
            if job.trials:
                self._train(job)
            else:
                self._channel.send(self._inspect(job))
        except Exception as error:
            if not isinstance(error, JustrightError):
                log.exception("job %s failed where no fault was expected", job.id)
            for work in job.trials:  # those that have ended already are not changed by it
                self._fail(job, work, 0, error)
            if not job.trials:
                failure = self._failure(error)
                self._channel.send(Inspection(study=job.study, job=job.id, failure=failure))
        finally:
            self._sources.remember()  # what was imported on the way
            self._channel.flush()
            self._channel.watch("", ())

    def _failure(self, error: Exception) -> Failure:
        """The error in words. After one of the GPU the next job needs a new process."""
        self._spent = self._spent or is_poison(error)
        return failure_of(error)

    def _fail(self, job: Job, work: TrialWork, step: int, error: Exception) -> None:
        log.warning("trial %d failed: %s", work.number, error)
        self._channel.send(
            Outcome(
                study=job.study,
                trial=work.number,
                attempt=work.attempt,
                kind=OutcomeKind.FAILED,
                step=step,
                failure=self._failure(error),
            )
        )

    def _load(self, job: Job) -> TaskTrainer | Objective | CommandLine:
        key = (job.task.model_dump_json(), job.epochs)
        if self._loaded is None or self._loaded.key != key:
            self._loaded = None  # frees the old task's data first
            self._home = _home(job) or self._home
            if job.task.command and not self._allow_commands:
                raise RefusedJob(
                    "this worker runs no command lines; start it with --allow-commands to let it."
                )
            try:
                found = load(job.task)
            finally:
                self._sources.remember()
            if isinstance(found, Task):
                self._device = self._device or pick_device()
                self._loaded = _Loaded(key, TaskTrainer(found, self._device, job.epochs))
            else:
                self._loaded = _Loaded(key, found)
        return self._loaded.what

    def _inspect(self, job: Job) -> Inspection:
        what = self._load(job)
        if isinstance(what, TaskTrainer):
            details = what.inspect(job.seed)
            return Inspection(
                study=job.study,
                job=job.id,
                epochs=what.epochs,
                initial_loss=what.initial_loss,
                search_schedule=what.search_schedule,
                details=details,
            )
        return Inspection(
            study=job.study,
            job=job.id,
            kind="objective" if isinstance(what, Objective) else "command",
            epochs=job.epochs,
        )

    def _train(self, job: Job) -> None:
        what = self._load(job)
        if isinstance(what, TaskTrainer):
            if what.initial_loss is None:
                what.measure_initial_loss(job.seed)
            self._train_task(job, what)
            return
        for work in job.trials:
            try:
                if isinstance(what, Objective):
                    outcome = run_objective(what, job.study, work, self._channel)
                else:
                    outcome = run_command(
                        what.command,
                        study=job.study,
                        work=work,
                        epochs=job.epochs,
                        metric=job.metric,
                        channel=self._channel,
                    )
            except JustrightError as error:
                self._fail(job, work, 0, error)
            else:
                self._channel.send(outcome)

    def _train_task(self, job: Job, trainer: TaskTrainer) -> None:
        until = min(job.until or trainer.epochs, trainer.epochs)
        trials: list[TrialTraining] = []
        for work in job.trials:
            try:
                trials.append(trainer.start(work))
            except JustrightError as error:
                self._fail(job, work, 0, error)
        while trials:
            trials = [trial for trial in trials if self._one_epoch(job, trainer, trial, until)]

    def _one_epoch(self, job: Job, trainer: TaskTrainer, trial: TrialTraining, until: int) -> bool:
        """Train one trial for one epoch and report it; False when its attempt has ended."""
        work = trial.work
        try:
            result = trainer.train_epoch(trial)
        except JustrightError as error:
            self._fail(job, work, trial.epoch, error)
            return False
        self._channel.send(_report(job, work, result))
        decision = self._channel.decision(work.number, work.attempt)
        if result.diverged:
            ended, reason = OutcomeKind.DIVERGED, result.diverged
        elif result.epoch >= until:
            horizon = until >= trainer.epochs
            ended, reason = (OutcomeKind.COMPLETE if horizon else OutcomeKind.PAUSED), ""
        elif decision is not None:
            ended, reason = OutcomeKind.STOPPED, decision.reason
        else:
            return True
        self._channel.send(
            Outcome(
                study=job.study,
                trial=work.number,
                attempt=work.attempt,
                kind=ended,
                step=result.epoch,
                reason=reason,
            )
        )
        return False


def _report(job: Job, work: TrialWork, result: EpochResult) -> Report:
    return Report(
        study=job.study,
        trial=work.number,
        attempt=work.attempt,
        step=result.epoch,
        loss=result.loss,
        train_loss=result.train_loss,
        seconds=result.seconds,
    )
