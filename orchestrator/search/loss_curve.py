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
    """What a trial has reported, by step."""

    lr: float
    by_step: Mapping[int, float]  #: Losses that are compared.
    initial: float | None = None  #: The untrained loss; None: nobody has looked.
    train: Mapping[int, float] = field(default_factory=dict)  #: Training losses.
    diverged: bool = False
    died: int = 0  #: The step at which it diverged; 0: nobody knows, after its last report.

    @classmethod
    def of(cls, losses: Sequence[float], *, diverged: bool = False, lr: float = 1.0) -> LossCurve:
        """A curve from its losses in a row, the untrained one first."""
        return cls(lr, dict(enumerate(losses[1:], 1)), losses[0], diverged=diverged)

    @cached_property
    def points(self) -> npt.NDArray[np.intp]:
        """The steps at which losses are known, ascending, 0 first."""
        finite = sorted(step for step, loss in self.by_step.items() if math.isfinite(loss))
        return np.array([0, *(step for step in finite if step > 0)])

    @cached_property
    def losses(self) -> Array:
        """The loss at each of the points, the untrained one first, of the same shape."""
        later = (self.by_step[int(step)] for step in self.points[1:])
        return np.array([self.initial or 0.0, *later])

    @cached_property
    def _lowest_so_far(self) -> Array:
        return np.minimum.accumulate(self.losses)

    @cached_property
    def steps(self) -> int:
        """Steps trained, the diverging one included."""
        last = int(self.points[-1])
        return max(self.died, last + 1) if self.diverged else last

    @property
    def lowest(self) -> float:
        """The lowest loss so far, the untrained one included."""
        return float(self._lowest_so_far[-1])

    def lowest_until(self, step: int) -> float:
        """The lowest loss up to a step, the untrained one included."""
        return float(self._lowest_so_far[np.searchsorted(self.points, step, side="right") - 1])
