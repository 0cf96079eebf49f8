"""What to train next, by what the curve model expects: the decisions of the default search.

A few rates are spread over the range and trained for a small share of the horizon. Then rungs rise
by half, from mark to mark (``justright/marks.py``): on each, the rates that may be the best one, by
the model's samples, are trained that far, paused ones being thawed where they serve. Rates that no
sample prefers any more stay frozen. The search ends when the best rate that was trained to the
horizon is expected to lose less regret than going on is worth.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from justright.marks import after, at_or_after
from orchestrator.search.freeze_thaw.curve_model import CurveModel, Forecast
from orchestrator.search.freeze_thaw.library import library
from orchestrator.search.loss_curve import Array, LossCurve

STEP = 0.1  #: decades between the rates that are considered, multiples of it: 1, 1.26, 1.58, 2 ...
_PROBES, _FEWEST = 9, 4  # rates of the start where the range is _USUAL decades wide
_START = 1 / 64  # share of the horizon that a probe is trained, at least
_START_COST = 0.25  # full trainings that the probes may cost together
_USUAL = 7.0  # decades
_MARGIN = 0.4  # decades from the ends of the range to the first and last probe
_RUNG = 1.5  # ratio of steps from one rung to the next
_ADVANCE = 1.6  # ratio of steps by which a rate catches up before it is judged again
_FIRST = 0.15  # share of a rung that a new rate is trained at first
_CANDIDATES = ((0.2, 3), (0.4, 2), (math.inf, 1))  # rates on a rung, up to a share of the horizon
_AT_THE_END = 2  # ... and once one has got there
_BESIDE = (0.1, 4)  # ... where as many train at once: up to this share, so many
_NEAREST = 0.2  # decades between candidates, at least
_WORTH = 0.06  # regret beyond noise that a full training must save, for each one spent
_SURE = (0.1, 0.9)  # quantiles of the samples' best rates, between which candidates lie
_CROWDED = 0.7  # of the distance between candidates, within which one stands for another
_BESIDE_HINT = (0.0, -0.4, 0.4, -0.8, 0.8)  # decades from a hint at which a search begins
_ROUNDING = 1e-6  # steps of the grid
_USUAL_COST = 2.5  # full trainings that a search takes, about
_MOST = 12.0  # full trainings after which the search ends with what it has


@dataclass(frozen=True)
class Plan:
    """Rates, in decades, that are to be trained to a step."""

    until: int
    rates: tuple[float, ...]


def grid_of(low: float, high: float) -> Array:
    """The rates that are considered, in decades: multiples of STEP, finer in a narrow range.

    ``low``, ``high``: the ends of the range, in decades.
    """
    if high - low >= 10 * STEP:
        first, last = math.ceil(low / STEP - _ROUNDING), math.floor(high / STEP + _ROUNDING)
        return np.round(np.arange(first, last + 1) * STEP, 6)
    return np.linspace(low, high, 11)


class Planner:
    """The decisions for one task. It remembers nothing but the model's cache."""

    def __init__(
        self,
        initial_loss: float,
        marks: Sequence[int],
        asked: tuple[float, float],
        allowed: tuple[float, float],
        seed: int,
        hint: float | None = None,
        budget: float | None = None,
    ) -> None:
        """``marks``: the steps at which losses are taken and trials may pause, the horizon last.

        ``asked``: decades over which the start is spread. ``allowed``: ... that may be tried.

        ``hint``: the best rate of a like task, in decades. ``budget``: full trainings that all may
        cost; None: as many as are worth it.
        """
        self._budget = budget
        self._marks, self._seed, self._hint = marks, seed, hint
        self.horizon = marks[-1]
        self.first = at_or_after(marks, _START * self.horizon)
        self.grid = grid_of(*allowed)
        self._asked = asked
        self._model = CurveModel(library(), initial_loss, marks, self.grid, hint)
        self._forecast: tuple[object, Forecast] | None = None

    # -- the start ----------------------------------------------------------------------------

    def probes(self, most: int) -> list[float]:
        """The rates to begin with, in decades, at most ``most``; the likeliest first."""
        low, high = self._asked
        width = high - low
        cost = _START_COST * min(1.0, self._budget or 1.0)
        count = min(_PROBES, max(_FEWEST, int(cost * self.horizon / self.first)))
        count = min(most, max(2, math.ceil(count * min(1.0, (width + 1) / (_USUAL + 1)))))
        # Few must not lie at the ends, where hardly any answer is.
        margin = min(_MARGIN, width / 8) if count > _FEWEST else width / (2 * count)
        spread = np.linspace(low + margin, high - margin, count)
        if self._hint is not None:
            near = self._hint + np.array(_BESIDE_HINT)
            spread = np.concatenate([near, spread[:: max(1, count // 3)]])[:count]
        found = dict.fromkeys(self.nearest(x) for x in spread)
        return list(found)[:most]

    def nearest(self, decades: float) -> float:
        """The rate of the grid that is nearest."""
        return float(self.grid[int(np.argmin(np.abs(self.grid - decades)))])

    # -- later --------------------------------------------------------------------------------

    def forecast(self, curves: Mapping[float, LossCurve]) -> Forecast:
        """What to expect at the horizon. The same curves give the same samples."""
        key = tuple(sorted((x, curve.steps, curve.diverged) for x, curve in curves.items()))
        if self._forecast is None or self._forecast[0] != key:
            spent = sum(curve.steps for curve in curves.values())
            self._model.observe(curves)
            forecast = self._model.forecast(np.random.default_rng((self._seed, spent)))
            self._forecast = (key, forecast)
        return self._forecast[1]

    def plan(
        self,
        curves: Mapping[float, LossCurve],
        busy: Collection[float],
        closed: Collection[float] = (),
        *,
        lanes: int = 1,
        capacity: int = 1,
        new: int = 1000,
    ) -> Plan | None:
        """What one job shall train within the budget; None: nothing at present.

        The arguments are those of ``wanted``.
        """
        plan = self.wanted(curves, busy, closed, lanes=lanes, capacity=capacity, new=new)
        if plan is None or self._budget is None:
            return plan
        left = self._budget * self.horizon - sum(curve.steps for curve in curves.values())
        # Fewer steps for all of them before fewer of them; one alone is what ``lanes=1`` asks for.
        for count in range(len(plan.rates), 0, -1):
            for mark in reversed([mark for mark in self._marks if mark <= plan.until]):
                going = tuple(x for x in plan.rates[:count] if _steps(curves, x) < mark)
                if going and sum(mark - _steps(curves, x) for x in going) <= left:
                    return Plan(mark, going)
        return None

    def wanted(
        self,
        curves: Mapping[float, LossCurve],
        busy: Collection[float],
        closed: Collection[float] = (),
        *,
        lanes: int = 1,
        capacity: int = 1,
        new: int = 1000,
    ) -> Plan | None:
        """What one job shall train, whatever it costs; None: nothing at present.

        ``busy``: rates that are in training. ``closed``: ... that cannot be trained on. ``lanes``:
        trainings in the job. ``capacity``: trainings that can go on at once, everywhere. ``new``:
        rates that may still be begun.
        """
        forecast = self.forecast(curves)
        if self._budget is not None:
            capacity = 1  # what is trained beside costs no time, but it costs
        rung = max((c.steps for c in curves.values() if not c.diverged), default=self.first)
        while True:
            count = self._count(curves, rung, capacity)
            wanted = self._candidates(forecast, curves, closed, count, new)
            behind = [x for x in wanted if _steps(curves, x) < rung]
            free = [x for x in behind if x not in busy]
            if free:
                return self._advance(free, curves, rung, lanes)
            if behind or any(x in busy for x in wanted):
                return None  # what is in training tells more
            if rung >= self.horizon:
                return self._anything(forecast, curves, {*busy, *closed}, new)
            rung = max(after(self._marks, rung), at_or_after(self._marks, _RUNG * rung - 0.5))

    def _count(self, curves: Mapping[float, LossCurve], rung: int, capacity: int) -> int:
        """How many rates compete on a rung. What can be trained beside costs little time."""
        ended = any(self._ended(curve) for curve in curves.values())
        share = rung / self.horizon
        alone = next(count for until, count in _CANDIDATES if ended or share < until)
        if ended:
            alone = _AT_THE_END
        until, most = _BESIDE
        return max(alone, min(capacity, most)) if share < until else alone

    def _ended(self, curve: LossCurve) -> bool:
        return not curve.diverged and curve.steps >= self.horizon

    def _candidates(
        self,
        forecast: Forecast,
        curves: Mapping[float, LossCurve],
        closed: Collection[float],
        count: int,
        new: int,
    ) -> list[float]:
        """Rates that may be the best one: the expected best, then quantiles of the samples' best.

        A rate that is in training or frozen nearby stands for one that is not.
        """
        winners = forecast.winners()
        if len(winners) == 0:  # all seems lost: halve what is colder than all that was tried
            x = self.nearest((self.grid[0] + min(curves, default=self.grid[-1])) / 2)
            return [x] if new > 0 and x not in curves and x not in closed else []
        low, high = np.quantile(winners, _SURE)
        apart = max(min(_NEAREST, 2 * self._step), (high - low) / (count + 1))
        quantiles = np.quantile(winners, (np.arange(count) + 0.5) / count)
        places = [forecast.best, *map(float, quantiles)]
        chosen: list[float] = []
        for place in places:
            if any(abs(place - x) < _CROWDED * apart for x in chosen):
                continue
            near = [x for x in curves if abs(x - place) <= apart / 2 + 1e-9]
            near = [x for x in near if not curves[x].diverged and x not in closed]
            if near:
                x = max((curves[one].steps, -abs(one - place), one) for one in near)[2]
            elif new > 0:
                x = self.nearest(place)
            else:
                continue
            lost = x in closed or (x in curves and curves[x].diverged)
            if not lost and all(abs(x - other) >= apart / 2 for other in chosen):
                chosen.append(x)
                new -= x not in curves
        return chosen[:count]

    @property
    def _step(self) -> float:
        return float(self.grid[1] - self.grid[0]) if len(self.grid) > 1 else STEP

    def _advance(
        self, free: list[float], curves: Mapping[float, LossCurve], rung: int, lanes: int
    ) -> Plan:
        """Those that are furthest behind, one step up: they are judged again before the next."""

        def following(x: float) -> int:
            done = _steps(curves, x)
            step = max(after(self._marks, done), int(done * _ADVANCE), int(_FIRST * rung))
            return min(rung, at_or_after(self._marks, max(step, self.first)))

        until = min(following(x) for x in free)
        together = sorted(
            (x for x in free if _steps(curves, x) < until), key=lambda x: _steps(curves, x)
        )
        return Plan(until, tuple(together[:lanes]))

    def _anything(
        self,
        forecast: Forecast,
        curves: Mapping[float, LossCurve],
        taken: Collection[float],
        new: int,
    ) -> Plan | None:
        """All candidates have been trained to the end, and it is not enough: the next best rate."""

        coldest = min((x for x, curve in curves.items() if curve.diverged), default=math.inf)

        def is_open(x: float) -> bool:
            if x in curves:
                return not curves[x].diverged and not self._ended(curves[x])
            return new > 0 and x < coldest  # hotter ones are hotter still

        left = [x for x in map(float, self.grid) if x not in taken and is_open(x)]
        if not left:
            return None
        return self._advance([min(left, key=forecast.regret_at)], curves, self.horizon, 1)

    # -- the end ------------------------------------------------------------------------------

    def outlook(self, curves: Mapping[float, LossCurve]) -> tuple[float, float]:
        """Steps spent, and those expected in all.

        Until a rate has come to its end, as many as searches usually take. Then as many as would
        settle it, if the expected regret stayed what it is.
        """
        spent = float(sum(curve.steps for curve in curves.values()))
        ended = [x for x, curve in curves.items() if self._ended(curve)]
        usual = _USUAL_COST * self.horizon
        if not ended:
            return spent, max(usual, spent + self.horizon)
        best = min(ended, key=lambda x: curves[x].lowest)
        needed = self.forecast(curves).excess_at(best) / _WORTH * self.horizon
        return spent, min(max(needed, spent), _MOST * self.horizon)

    def settled(self, curves: Mapping[float, LossCurve]) -> bool:
        """Whether the best rate that was trained to the end is good enough to stop at."""
        ended = [x for x, curve in curves.items() if self._ended(curve)]
        if not ended:
            return False
        spent = sum(curve.steps for curve in curves.values()) / self.horizon
        best = min(ended, key=lambda x: curves[x].lowest)
        if spent >= _MOST or not any(c.lowest < c.losses[0] for c in curves.values()):
            return True  # long enough; or nothing is learned at any rate
        return self.forecast(curves).excess_at(best) <= _WORTH * spent


def _steps(curves: Mapping[float, LossCurve], x: float) -> int:
    return curves[x].steps if x in curves else 0
