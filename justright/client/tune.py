"""``tune``: one study on this machine, from its first process to its answer."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

import redis

from justright.cli.view import make_view
from justright.client.locate import gather
from justright.client.submit import follow, refuse_if_another, submit
from justright.errors import JustrightError, UsageError
from justright.lifecycle import StudyState
from justright.local.service import LocalService, LocalStudy
from justright.messages import Snapshot
from justright.settings import load_settings
from justright.spec import StudySpec, read_rate

_REMEMBER_EVERY = 1.0  # seconds; what ``status`` and ``best`` know after a kill -9


class Terminated(SystemExit):
    """A signal asked us to end, as a scheduler does, or a terminal that is closed."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


def run(spec: StudySpec, *, gpus: Sequence[str], workers: int | None, quiet: bool) -> Snapshot:
    """Start everything that the study needs, follow it to its end, and end everything.

    Interrupted in any way, a study of which something was trained is kept: the same call goes on.

    Raises:
        UsageError: there is another study of that name, or a ``tune`` that works on it.
        JustrightError: a part of the service ended or could not start.
    """
    settings = load_settings()
    spec = spec.model_copy(update={"like": _rate_of(spec.like)})
    study = LocalStudy(settings, spec.name)
    refuse_if_another(study.recall(), spec)
    study.open()
    service = LocalService(study, settings)
    _raise_on_signals()
    interrupted = False
    try:
        service.start(gpus, workers, spec)
        return _follow(service, study, spec, quiet)
    except (KeyboardInterrupt, Terminated):
        interrupted = True
        raise
    finally:
        kept = _end(service, study)
        if interrupted and kept:
            sys.stderr.write(f"\nstopped; the same command with --name {spec.name} goes on\n")


def _rate_of(like: str | None) -> str | None:
    """The answer of an earlier study, which the orchestrator of this one does not know."""
    if like is None or read_rate(like) is not None:
        return like
    answer = gather(like).snapshots[0].answer
    if answer is None or answer.best_lr is None:
        raise UsageError(f"--like: the study {like} has no answer.")
    return f"{answer.best_lr:g}"


def _follow(service: LocalService, study: LocalStudy, spec: StudySpec, quiet: bool) -> Snapshot:
    broker = service.broker()
    remembered = time.monotonic()
    with make_view(quiet) as view:

        def show(snapshot: Snapshot) -> None:
            nonlocal remembered
            view.show(snapshot)
            if snapshot.trials and time.monotonic() - remembered > _REMEMBER_EVERY:
                remembered = time.monotonic()
                study.remember(snapshot)

        submission = submit(broker, spec)
        try:
            return follow(
                broker, spec.name, submission=submission, show=show, check=service.check,
                rest=True,
            )  # fmt: skip
        except redis.RedisError as error:
            service.check()
            raise JustrightError(f"the embedded Redis does not answer: {error}") from None


def _end(service: LocalService, study: LocalStudy) -> bool:
    """End all processes, and keep the study unless nothing was trained; whether it is kept."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # once is enough, and it does not take long
    last = service.stop()
    paused = last is not None and last.state == StudyState.PAUSED
    if not study.has_trials() and not paused:
        study.discard()
        return False
    if last is not None:
        study.remember(last)
    return True


def _raise_on_signals() -> None:
    def terminate(number: int, _frame: FrameType | None) -> None:
        raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, terminate)
