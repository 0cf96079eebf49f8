"""Runs one job in the child process: loads its task, does what it asks for, says how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from justright.errors import ChangedTask, JustrightError
from justright.lane_plan import LanePlan
from justright.messages import Inspection, InspectJob, Job, TidyJob, TrainJob, TrialWork
from justright.settings import Settings
from justright.spec import TaskRef
from justright.task import Task
from worker.checkpoints.artifacts import Artifacts
from worker.jobs.attempt import Attempt
from worker.jobs.channel import Channel
from worker.jobs.failures import Failures
from worker.jobs.objective import run_objective
from worker.jobs.objective_source import warnings_of
from worker.jobs.program import run_command
from worker.jobs.task_job import TaskJob
from worker.lanes.plan import plan_lanes
from worker.training.device import pick_device
from worker.training.trainer import TaskTrainer
from worker.user_code.loading import CommandLine, Objective, load
from worker.user_code.permission import Permission
from worker.user_code.sources import Sources, differing, home_of

log = logging.getLogger(__name__)

_CHANGED = (
    "{files} changed since the study began (found by worker {worker}): its losses would be mixed "
    "with those of another code."
)


@dataclass
class _Loaded:
    """The last task that was used, kept for the next job of the same study."""

    key: tuple[str, int | None, int | None]
    what: TaskTrainer | Objective | CommandLine
    plans: dict[tuple[int | None, int], LanePlan] = field(default_factory=dict)
    """How to train it, by the lanes that were wanted, and the most: measured once."""


class JobRunner:
    """Keeps a task, its data and its device between jobs."""

    def __init__(
        self,
        channel: Channel,
        permission: Permission,
        settings: Settings,
        alive: Callable[[], None] = lambda: None,
        worker: str | None = None,
        lanes: int | None = None,
    ) -> None:
        """``alive`` is called again and again while something goes on; ``worker``: our name;
        ``lanes``: the most trials to train at once, where the worker was told.
        """
        self._lanes = lanes
        self._worker = worker
        self._channel, self._permission, self._alive = channel, permission, alive
        self._artifacts = Artifacts(settings.artifact_place)
        self._checkpoint_every = settings.checkpoint
        self._failures = Failures()
        self._device: torch.device | None = None
        self._loaded: _Loaded | None = None
        self._sources = Sources()
        self._home = ""  # where the user's code that is loaded comes from

    def outdated(self, job: Job) -> bool:
        """Whether a new process is due before this job.

        The user's code has changed since it was loaded, or it is somebody else's, whose modules
        may have the same names, or an error of the GPU has left its context unusable.
        """
        home = home_of(job.task)
        foreign = bool(home and self._home and home != self._home)
        return self._failures.poisoned or foreign or self._sources.changed()

    def run(self, job: Job) -> str:
        """Do the job. Every trial ends with an outcome; nothing is raised for the user's faults.

        Returns why this worker cannot run such a job; "": it can.
        """
        self._failures.refused = ""
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
            self._say_failed(job, error)
        finally:
            self._sources.remember()  # what was imported on the way
            self._channel.flush()
            self._channel.watch("", ())
        return self._failures.refused

    def _say_failed(self, job: Job, error: Exception) -> None:
        """Tell whoever waits for the job that it has failed as a whole."""
        match job:
            case TrainJob():
                for work in job.trials:  # those that have ended already are not changed by it
                    self._failures.end(self._attempt(job, work), error)
            case InspectJob():
                failure = self._failures.word(error)
                self._channel.send(
                    Inspection(
                        study=job.study, job=job.id, failure=failure, worker=self._worker or ""
                    )
                )
            case TidyJob():
                pass  # nobody waits for it

    # -- to train -------------------------------------------------------------------------------

    def _train(self, job: TrainJob) -> None:
        what = self._load(job.task, job.epochs, job.steps)
        changed = differing(job.sources, self._sources.of(job.task))
        if changed:
            raise ChangedTask(_CHANGED.format(files=", ".join(changed), worker=self._worker))
        attempts = [self._attempt(job, work) for work in job.trials]
        if isinstance(what, TaskTrainer):
            self._train_task(job, what, attempts)
            return
        for attempt in attempts:
            attempt.begin()
            try:
                if isinstance(what, Objective):
                    run_objective(what, attempt)
                else:
                    run_command(
                        what.command,
                        attempt,
                        epochs=job.epochs,
                        steps=job.steps,
                        metric=job.metric,
                        known=job.known_metric,
                    )
            except JustrightError as error:
                self._failures.end(attempt, error)

    def _train_task(self, job: TrainJob, trainer: TaskTrainer, attempts: list[Attempt]) -> None:
        if trainer.initial_loss is None:
            trainer.measure_initial_loss(job.seed)
        TaskJob(
            job,
            trainer,
            self._channel,
            self._artifacts,
            self._checkpoint_every,
            self._failures,
            self._lanes,
        ).run(attempts)

    def _attempt(self, job: TrainJob, work: TrialWork) -> Attempt:
        return Attempt(job.study, work, self._channel, self._alive, worker=self._worker)

    # -- to look at a task ----------------------------------------------------------------------

    def _inspect(self, job: InspectJob) -> Inspection:
        what = self._load(job.task, job.epochs, job.steps)
        if isinstance(what, TaskTrainer):
            details = what.inspect(job.seed, job.search)
            plan = self._plan(what, job)
            return Inspection(
                study=job.study,
                job=job.id,
                worker=self._worker or "",
                sources=self._sources.of(job.task),
                epochs=what.epochs,
                steps=what.steps,
                lap=what.horizon.lap,
                initial_loss=what.initial_loss,
                search_schedule=what.search_schedule,
                details=details,
                plan=plan,
                warnings=tuple(what.warnings),
                pauses=all(what.own_state.values()),
            )
        objective = isinstance(what, Objective)
        owner = "an objective" if objective else "a program"
        reason = f"{owner} has a training loop of its own"
        return Inspection(
            study=job.study,
            job=job.id,
            worker=self._worker or "",
            sources=self._sources.of(job.task),
            kind="objective" if objective else "command",
            warnings=warnings_of(what.function) if isinstance(what, Objective) else (),
            epochs=job.epochs or job.steps,
            plan=LanePlan(lanes=job.lanes or 1, reason=reason),
        )

    def _plan(self, trainer: TaskTrainer, job: InspectJob) -> LanePlan:
        assert self._loaded is not None
        plans, wanted = self._loaded.plans, (job.lanes, job.most)
        if wanted not in plans:
            plans[wanted] = plan_lanes(trainer, job.seed, job.lanes, job.most)
        return plans[wanted]

    # -- the task -------------------------------------------------------------------------------

    def _load(
        self, ref: TaskRef, epochs: int | None, steps: int | None
    ) -> TaskTrainer | Objective | CommandLine:
        """What the job names: that of the last job, if it is the same."""
        key = (ref.model_dump_json(), epochs, steps)
        if self._loaded is None or self._loaded.key != key:
            self._loaded = None  # frees the old task's data first
            task = self._permission.check(ref)
            self._home = home_of(ref) or self._home
            try:
                found = load(task)
            finally:
                self._sources.remember()
            if isinstance(found, Task):
                self._device = self._device or pick_device()
                trainer = TaskTrainer(found, self._device, epochs, steps=steps)
                trainer.alive = self._alive
                self._loaded = _Loaded(key, trainer)
            else:
                self._loaded = _Loaded(key, found)
        return self._loaded.what
