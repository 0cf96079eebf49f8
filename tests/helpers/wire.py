"""The worker's channel on the broker's twin, and what came through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from justright.brokers.memory import MemoryBroker
from justright.messages import Decision, Outcome, Report, TrialWork
from worker.jobs.attempt import Attempt
from worker.jobs.channel import Channel

STUDY = "s"


class Wire:
    """A channel that watches one trial of one study."""

    def __init__(self, trial: int) -> None:
        self.broker = MemoryBroker()
        self.channel = Channel(self.broker)
        self.channel.watch(STUDY, [trial])
        self._heard: list[Any] = []

    def run(self, work: TrialWork, train: Callable[[Attempt], None]) -> Outcome:
        """Have an attempt made; returns its outcome, of which there is one, at the very end."""
        train(Attempt(STUDY, work, self.channel))
        *self._heard, last = self.told()
        assert isinstance(last, Outcome)
        assert not any(isinstance(event, Outcome) for event in self._heard)
        return last

    def stop(self, trial: int, attempt: int, reason: str = "worse than the median") -> None:
        """What the orchestrator decides; the worker hears of it with its next report."""
        decision = Decision(attempt=attempt, action="stop", reason=reason)
        self.broker.decide(STUDY, {trial: decision})

    def told(self) -> list[Any]:
        """All events since the last call, without the outcome that ``run`` returned."""
        self.channel.flush()
        heard, self._heard = self._heard + list(self.broker.receive(0)), []
        return heard

    def losses(self) -> list[tuple[int, float | None]]:
        """(step, loss) of all reports since the last call."""
        return [(told.step, told.loss) for told in self.told() if isinstance(told, Report)]
