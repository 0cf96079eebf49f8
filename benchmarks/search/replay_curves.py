"""Real learning curves, and what a rate is worth on them.

Trainings of a file (``curve_files.py``) that differ in nothing but rate and seed make one task. Its
rates are those of its main seed, the most common one; other seeds repeat some of the rates, and
where they do a rate is worth what its seeds are on average.
"""

from __future__ import annotations

import bisect
import math
import statistics
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.search.curve_files import Curve, Training, read_trainings

_FEWEST = 4  # rates with a whole curve, below which a task tells nothing


def quality(curve: Curve) -> float:
    """The lowest loss of a curve; inf if it diverged anywhere."""
    return math.inf if math.inf in curve else min(curve)


class CurveTask:
    """The curves of one task, for any rate."""

    def __init__(self, name: str, trainings: Sequence[Training]) -> None:
        """``trainings`` are all of one task."""
        self.name = name
        self.horizon = len(trainings[0].curve) - 1
        self.by_steps = trainings[0].by_steps  #: Else each point of a curve is an epoch.
        seeds = Counter(training.seed for training in trainings)
        self._seed = min(seeds, key=lambda seed: (-seeds[seed], seed))
        main = {t.lr: t.curve for t in trainings if t.seed == self._seed}
        self.rates = sorted(main)
        self._logs = [math.log(rate) for rate in self.rates]
        self._curves = [main[rate] for rate in self.rates]
        others = [t for t in trainings if t.seed != self._seed]
        self._others = {(t.lr, t.seed): t.curve for t in others}
        qualities = [self._mean_quality(i) for i in range(len(self.rates))]
        self._means = qualities
        whole = [value for value in qualities if math.isfinite(value)]
        self.best = min(whole, default=math.inf)
        median = statistics.median(qualities)
        # Where half of the rates diverge the median is inf, and every regret would be 0.
        self.median = median if math.isfinite(median) else max(whole, default=math.inf)
        self.usable = len(whole) >= _FEWEST and self.median > self.best

    @property
    def lr_range(self) -> tuple[float, float]:
        return self.rates[0], self.rates[-1]

    @property
    def initial_loss(self) -> float | None:
        """Before training: the same for every rate."""
        first = self._curves[0][0]
        return first if math.isfinite(first) else None

    def curve(self, lr: float, other: int = 0) -> Curve:
        """The curve of a rate.

        Between two rates of the file it is linear in log rate, where both are whole; else, and
        outside of them, it is the nearer one's. ``other`` counts seeds from the main one on: its
        curve at the nearest rate, where the file has it.
        """
        place = math.log(lr)
        above = bisect.bisect_left(self._logs, place)
        if above in (0, len(self._logs)):
            nearest = min(above, len(self._logs) - 1)
            return self._others.get(self._replicate(nearest, other), self._curves[nearest])
        below = above - 1
        share = (place - self._logs[below]) / (self._logs[above] - self._logs[below])
        nearest = above if share > 0.5 else below
        replicate = self._others.get(self._replicate(nearest, other))
        if replicate is not None:
            return replicate
        cold, hot = self._curves[below], self._curves[above]
        if math.inf in cold or math.inf in hot:
            return self._curves[nearest]
        return tuple((1 - share) * a + share * b for a, b in zip(cold, hot, strict=True))

    def _mean_quality(self, index: int) -> float:
        """Of a rate of the file, over its seeds; inf if any of them diverged."""
        again = self.other_seeds(self.rates[index])
        return statistics.fmean(map(quality, [self._curves[index], *again]))

    def worth(self, lr: float) -> float:
        """The mean quality of a rate: its curve's own, moved by as much as the mean over seeds lies
        above the main seed at the rates beside it."""
        place = math.log(lr)
        above = min(max(bisect.bisect_left(self._logs, place), 1), len(self._logs) - 1)
        below = max(0, above - 1)
        width = self._logs[above] - self._logs[below] or 1.0
        share = min(1.0, max(0.0, (place - self._logs[below]) / width))
        mains = [quality(self._curves[i]) for i in (below, above)]
        means = [self._means[i] for i in (below, above)]
        if math.inf in means:
            return means[0] if share <= 0.5 else means[1]
        off = [mean - main for mean, main in zip(means, mains, strict=True)]
        return quality(self.curve(lr)) + (1 - share) * off[0] + share * off[1]

    def _replicate(self, index: int, other: int) -> tuple[float, int]:
        return self.rates[index], self._seed + other

    @property
    def repeated(self) -> float | None:
        """The rate that was trained with the most other seeds."""
        seeds = Counter(rate for rate, _ in self._others)
        return max(seeds, key=lambda rate: seeds[rate], default=None)

    def other_seeds(self, lr: float) -> list[Curve]:
        """The trainings of a rate of the file with other seeds than the main one."""
        return [curve for (rate, _), curve in self._others.items() if rate == lr]

    def regret(self, lr: float | None) -> float:
        """What is lost by this rate: 0 for the best of the file, 1 for its median and worse; by its
        mean, where the file has several seeds of it.

        The scale is the median over the rates, a diverged one being worse than all others. If
        more than half of them diverged it is the worst of those that did not.
        """
        worth = math.inf if lr is None else self.worth(lr)
        if not math.isfinite(worth):
            return 1.0
        return min(1.0, (worth - self.best) / (self.median - self.best))

    @property
    def study(self) -> str:
        """A name for a study of it. Optuna's Hyperband draws brackets by it: it must stay."""
        return f"replay-{zlib.crc32(self.name.encode()):08x}"


def read_tasks(path: Path) -> list[CurveTask]:
    """All tasks of a file, in its order; whether one is usable is for the caller to ask.

    Raises:
        CurvesError: it cannot be read, or is no list of trainings.
    """
    return tasks_of(read_trainings(path))


def tasks_of(trainings: Sequence[Training]) -> list[CurveTask]:
    """Trainings, gathered by task."""
    found: Mapping[str, list[Training]] = defaultdict(list)
    for training in trainings:
        found[training.task].append(training)
    return [CurveTask(name, of) for name, of in found.items()]
