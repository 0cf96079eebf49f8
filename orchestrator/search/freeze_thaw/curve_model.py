"""What a study's curves say of the rates that it has not trained, or not to the end.

The prior is a library of real trainings (``library.py``): for each task, the progress of the loss
over log rate and the share of the horizon. A new task is taken to be like one of them, with all
rates shifted by some factor; how likely each (surface, shift) is follows from what has been seen,
diverged trials included. What the new task does differently is a Gaussian process over log rate
on the residuals at the ends of its curves, trusted the more, the nearer these are to the horizon.
(Freeze-thaw: Swersky, Snoek and Adams 2014; learned curve priors: Klein et al. 2017, Adriaensen
et al. 2023.)

Progress is what the loss has come down from its untrained value, at its lowest so far. Rates are
in decades, log10 of the learning rate. Regret is the loss above the best rate's, over the median
rate's loss above the best rate's, at most 1.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.search.freeze_thaw.library import DEAD, LOWEST, SHIFTS, SPACING, Library
from orchestrator.search.loss_curve import Array, LossCurve

_SHIFT_SPREAD = 1.2  # decades: how far good rates of like tasks lie apart
_MARKS = 1.6  # ratio of the steps at which curves are compared
_FLOOR = 0.02  # gaps of progress below it are not told apart
_GAP_ERROR = 0.25  # decades by which the gap to the leader differs from a like task's
_SHAPE_ERROR = 0.2  # ... and the gap of the leader's own past to its present
_CAP = 9.0  # squared errors count no more than this: no one outlier rules a surface out
_MISJUDGED = 6.0  # squared error where one diverges and the other does not
_BESIDE = 1.0  # decades from the leader within which rates must have gained what any rate gains
_CROWD = 0.3  # decades in which rates tell the same
# What any rate gains at once, such as the frequencies of words, as shares of the leader's progress.
_TRIVIAL = np.array([0.0, 0.7, 0.9])
_TRIVIAL_CHANCE = np.log([0.7, 0.2, 0.1])
_RATES_WEIGHT, _SHAPE_WEIGHT = 0.2, 3.0  # tempering: surfaces are like, never the same
_RESIDUAL, _REACH = 0.05, 0.4  # spread of what surfaces miss, in spans; its range in decades
_SEEN_ENDS = 1e-4  # variance left where a curve was seen to its end
# The wall: where rates diverge by the horizon. It moves colder as training goes on.
_WALL_ASTRAY = 0.7  # chance that surfaces say nothing of it
_WALL_STAYS = 0.4  # chance that it does not move any more
_WALL_STEP, _WALL_DRIFT = 0.1, 0.5  # decades that it moves else: at all, and per decade of steps
SAMPLES = 200
_TINY = 1e-6  # progress that stands for none, where it divides
_JITTER = 1e-6  # of a kernel's diagonal, so that rounding leaves it positive
_LEADERS = 0.05  # share of the best progress behind it at which a curve's trust falls to 1/e
_LONGEST = 3  # curves whose shape is compared
_LEAST_SPAN = 0.01  # between the best and the median rate's progress
_UNHINTED = 0.2  # weight of a surface, however far its best rate is from a hint
_HINT_SPREAD = 0.4  # decades
_JUST_ABOVE = 1e-6  # decades by which the wall lies above a rate that has not diverged
_ON_GRID = 1e-9  # decades within which a rate lies on the grid's
_DRAWS = 20  # of a training's end, for each sample

Places = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Forecast:
    """Samples of how all rates would end. ``progress``: (samples, rates), -inf where it diverges;
    in units of the leader's expected end."""

    grid: Array
    progress: Array
    regret: Array  #: Estimate, for each rate.
    excess: Array  #: ... of what a rate loses beyond the noise from seed to seed.
    noise: Array  #: (samples,) standard deviation of an end from seed to seed, in the same units.

    @property
    def best(self) -> float:
        """The rate of the least expected regret, in decades."""
        return float(self.grid[int(np.argmin(self.regret))])

    def winners(self) -> Array:
        """The best rate of each sample, sorted; of those in which any is left."""
        left = np.isfinite(self.progress.max(1))
        return np.sort(self.grid[np.argmax(self.progress, 1)][left])

    def excess_at(self, decades: float) -> float:
        """Estimate of what a rate loses beyond the noise: what better rates may still save."""
        return float(self.excess[self._place(decades)])

    def regret_at(self, decades: float) -> float:
        return float(self.regret[self._place(decades)])

    def _place(self, decades: float) -> int:
        return int(np.argmin(np.abs(self.grid - decades)))

    def band(
        self, decades: float, share: float, chance: float, *, or_noise: bool = False
    ) -> tuple[float, float]:
        """The band around a rate in which others are as good: with at least that chance they end
        worse by no more than this share of the whole progress. In decades.

        ``or_noise``: or by no more than the noise from seed to seed, where that is more.
        """
        place = self._place(decades)
        own = self.progress[:, place, None]
        slack = np.maximum(share, self.noise * or_noise)[:, None]
        with np.errstate(invalid="ignore"):
            as_good = (self.progress >= own - slack).mean(0) >= chance
        low = high = place
        while low > 0 and as_good[low - 1]:
            low -= 1
        while high < len(self.grid) - 1 and as_good[high + 1]:
            high += 1
        return float(self.grid[low]), float(self.grid[high])

    def deviation(self, random: np.random.Generator, confidence: float) -> float:
        """How far a training's end may lie from the mean over seeds, by the noise of like tasks."""
        ends = random.standard_normal((_DRAWS, len(self.noise))) * self.noise
        return float(np.quantile(np.abs(ends), confidence))


class CurveModel:
    """The posterior of one task."""

    def __init__(
        self,
        prior: Library,
        initial_loss: float,
        marks: Sequence[int],
        grid: Array,
        hint: float | None = None,
    ) -> None:
        """``marks``: the steps at which losses are taken, the horizon last. ``grid``: decades,
        ascending. ``hint``: the best rate of a like task, in decades.
        """
        self._prior, self._initial, self._grid = prior, initial_loss, grid
        self._horizon = marks[-1]
        self._compared = _apart(marks)
        self._start = prior.log_weights[:, None] - 0.5 * (SHIFTS / _SHIFT_SPREAD)[None] ** 2
        if hint is not None:
            self._start = self._start + _hinted(prior, hint)
        self._known: dict[tuple[float, int], Array] = {}
        self._at_marks: dict[int, tuple[object, Array]] = {}
        self._curves: dict[float, LossCurve] = {}

    def observe(self, curves: Mapping[float, LossCurve]) -> None:
        """All that was seen, by decades."""
        self._curves = dict(curves)

    def forecast(self, random: np.random.Generator, samples: int = SAMPLES) -> Forecast:
        """What to expect at the horizon."""
        weights = self.posterior()
        marks = (random.random() + np.arange(samples)) / samples
        drawn = np.minimum(np.searchsorted(np.cumsum(weights), marks), weights.size - 1)
        kinds, back = np.unique(drawn, return_inverse=True)
        trivial, surface, shift = np.unravel_index(kinds, weights.shape)
        ends = self._prior.ends(surface, SHIFTS[shift], self._grid)
        dead, span = (ends < 0)[back], _spans(np.where(ends < 0, -np.inf, ends))[back]
        alive = [x for x, curve in sorted(self._curves.items()) if not curve.diverged]
        likes = surface * len(SHIFTS) + shift
        correction, spread, seen, unit = self._residuals(trivial, likes, alive)
        noise = random.standard_normal((samples, len(self._grid))) @ spread.T
        progress = (ends + np.where(ends < 0, 0, correction))[back]
        progress = progress + noise * (_RESIDUAL * span)[:, None]
        for x, reached in zip(alive, seen.T, strict=True):
            place = int(np.argmin(np.abs(self._grid - x)))
            progress[:, place] = np.maximum(progress[:, place], reached[back])
            if self._curves[x].steps >= self._horizon:
                dead[:, : place + 1] = False
        dead |= self._walls(random, samples, alive)
        progress = np.where(dead, -np.inf, progress)
        spread_of_seeds = self._prior.noise[surface][back]
        regret = _regrets(progress).mean(0)
        excess = _regrets(progress, spread_of_seeds[:, None]).mean(0)
        # Back to all that has come down from the untrained value.
        whole = (unit / (self._leading() * _TRIVIAL[trivial] + unit))[back]
        progress = 1 - (1 - progress) * whole[:, None]
        return Forecast(self._grid, progress, regret, excess, spread_of_seeds * whole)

    # -- how likely each surface and shift is -------------------------------------------------

    def posterior(self) -> Array:
        """Weights of (trivial share, surface, shift), of sum 1."""
        total = self._start + (_TRIVIAL_CHANCE + self._impossible())[:, None, None]
        marks = self._marks()
        found = [one for mark in marks if (one := self._compare(mark)) is not None]
        if found:
            total = total + _RATES_WEIGHT * np.sum(found, 0) / math.sqrt(len(found))
            total = total + _SHAPE_WEIGHT * self._shapes(marks)
        weights = np.exp(total - total.max())
        normalized: Array = weights / weights.sum()
        return normalized

    def _marks(self) -> list[int]:
        """The steps at which curves are compared."""
        last = max((curve.steps for curve in self._curves.values()), default=0)
        return [mark for mark in self._compared if mark <= last]

    def _expected(self, decades: float, step: int) -> Array:
        key = (decades, step)
        if key not in self._known:
            share = min(1.0, step / self._horizon)
            self._known[key] = self._prior.at(decades, share).astype(np.float32)
        return self._known[key]

    def _leading(self) -> float:
        """The most progress of all."""
        alive = [curve for curve in self._curves.values() if not curve.diverged]
        return max(0.0, *(self._initial - curve.lowest for curve in alive), 0.0)

    def _impossible(self) -> Array:
        """By trivial share: -inf where a rate beside the leader has gained less at first."""
        alive = {x: c for x, c in self._curves.items() if not c.diverged}
        found = np.where(_TRIVIAL > 0, -np.inf, 0.0)
        if not alive:
            return found
        leader = min(alive, key=lambda x: alive[x].lowest)
        near = [c for x, c in alive.items() if abs(x - leader) <= _BESIDE]
        first = min(min(c.steps for c in near), self._compared[0])
        least = min(self._initial - c.lowest_until(first) for c in near)
        if len(near) > 1:
            found[_TRIVIAL * self._leading() <= least] = 0
        return found

    def _progress(self, curve: LossCurve, step: int) -> Array:
        """By trivial share: less what any rate would have gained."""
        if curve.diverged and curve.steps <= step:
            return np.full(len(_TRIVIAL), DEAD)
        trivial = _TRIVIAL * self._leading()
        return np.maximum(0.0, self._initial - trivial - curve.lowest_until(step))

    def _compare(self, step: int) -> Array | None:
        """Log likelihood of the gaps to the leader at a step; None where only one got there."""
        curves = self._curves.items()
        there = sorted(x for x, curve in curves if curve.steps >= step or curve.diverged)
        if len(there) < 2:
            return None
        progress = np.stack([self._progress(self._curves[x], step) for x in there], -1)
        key = (tuple(there), progress.tobytes())
        if self._at_marks.get(step, (None,))[0] != key:
            expected = np.stack([self._expected(x, step) for x in there], -1)
            like = _gaps(expected, expected.max(-1, keepdims=True))
            places = np.array(there)
            crowd = np.exp(-np.abs(places[:, None] - places) / _CROWD).sum(1)
            found = np.stack([self._likelihood(one, progress[0], like, crowd) for one in progress])
            self._at_marks[step] = (key, found)
        return self._at_marks[step][1]

    def _likelihood(self, progress: Array, whole: Array, like: Array, crowd: Array) -> Array:
        leader = progress.max()
        errors = _errors(_gaps(progress, leader), like, _GAP_ERROR)
        found: Array = -0.5 * (errors / crowd).sum(-1)
        alive = progress >= 0
        if not alive.any():
            return found
        # Of losses, not of gaps: where gaps are counted in a smaller unit, small ones tell more.
        unit = max(float(whole.max()), sys.float_info.min)
        missing = np.log(_FLOOR * max(leader / unit, _TINY) + (whole.max() - whole[alive]) / unit)
        missing = missing / crowd[alive]
        told: Array = found - missing.sum() + missing[np.argmax(whole[alive])]
        return told

    def _shapes(self, marks: list[int]) -> Array | float:
        """Log likelihood of how the rates that were trained longest have come to where they are."""
        alive = {x: curve for x, curve in self._curves.items() if not curve.diverged}
        longest = sorted(alive, key=lambda x: (-alive[x].steps, alive[x].lowest))[:_LONGEST]
        total: Array | float = 0.0
        for x in longest:
            curve = alive[x]
            end = self._progress(curve, curve.steps)
            before = [mark for mark in marks if mark < curve.steps]
            if end[0] <= 0 or not before:
                continue
            expected = self._expected(x, curve.steps)
            for mark in before:
                like = _gaps(self._expected(x, mark), np.where(expected < 0, 1.0, expected))
                seen = _gaps(self._progress(curve, mark), end)
                errors = np.stack([_errors(one, like, _SHAPE_ERROR) for one in seen])
                errors = np.where(expected < 0, _MISJUDGED, errors)
                total = total - 0.5 * errors / math.sqrt(len(before)) / len(longest)
        return total

    # -- what surfaces miss -------------------------------------------------------------------

    def _residuals(
        self, trivial: Places, kinds: Places, alive: list[float]
    ) -> tuple[Array | float, Array, Array, Array]:
        """Correction of the ends (kinds, grid), a square root of what stays uncertain (grid, grid)
        in residual units, the progress already seen (kinds, alive), and the unit of progress."""
        grid = self._grid
        kernel = np.exp(-np.abs(grid[:, None] - grid) / _REACH)
        jitter = _JITTER * np.eye(len(grid))
        if not alive:
            none = np.empty((len(kinds), 0))
            return 0.0, np.linalg.cholesky(kernel + jitter), none, np.ones(len(kinds))
        curves = [self._curves[x] for x in alive]
        steps = np.array([curve.steps for curve in curves])
        progress = np.stack([self._progress(c, c.steps) for c in curves], -1)[trivial]
        expected = np.stack(
            [self._expected(x, c.steps).ravel()[kinds] for x, c in zip(alive, curves, strict=True)],
            -1,
        )
        # The new task's unit of progress: from the leaders, mostly the longest trained.
        top = np.maximum(progress.max(-1, keepdims=True), _TINY**2)
        trust = np.exp(-(top - progress) / (_LEADERS * top)) * steps / steps.max()
        unit = (trust * progress).sum(-1) / np.maximum(
            (trust * np.maximum(expected, 0)).sum(-1), _TINY
        )
        unit = np.maximum(unit, _TINY**2)
        seen = progress / unit[:, None]
        residual = np.where(expected < 0, 0, seen - expected)
        places, share = np.array(alive), np.minimum(1, steps / self._horizon)
        near = np.exp(-np.abs(places[:, None] - places) / _REACH)
        cross = np.exp(-np.abs(grid[:, None] - places) / _REACH)
        gain = np.linalg.solve(near + np.diag((1 - share) / share + _SEEN_ENDS), cross.T).T
        spread = np.linalg.cholesky(kernel - gain @ cross.T + jitter)
        return residual @ gain.T, spread, seen, unit

    def _walls(
        self, random: np.random.Generator, samples: int, alive: list[float]
    ) -> npt.NDArray[np.bool_]:
        """Which rates diverge by the horizon, by what has diverged so far."""
        lost = [x for x, curve in self._curves.items() if curve.diverged]
        if not lost:
            return np.zeros((samples, len(self._grid)), bool)
        coldest = min(lost)
        longest = max((self._curves[x].steps for x in alive), default=0)
        deep = [x for x in alive if self._curves[x].steps >= longest / 2 and x < coldest]
        safe = max(deep, default=float(self._grid[0]))
        astray = random.random(samples) < _WALL_ASTRAY
        wall = np.where(astray, random.uniform(min(safe, coldest), coldest, samples), coldest)
        since = np.where(astray, max(longest, 1), max(self._curves[coldest].steps, 1))
        step = _WALL_STEP + _WALL_DRIFT * np.log10(np.maximum(1, self._horizon / since))
        moves = random.random(samples) >= _WALL_STAYS
        wall = wall - moves * random.exponential(1, samples) * step
        ended = [x for x in alive if self._curves[x].steps >= self._horizon]
        if ended:
            wall = np.maximum(wall, max(ended) + _JUST_ABOVE)
        wall = np.minimum(wall, coldest)
        return self._grid[None] >= wall[:, None] - _ON_GRID


def _apart(marks: Sequence[int]) -> list[int]:
    """Those of the marks that lie a ratio apart, from the first one on."""
    found: list[int] = []
    for mark in marks:
        if not found or mark >= found[-1] * _MARKS - 0.5:
            found.append(mark)
    return found


def _gaps(progress: Array, leader: Array | float) -> Array:
    """Share of the leader's progress that is missing; DEAD stays DEAD."""
    gaps: Array = np.where(
        progress < 0, DEAD, np.clip(1 - progress / np.maximum(leader, _TINY), 0, 1)
    )
    return gaps


def _errors(seen: Array, expected: Array, scale: float) -> Array:
    """Squared errors between gaps, in units of their own spread."""
    logs = np.log10(_FLOOR + np.maximum(expected, 0)) - np.log10(_FLOOR + np.maximum(seen, 0))
    errors = np.minimum((logs / scale) ** 2, _CAP)
    errors = np.where((seen < 0) & (expected < 0), 0, errors)
    found: Array = np.where((seen < 0) != (expected < 0), _MISJUDGED, errors)
    return found


def _spans(progress: Array) -> Array:
    """What lies between the best and the median rate, in each row; at least 0.01."""
    middle = np.median(progress, axis=1)
    least = np.where(np.isfinite(progress), progress, np.inf).min(1)
    middle = np.where(np.isfinite(middle), middle, np.where(np.isfinite(least), least, 0))
    top = progress.max(1)
    spans: Array = np.maximum(np.where(np.isfinite(top), top, 0) - middle, _LEAST_SPAN)
    return spans


def _regrets(progress: Array, slack: Array | float = 0.0) -> Array:
    """Of each rate, in each row, beyond some slack; 1 where it diverges."""
    top = progress.max(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        regrets = (top - progress - slack) / _spans(progress)[:, None]
    kept: Array = np.clip(np.where(np.isfinite(progress), regrets, 1.0), 0, 1)
    return kept


def _hinted(prior: Library, hint: float) -> Array:
    """Log weights of (surface, shift) by how near their best rate is to a hint."""
    ends = prior.surfaces[:, :, -1]
    best = LOWEST + SPACING * np.argmax(ends, 1)
    away = best[:, None] + SHIFTS[None] - hint
    near: Array = np.log(_UNHINTED + np.exp(-0.5 * (away / _HINT_SPREAD) ** 2))
    return near
