"""Made tasks for tests of the search: the loss over log rate and epochs is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orchestrator.search.loss_curve import LossCurve


@dataclass(frozen=True)
class Made:
    """A bowl over decades whose floor is reached in time, with a wall on its hot side."""

    best: float = -2.0  #: decades
    wall: float = -0.5  #: from here on, trainings diverge
    horizon: int = 40
    width: float = 1.0
    late: float = 0.0  #: decades below the wall in which they diverge later and later
    noise: float = 0.0
    seed: int = 0

    initial = 2.3

    def losses(self, decades: float, epochs: int) -> LossCurve:
        """The curve of a rate until an epoch."""
        dies = self._dies(decades)
        found = [self.initial]
        for epoch in range(1, epochs + 1):
            if epoch >= dies:
                return LossCurve.of(found, diverged=True)
            found.append(self.loss(decades, epoch))
        return LossCurve.of(found)

    def _dies(self, decades: float) -> float:
        if decades >= self.wall:
            return 1 + 2 * (decades < self.wall + 0.5)
        if self.late and decades > self.wall - self.late:
            share = (self.wall - decades) / self.late
            return max(2.0, share * self.horizon)
        return math.inf

    def loss(self, decades: float, epoch: int) -> float:
        """Colder rates learn slower; hotter ones end higher."""
        speed = 10 ** (0.9 * (decades - self.best)) * 6 / self.horizon
        floor = 0.2 + 0.5 * max(0.0, (decades - self.best) / self.width) ** 2
        value = floor + (self.initial - floor) * math.exp(-speed * epoch)
        jitter = np.random.default_rng((self.seed, round(1000 * decades) + 10**6, epoch))
        return float(value + self.noise * jitter.standard_normal())

    def quality(self, decades: float) -> float:
        """The lowest loss of a full training; inf where it diverges."""
        curve = self.losses(decades, self.horizon)
        return math.inf if curve.diverged else float(curve.losses.min())


def regret(task: Made, decades: float, low: float = -5.0, high: float = 1.0) -> float:
    """Of an answer, over the rates from low to high."""
    values = np.array([task.quality(x) for x in np.arange(low, high + 1e-9, 0.1)])
    whole = values[np.isfinite(values)]
    middle = min(float(np.median(values)), float(whole.max()))
    got = task.quality(decades)
    if not math.isfinite(got):
        return 1.0
    return min(1.0, (got - float(whole.min())) / (middle - float(whole.min())))


Train = Callable[[float, int], LossCurve]
