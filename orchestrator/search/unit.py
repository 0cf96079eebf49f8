"""Losses at the ends of what a float can hold, brought to where they can be squared and summed."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import overload

_ORDINARY = 300  # binary orders of magnitude about 1, whose squares and sums a float holds


@dataclass(frozen=True)
class Unit:
    """A power of two by which losses are divided, so that none of their digits is lost."""

    exponent: int = 0

    @classmethod
    def of(cls, losses: Iterable[float | None], initial: float | None = None) -> Unit:
        """The unit for these losses and the untrained one: 1 where they are ordinary numbers."""
        sizes = [abs(x) for x in (*losses, initial) if x is not None and math.isfinite(x)]
        _, exponent = math.frexp(max(sizes, default=0.0))
        return cls(0 if abs(exponent) <= _ORDINARY else exponent)

    @overload
    def shrink(self, loss: float) -> float: ...
    @overload
    def shrink(self, loss: None) -> None: ...
    @overload
    def shrink(self, loss: float | None) -> float | None: ...
    def shrink(self, loss: float | None) -> float | None:
        """A loss in this unit."""
        return loss if loss is None or not self.exponent else math.ldexp(loss, -self.exponent)

    def restore(self, loss: float) -> float:
        """A loss as it was; what no float can hold is the nearest that one can."""
        if not self.exponent:
            return loss
        try:
            return math.ldexp(loss, self.exponent)
        except OverflowError:
            return math.copysign(sys.float_info.max, loss)
