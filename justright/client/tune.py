"""``tune``: one study on this machine, from its first process to its answer."""

from __future__ import annotations

import time
from collections.abc import Sequence

import redis

from justright.client.locate import gather
from justright.client.submit import refuse_if_another, submit, watch
from justright.errors import JustrightError, UsageError
from justright.lifecycle import StudyState
from justright.local.service import LocalService
from justright.local.study_folder import LocalStudy
from justright.messages import Snapshot
from justright.settings import load_settings
from justright.spec import StudySpec, read_rate

_REMEMBER_EVERY = 1.0  # seconds; what ``status`` and ``best`` know after a kill -9


class Watcher:
    """What a caller of ``tune`` is told as it goes on, in this order. By itself it does nothing."""

    def started(self) -> None:
        """All processes run."""

    def show(self, snapshot: Snapshot) -> None:
        """The study has changed."""

    def ending(self) -> None:
        """All processes are about to be ended, for whatever reason. It takes seconds."""

    def ended(self, kept: bool) -> None:
        """Nothing runs any more. ``kept``: the same call goes on with the study."""


def tune(
    spec: StudySpec,
    *,
    gpus: Sequence[str],
    workers: int | None = None,
    watcher: Watcher | None = None,
) -> Snapshot:
    """Start everything that the study needs, watch it to its end, and end everything.

    Left by any exception, a study of which something was trained is kept: the same call goes on.
    What asks this process to end is the caller's to handle: nothing is printed here, and no signal
    handler set.

    Raises:
        UsageError: there is another study of that name, or a ``tune`` that works on it.
        JustrightError: a part of the service ended or could not start.
    """
    watcher = watcher or Watcher()
    settings = load_settings()
    spec = spec.model_copy(update={"like": _rate_of(spec.like)})
    study = LocalStudy(settings, spec.name)
    refuse_if_another(study.recall(), spec)
    study.open()
    service = LocalService(study, settings)
    try:
        service.start(gpus, workers, spec)
        watcher.started()
        return _watch(service, study, spec, watcher)
    finally:
        try:
            watcher.ending()
        finally:
            watcher.ended(kept=_end(service, study))


def _rate_of(like: str | None) -> str | None:
    """The answer of an earlier study, which the orchestrator of this one does not know."""
    if like is None or read_rate(like) is not None:
        return like
    answer = gather(like).snapshots[0].answer
    if answer is None or answer.best_lr is None:
        raise UsageError(f"--like: the study {like} has no answer.")
    return f"{answer.best_lr:g}"


def _watch(service: LocalService, study: LocalStudy, spec: StudySpec, watcher: Watcher) -> Snapshot:
    broker = service.broker()
    remembered = time.monotonic()

    def show(snapshot: Snapshot) -> None:
        nonlocal remembered
        watcher.show(snapshot)
        if snapshot.trials and time.monotonic() - remembered > _REMEMBER_EVERY:
            remembered = time.monotonic()
            study.remember(snapshot)

    submission = submit(broker, spec)
    try:
        return watch(
            broker, spec.name, submission=submission, show=show, check=service.check, rest=True
        )
    except redis.RedisError as error:
        service.check()
        raise JustrightError(f"the embedded Redis does not answer: {error}") from None


def _end(service: LocalService, study: LocalStudy) -> bool:
    """End all processes, and keep the study unless nothing was trained; whether it is kept."""
    last = service.stop()
    paused = last is not None and last.state == StudyState.PAUSED
    if not study.has_trials() and not paused:
        study.discard()
        return False
    if last is not None:
        study.remember(last)
    return True
