"""One study hurts nobody but itself: what a study computes is computed behind a guard.

A study's numbers, its policy, its answer or its snapshot may raise. Then that study has failed,
with the reason, and the orchestrator goes on with the others. Errors of the storage and of Redis
are no study's fault: they pass, and the whole turn is repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import redis

from justright.errors import StorageError
from justright.failures import Failure, FailureKind
from orchestrator.studies.study_run import StudyRun

log = logging.getLogger(__name__)

T = TypeVar("T")

_SHOWN = 500  # characters of an exception's own words


class Guard:
    """Calls what belongs to one study."""

    def __init__(self, failures: tuple[type[Exception], ...] = ()) -> None:
        """``failures``: what the storage raises, beside its own errors, while it is away."""
        self.passes: tuple[type[Exception], ...] = (StorageError, redis.RedisError, *failures)

    def __call__(self, run: StudyRun, call: Callable[[], T], otherwise: T) -> T:
        """What the call returns; ``otherwise`` where it raised, and the study has failed of it."""
        try:
            return call()
        except self.passes:
            raise
        except Exception as error:
            log.exception("study %s fails", run.name)
            self._fail(run, reason_of(error))
            return otherwise

    def _fail(self, run: StudyRun, failure: Failure) -> None:
        """In good order, with an answer, where that can be had; else by the plainest way."""
        if run.record.active:
            try:
                run.fail(failure)
                return
            except self.passes:
                raise
            except Exception:
                log.exception("study %s cannot be ended in good order", run.name)
        run.break_off(failure)


def reason_of(error: Exception) -> Failure:
    """What a user is told of a fault that justright did not foresee."""
    words = " ".join(str(error).split())[:_SHOWN]
    # What cannot be written as UTF-8 would keep the reason itself from being told.
    words = words.encode("utf-8", "replace").decode()
    message = f"justright itself failed on this study: {type(error).__name__}: {words}"
    return Failure(kind=FailureKind.INTERNAL, message=message)
