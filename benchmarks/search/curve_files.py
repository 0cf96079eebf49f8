"""Files of real learning curves: gzipped JSON lists of trainings, in one of two forms.

*By epochs*: ``num_epochs`` is the horizon, and ``loss`` has one entry before training and one after
each epoch, as ``make_curves`` writes it. *By steps*: ``num_steps`` is the horizon, and ``loss[i]``
was measured at ``steps[i]``, in any order. A cooldown that branched off a constant run may begin
where it branched; what was before is read from that run. ``final``, where all trainings have it, is
what a training is worth: curves are moved to end there.
"""

from __future__ import annotations

import gzip
import math
import statistics
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

Curve = tuple[float, ...]  #: Losses from before training on to the horizon; inf where not finite.

_POINTS = 512  # of a curve by steps, at most: more are not told apart
_Loss = float | None


class CurvesError(Exception):
    """A file of curves that cannot be used; says why."""


class _Entry(BaseModel):
    """One entry of a file, in either form."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    problem: str
    optimizer: str
    schedule: str = "constant"
    warmup: float = 0  #: In whatever unit: it tells tasks apart.
    batch_size: int
    lr: float = Field(gt=0, allow_inf_nan=False)
    seed: int = 0
    loss: tuple[_Loss, ...] = Field(min_length=1)
    num_epochs: int | None = Field(default=None, ge=1)
    num_steps: int | None = Field(default=None, ge=1)
    steps: tuple[int, ...] = ()
    final: _Loss = None

    @model_validator(mode="after")
    def _one_form(self) -> _Entry:
        if self.num_steps is not None:
            if len(self.steps) != len(self.loss):
                raise ValueError(f"{len(self.steps)} steps, expected {len(self.loss)} as of loss")
            if min(self.steps) < 0 or max(self.steps) > self.num_steps:
                raise ValueError("steps below 0 or above num_steps")
        elif self.num_epochs is None:
            raise ValueError("neither num_epochs nor num_steps")
        elif len(self.loss) > self.num_epochs + 1:
            raise ValueError(f"{len(self.loss)} losses, expected at most num_epochs + 1")
        return self

    @property
    def task(self) -> str:
        end = f"s{self.num_steps}" if self.num_steps is not None else f"e{self.num_epochs}"
        warm = f"/w{self.warmup:g}" if self.warmup else ""
        return f"{self.problem}/{self.optimizer}/{self.schedule}{warm}/b{self.batch_size}/{end}"

    @property
    def run(self) -> tuple[Any, ...]:
        """What a cooldown shares with the constant run that it branched off."""
        return self.problem, self.optimizer, self.warmup, self.batch_size, self.lr, self.seed

    def measured(self) -> dict[int, float]:
        """Losses by step, as far as the file has them; inf where not finite."""
        return {
            step: _finite(loss) for step, loss in sorted(zip(self.steps, self.loss, strict=True))
        }


class Training(BaseModel):
    """One training: its rate, and its curve at even shares of its horizon."""

    model_config = ConfigDict(frozen=True)

    task: str
    problem: str
    lr: float
    seed: int
    curve: Curve
    by_steps: bool = False  #: Of a file by steps: its points are no epochs.


def read_trainings(path: Path) -> list[Training]:
    """All trainings of a file, less those of which the file lacks the beginning.

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
        entries = _ENTRIES.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CurvesError(
            f"{path} is no list of trainings: {where}: {first['msg']}. "
            "Expected what benchmarks.search.make_curves writes."
        ) from None
    by_task: Mapping[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        by_task[entry.task].append(entry)
    constant = {e.run: e.measured() for e in entries if e.steps and e.schedule == "constant"}
    return [one for task in by_task.values() for one in _of_task(task, constant)]


_ENTRIES = TypeAdapter(list[_Entry])


def _of_task(
    entries: Sequence[_Entry], constant: Mapping[tuple[Any, ...], dict[int, float]]
) -> list[Training]:
    if entries[0].num_steps is None:
        return [_training(entry, _by_epochs(entry)) for entry in entries]
    whole = [(entry, _completed(entry, constant.get(entry.run, {}))) for entry in entries]
    whole = [(entry, known) for entry, known in whole if 0 in known]
    horizon = entries[0].num_steps
    if all(entry.final is not None for entry, _ in whole):
        whole = [(entry, known) for entry, known in _to_final(whole, horizon)]
    gaps = [gap for _, known in whole for gap in np.diff(list(known))]
    points = min(_POINTS, round(horizon / min(gaps))) if gaps else 1
    return [_training(entry, _even(known, horizon, max(1, points))) for entry, known in whole]


def _training(entry: _Entry, curve: Curve) -> Training:
    return Training(
        task=entry.task,
        problem=entry.problem,
        lr=entry.lr,
        seed=entry.seed,
        curve=curve,
        by_steps=entry.num_steps is not None,
    )


def _by_epochs(entry: _Entry) -> Curve:
    """All epochs; those that a diverged training has not reached are inf."""
    assert entry.num_epochs is not None
    losses = [_finite(loss) for loss in entry.loss]
    return tuple(losses + [math.inf] * (entry.num_epochs + 1 - len(losses)))


def _finite(loss: _Loss) -> float:
    return math.inf if loss is None or not math.isfinite(loss) else loss


def _completed(entry: _Entry, constant: Mapping[int, float]) -> dict[int, float]:
    """Its losses by step, with the beginning from the constant run that it branched off."""
    own = entry.measured()
    before = {step: loss for step, loss in constant.items() if step < min(own)}
    return before | own


def _to_final(
    whole: Sequence[tuple[_Entry, dict[int, float]]], horizon: int
) -> list[tuple[_Entry, dict[int, float]]]:
    """The same curves, moved so that each ends at its ``final``.

    One whose end is not in the file is moved by as much as the others.
    """

    def offset(entry: _Entry, known: dict[int, float]) -> float | None:
        last = max(known)
        near = last >= 0.98 * horizon and math.isfinite(known[last])
        return _finite(entry.final) - known[last] if near else None

    offsets = [offset(entry, known) for entry, known in whole]
    told = [off for off in offsets if off is not None and math.isfinite(off)]
    usual = statistics.median(told) if told else 0.0
    moved = []
    for (entry, known), off in zip(whole, offsets, strict=True):
        by = usual if off is None or not math.isfinite(off) else off
        losses = {step: loss + by if step else loss for step, loss in known.items()}
        moved.append((entry, losses | {horizon: _finite(entry.final)}))
    return moved


def _even(known: Mapping[int, float], horizon: int, points: int) -> Curve:
    """The curve at even shares of the horizon, linear over log step in between; once it was not
    finite, or where the file ends, it is inf."""
    steps = np.array([step for step in known if step > 0], dtype=float)
    losses = np.array([known[int(step)] for step in steps])
    dead = steps[~np.isfinite(losses)].min(initial=math.inf)
    kept = steps < dead
    steps, losses = steps[kept], losses[kept]
    last = steps.max(initial=0.0)
    if dead == math.inf and last >= horizon * (1 - 1 / points) - 1e-9:
        last = horizon  # the last one before the end stands for it
    wanted = horizon * np.arange(1, points + 1) / points
    found = np.interp(np.log(wanted), np.log(steps), losses) if len(steps) else wanted
    found = np.where(wanted <= last + 1e-9, found, math.inf)
    return (known[0], *map(float, found))
