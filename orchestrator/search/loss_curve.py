"""The losses of one trial over its steps, as the search and the diagnosis read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class LossCurve:
    """What a trial has reported, by step. ``diverged``: in the step after the last one."""

    lr: float
    by_step: Mapping[int, float]  #: Losses that are compared; all of them finite.
    initial: float | None = None  #: The untrained loss; None: nobody has looked.
    train: Mapping[int, float] = field(default_factory=dict)  #: Training losses.
    diverged: bool = False

    @classmethod
    def of(cls, losses: Sequence[float], *, diverged: bool = False, lr: float = 1.0) -> LossCurve:
        """A curve from its losses in a row, the untrained one first."""
        return cls(lr, dict(enumerate(losses[1:], 1)), losses[0], diverged=diverged)

    @cached_property
    def losses(self) -> Array:
        """One loss a step, the untrained one first, shape (steps + 1,).

        Where a report was lost, or was not finite, the loss of the step before stands for it.
        """
        found = [self.initial or 0.0]
        for step in range(1, max(self.by_step, default=0) + 1):
            loss = self.by_step.get(step, math.nan)
            found.append(loss if math.isfinite(loss) else found[-1])
        return np.array(found)

    @property
    def steps(self) -> int:
        """Steps trained, the diverging one included."""
        return len(self.losses) - 1 + self.diverged

    @cached_property
    def lowest(self) -> float:
        """The lowest loss so far, the untrained one included."""
        return float(self.losses.min())
