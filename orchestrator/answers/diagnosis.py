"""What is the matter with a trial, in the words that people use.

All is measured against the trial's own progress, the untrained loss minus its lowest, and against
the leader, the best trial so far, at equal epochs.
"""

from __future__ import annotations

from itertools import pairwise

from orchestrator.search.loss_curve import LossCurve

_BEHIND = (
    0.9  # of the leader's progress at equal epochs, below which a colder rate learns too little
)
_RISEN = 0.1  # of its own progress, by which validation has risen above its lowest
_JUMP = 0.3  # of its own progress, by which the loss jumps up within one epoch
_STUCK = 0.02  # of the leader's progress, below which nothing has been learned


def diagnose(trial: LossCurve, leader: LossCurve | None) -> str:
    """ "diverged" (too hot), "unstable", "overfit", "underfit" (too cold), "healthy"; "" where too
    little is known."""
    if trial.diverged:
        return "diverged"
    initial = trial.initial
    if initial is None or leader is None or not trial.by_step:
        return ""
    last = max(trial.by_step)
    gained = initial - min(trial.by_step.values())
    ahead = _until(leader, last, initial)
    if gained <= _STUCK * ahead:
        return "unstable" if trial.lr > leader.lr else "underfit"
    if _jump(trial, initial) > _JUMP * gained:
        return "unstable"
    if _overfits(trial, gained):
        return "overfit"
    falling = trial.by_step[last] <= min(trial.by_step.values())
    if trial.lr < leader.lr and falling and gained < _BEHIND * ahead:
        return "underfit"
    return "healthy"


def _until(leader: LossCurve, step: int, initial: float) -> float:
    """The leader's progress by a step."""
    seen = [loss for at, loss in leader.by_step.items() if at <= step]
    return max(initial - min(seen, default=initial), 0.0)


def _jump(trial: LossCurve, initial: float) -> float:
    """The largest rise from one epoch to the next, from the untrained loss on."""
    values = [initial, *(trial.by_step[step] for step in sorted(trial.by_step))]
    return max((after - before for before, after in pairwise(values)), default=0)


def _overfits(trial: LossCurve, gained: float) -> bool:
    """Whether validation has risen for good while training went on falling."""
    steps = sorted(trial.by_step)
    lowest = min(steps, key=lambda step: trial.by_step[step])
    later = [step for step in steps if step > lowest]
    if len(later) < 2 or any(trial.by_step[s] - trial.by_step[lowest] <= 0 for s in later[-2:]):
        return False
    risen = trial.by_step[steps[-1]] - trial.by_step[lowest] > _RISEN * gained
    if lowest not in trial.train or steps[-1] not in trial.train:
        return False
    return risen and trial.train[steps[-1]] < trial.train[lowest]
