"""Real learning curves, and what a rate is worth on them.

A file is a gzipped JSON list of trainings, as ``make_curves`` writes it. Trainings that differ in
nothing but rate and seed make one task. Its rates are those of its main seed, the most common one;
other seeds repeat some of the rates.
"""

from __future__ import annotations

import bisect
import gzip
import math
import statistics
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

_FEWEST = 4  # rates with a whole curve, below which a task tells nothing

Curve = tuple[float, ...]  #: Losses from before training on to the horizon; inf where not finite.


class CurvesError(Exception):
    """A file of curves that cannot be used; says why."""


class Training(BaseModel):
    """One entry of a file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    problem: str
    optimizer: str
    schedule: str = "constant"
    batch_size: int
    num_epochs: int = Field(ge=1)
    lr: float = Field(gt=0, allow_inf_nan=False)
    seed: int
    loss: tuple[float | None, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _not_too_long(self) -> Training:
        if len(self.loss) > self.num_epochs + 1:
            raise ValueError(f"{len(self.loss)} losses, expected at most num_epochs + 1")
        return self

    @property
    def task(self) -> str:
        return (
            f"{self.problem}/{self.optimizer}/{self.schedule}/b{self.batch_size}/e{self.num_epochs}"
        )

    @property
    def curve(self) -> Curve:
        """All epochs; those that a diverged training has not reached are inf."""
        finite = [x is not None and math.isfinite(x) for x in self.loss]
        losses = [
            float(x or 0.0) if ok else math.inf for x, ok in zip(self.loss, finite, strict=True)
        ]
        return tuple(losses + [math.inf] * (self.num_epochs + 1 - len(losses)))


def quality(curve: Curve) -> float:
    """The lowest loss of a curve; inf if it diverged anywhere."""
    return math.inf if math.inf in curve else min(curve)


class CurveTask:
    """The curves of one task, for any rate."""

    def __init__(self, name: str, trainings: Sequence[Training]) -> None:
        """``trainings`` are all of one task."""
        self.name = name
        self.horizon = trainings[0].num_epochs
        seeds = Counter(training.seed for training in trainings)
        self._seed = min(seeds, key=lambda seed: (-seeds[seed], seed))
        main = {t.lr: t.curve for t in trainings if t.seed == self._seed}
        self.rates = sorted(main)
        self._logs = [math.log(rate) for rate in self.rates]
        self._curves = [main[rate] for rate in self.rates]
        others = [t for t in trainings if t.seed != self._seed]
        self._others = {(t.lr, t.seed): t.curve for t in others}
        qualities = [quality(curve) for curve in self._curves]
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
        """What is lost by this rate: 0 for the best of the file, 1 for its median and worse.

        The scale is the median over the rates, a diverged one being worse than all others. If
        more than half of them diverged it is the worst of those that did not.
        """
        worth = math.inf if lr is None else quality(self.curve(lr))
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
    try:
        content = gzip.decompress(path.read_bytes())
    except OSError as error:  # gzip's own among them
        raise CurvesError(f"cannot read {path}: {error.strerror or error}") from None
    except (EOFError, zlib.error) as error:
        raise CurvesError(f"cannot read {path}: {error}") from None
    try:
        trainings = _ENTRIES.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CurvesError(
            f"{path} is no list of trainings: {where}: {first['msg']}. "
            "Expected what benchmarks.search.make_curves writes."
        ) from None
    return tasks_of(trainings)


_ENTRIES = TypeAdapter(list[Training])


def tasks_of(trainings: Sequence[Training]) -> list[CurveTask]:
    """Trainings, gathered by task."""
    found: Mapping[str, list[Training]] = defaultdict(list)
    for training in trainings:
        found[training.task].append(training)
    return [CurveTask(name, of) for name, of in found.items()]
