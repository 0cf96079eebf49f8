"""One execution of a trial, as it talks to the orchestrator."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from justright.failures import Failure
from justright.logs import event
from justright.messages import Decision, Noticed, Outcome, OutcomeKind, Report, TrialWork
from worker.jobs.channel import Channel

log = logging.getLogger(__name__)


@dataclass
class Attempt:
    """Reports, is told what to do, and says how it ended."""

    study: str
    work: TrialWork
    channel: Channel
    alive: Callable[[], None] = lambda: None  #: A sign of life for whoever watches over us.
    losses: dict[int, float | None] = field(default_factory=dict)  #: All so far, by step.
    worker: str | None = None  #: The name of ours, for the log.

    def begin(self) -> None:
        """Note that its training begins."""
        self._log("trial begun")

    def go_on(self, step: int) -> None:
        """Note that its training goes on from a checkpoint, after a step."""
        self._log("trial goes on", step=step)

    def report(
        self, step: int, loss: float | None, train_loss: float | None = None, seconds: float = 0.0
    ) -> None:
        """Report one step. A loss that is not finite travels as None."""
        self.alive()
        loss = loss if loss is not None and math.isfinite(loss) else None
        self.losses.setdefault(step, loss)
        self.channel.send(
            Report(
                study=self.study,
                trial=self.work.number,
                attempt=self.work.attempt,
                step=step,
                loss=loss,
                train_loss=train_loss,
                seconds=seconds,
            )
        )

    def notice(self, text: str) -> None:
        """Tell the study's user something, though the training goes on."""
        self.channel.send(Noticed(study=self.study, text=text))

    @property
    def told(self) -> Decision | None:
        """What this trial shall do now, as far as it is known here; None: go on."""
        leaving = self.channel.leaving
        if leaving is not None:
            return Decision(attempt=self.work.attempt, action="leave", reason=leaving.message)
        return self.channel.decision(self.work.number, self.work.attempt)

    def end(
        self,
        kind: OutcomeKind,
        *,
        step: int = 0,
        reason: str = "",
        value: float | None = None,
        failure: Failure | None = None,
        metric: str = "",
    ) -> None:
        """Say how it ended: the last word of this attempt.

        FAILED without a failure: given back, since the worker leaves. ``metric``: the name by
        which its losses were read, where it prints them.
        """
        if kind is OutcomeKind.FAILED and failure is None:
            failure = self.channel.leaving
        if kind is OutcomeKind.FAILED:
            why = failure.message if failure is not None else reason
            self._log("trial failed", level=logging.WARNING, step=step, reason=why)
        elif kind is OutcomeKind.PAUSED:
            self._log("trial paused", step=step)
        else:
            self._log("trial ended", step=step, outcome=kind.value, reason=reason or None)
        self.channel.send(
            Outcome(
                study=self.study,
                trial=self.work.number,
                attempt=self.work.attempt,
                kind=kind,
                step=step,
                reason=reason,
                value=value,
                failure=failure,
                worker=self.worker or "",
                metric=metric,
                losses=tuple(sorted(self.losses.items())),
            )
        )

    def _log(self, what: str, *, level: int = logging.INFO, **about: str | float | None) -> None:
        work = self.work
        about = {"trial": work.number, "attempt": work.attempt, "worker": self.worker, **about}
        event(log, what, level=level, study=self.study, **about)
