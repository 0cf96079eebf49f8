"""What is the matter with a trial, in the words that people use.

All is measured against the trial's own progress, the untrained loss minus its lowest, and against
the leader, the best trial so far, at equal epochs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

_BEHIND = (
    0.9  # of the leader's progress at equal epochs, below which a colder rate learns too little
)
_RISEN = 0.1  # of its own progress, by which validation has risen above its lowest
_JUMP = 0.3  # of its own progress, by which the loss jumps up within one epoch
_STUCK = 0.02  # of the leader's progress, below which nothing has been learned


@dataclass(frozen=True)
class Course:
    """A trial's losses by epoch."""

    lr: float
    losses: Mapping[int, float]
    train: Mapping[int, float] = field(default_factory=dict)
    diverged: bool = False


def diagnose(trial: Course, initial: float | None, leader: Course | None) -> str:
    """ "diverged" (too hot), "unstable", "overfit", "underfit" (too cold), "healthy"; "" where too
    little is known. ``initial`` is the untrained loss."""
    if trial.diverged:
        return "diverged"
    if initial is None or leader is None or not trial.losses:
        return ""
    last = max(trial.losses)
    gained = initial - min(trial.losses.values())
    ahead = _until(leader, last, initial)
    if gained <= _STUCK * ahead:
        return "unstable" if trial.lr > leader.lr else "underfit"
    if _jump(trial, initial) > _JUMP * gained:
        return "unstable"
    if _overfits(trial, gained):
        return "overfit"
    falling = trial.losses[last] <= min(trial.losses.values())
    if trial.lr < leader.lr and falling and gained < _BEHIND * ahead:
        return "underfit"
    return "healthy"


def _until(leader: Course, step: int, initial: float) -> float:
    """The leader's progress by a step."""
    seen = [loss for at, loss in leader.losses.items() if at <= step]
    return max(initial - min(seen, default=initial), 0.0)


def _jump(trial: Course, initial: float) -> float:
    """The largest rise from one epoch to the next, from the untrained loss on."""
    values = [initial, *(trial.losses[step] for step in sorted(trial.losses))]
    return max((after - before for before, after in pairwise(values)), default=0)


def _overfits(trial: Course, gained: float) -> bool:
    """Whether validation has risen for good while training went on falling."""
    steps = sorted(trial.losses)
    lowest = min(steps, key=lambda step: trial.losses[step])
    later = [step for step in steps if step > lowest]
    if len(later) < 2 or any(trial.losses[s] - trial.losses[lowest] <= 0 for s in later[-2:]):
        return False
    risen = trial.losses[steps[-1]] - trial.losses[lowest] > _RISEN * gained
    if lowest not in trial.train or steps[-1] not in trial.train:
        return False
    return risen and trial.train[steps[-1]] < trial.train[lowest]
