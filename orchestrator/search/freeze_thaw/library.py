"""The library of real trainings that the curve model takes new ones to be like.

It comes along as ``surfaces.npz``, made by ``benchmarks.search.make_prior``: for each of its tasks
the progress of the loss over log rate and the share of the horizon.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.search.loss_curve import Array

# The library's own grid.
FRACTIONS = np.array([
    1 / 512, 0.003, 0.0045, 0.0065, 0.01, 0.015, 0.022, 0.033, 0.05, 0.075, 0.11, 0.16, 0.24, 0.35,
    0.5, 0.65, 0.8, 1.0,
])  # fmt: skip
LOWEST, SPACING, RATES = -5.0, 0.2, 36
DEAD = -9.0  #: Stands for the progress of a training that has diverged.

_ON_GRID = 1e-9  # steps of the grid within which a place lies on one of its rates

#: Decades by which a new task's rates may be shifted.
SHIFTS = np.round(np.arange(-4.0, 4.001, 0.1), 3)


@dataclass(frozen=True)
class Library:
    """Surfaces of progress: (n, rates, fractions), DEAD after divergence; log weights (n,);
    noise (n,): standard deviation of the best rate's end from seed to seed, in its progress."""

    surfaces: Array
    log_weights: Array
    noise: Array

    def at(self, decades: float, fraction: float) -> Array:
        """Progress at one rate and share of the horizon, for each surface and shift."""
        place = np.clip((decades - SHIFTS - LOWEST) / SPACING, 0, RATES - 1)
        where = np.interp(
            math.log(max(fraction, FRACTIONS[0])), np.log(FRACTIONS), np.arange(len(FRACTIONS))
        )
        before = int(where)
        after, share = min(before + 1, len(FRACTIONS) - 1), where - before
        first, second = self.surfaces[:, :, before], self.surfaces[:, :, after]
        mixed = _mix(first, second, share)
        low = np.floor(place + _ON_GRID).astype(int)
        high = np.minimum(low + 1, RATES - 1)
        return _mix(mixed[:, low], mixed[:, high], np.clip(place - low, 0, 1))

    def ends(self, surface: npt.NDArray[np.intp], shift: Array, grid: Array) -> Array:
        """Progress at the horizon of some (surface, shift), over a grid of decades."""
        place = np.clip((grid[None] - shift[:, None] - LOWEST) / SPACING, 0, RATES - 1)
        low = np.floor(place + _ON_GRID).astype(int)
        high = np.minimum(low + 1, RATES - 1)
        rows = surface[:, None]
        ends = self.surfaces[:, :, -1]
        return _mix(ends[rows, low], ends[rows, high], np.clip(place - low, 0, 1))


def _mix(first: Array, second: Array, share: Array | float) -> Array:
    """Between two, linearly; the nearer one where one of them is dead."""
    dead = (first < 0) | (second < 0)
    nearer = np.where(np.asarray(share) < 0.5, first, second)
    mixed: Array = np.where(dead, nearer, first * (1 - share) + second * share)
    return mixed


@cache
def library() -> Library:
    """The library that comes along."""
    with np.load(Path(__file__).with_name("surfaces.npz")) as data:
        surfaces = data["surfaces"].astype(np.float32)
        weights, noise = data["weights"].astype(float), data["noise"].astype(float)
        return Library(surfaces, np.log(weights), noise)
