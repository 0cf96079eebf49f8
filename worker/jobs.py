"""Runs one job in the child process: loads the task, trains its trials, reports.

Trials of one job are trained epoch by epoch in turn, so that all are compared at equal epochs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

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


def failure_of(error: Exception) -> Failure:
    """Word an exception for the study."""
    if isinstance(error, UserCodeError):
        return Failure(kind=FailureKind.USER, message=str(error), traceback=error.traceback)
    kind = (
        FailureKind.USAGE
        if isinstance(error, UsageError)
        else FailureKind.REFUSED
        if isinstance(error, RefusedJob)
        else FailureKind.TASK
    )
    return Failure(kind=kind, message=str(error))


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

    def outdated(self) -> bool:
        """Whether the user's code has changed since it was loaded: then a new process is due."""
        return self._sources.changed()

    def run(self, job: Job) -> None:
        """Do the job. Every trial ends with an outcome; nothing is raised for the user's faults."""
        self._channel.watch(job.study, [work.number for work in job.trials])
        try:
            if job.trials:
                self._train(job)
            else:
                self._channel.send(self._inspect(job))
        finally:
            self._sources.remember()  # what was imported on the way
            self._channel.flush()
            self._channel.watch("", ())

    def _load(self, job: Job) -> TaskTrainer | Objective | CommandLine:
        key = (job.task.model_dump_json(), job.epochs)
        if self._loaded is None or self._loaded.key != key:
            self._loaded = None  # frees the old task's data first
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
        try:
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
        except JustrightError as error:
            return Inspection(study=job.study, job=job.id, failure=failure_of(error))

    def _train(self, job: Job) -> None:
        try:
            what = self._load(job)
            if isinstance(what, TaskTrainer) and what.initial_loss is None:
                what.measure_initial_loss(job.seed)
        except JustrightError as error:
            for work in job.trials:
                self._channel.send(_failed(job, work, 0, error))
            return
        if isinstance(what, TaskTrainer):
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
                outcome = _failed(job, work, 0, error)
            self._channel.send(outcome)

    def _train_task(self, job: Job, trainer: TaskTrainer) -> None:
        until = min(job.until or trainer.epochs, trainer.epochs)
        trials: list[TrialTraining] = []
        for work in job.trials:
            try:
                trials.append(trainer.start(work))
            except JustrightError as error:
                self._channel.send(_failed(job, work, 0, error))
        while trials:
            trials = [trial for trial in trials if self._one_epoch(job, trainer, trial, until)]

    def _one_epoch(self, job: Job, trainer: TaskTrainer, trial: TrialTraining, until: int) -> bool:
        """Train one trial for one epoch and report it; False when its attempt has ended."""
        work = trial.work
        try:
            result = trainer.train_epoch(trial)
        except JustrightError as error:
            self._channel.send(_failed(job, work, trial.epoch, error))
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


def _failed(job: Job, work: TrialWork, step: int, error: Exception) -> Outcome:
    log.warning("trial %d failed: %s", work.number, error)
    return Outcome(
        study=job.study,
        trial=work.number,
        attempt=work.attempt,
        kind=OutcomeKind.FAILED,
        step=step,
        failure=failure_of(error),
    )
