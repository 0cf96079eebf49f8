"""Learning-rate schedules, as a factor of the rate over the progress of a training."""

from __future__ import annotations

import math
from collections.abc import Callable

from justright.errors import TaskError

_ONECYCLE_RISE = 0.3  # the share of onecycle that rises
_ONECYCLE_START = 0.04  # its first factor: 1/25, as in torch.optim.lr_scheduler.OneCycleLR
_STEP_AT = 0.5, 0.75  # the progress at which "step" falls ...
_STEP_TO = 0.1, 0.01  # ... to these factors


def _onecycle(progress: float) -> float:
    """Cosine up, then cosine down (Smith & Topin 2018, with cosine legs as in torch)."""
    if progress < _ONECYCLE_RISE:
        rise = 0.5 * (1 - math.cos(math.pi * progress / _ONECYCLE_RISE))
        return _ONECYCLE_START + (1 - _ONECYCLE_START) * rise
    return 0.5 * (1 + math.cos(math.pi * (progress - _ONECYCLE_RISE) / (1 - _ONECYCLE_RISE)))


def _step(progress: float) -> float:
    """Constant, and twice a fall at once."""
    if progress < _STEP_AT[0]:
        return 1.0
    return _STEP_TO[0] if progress < _STEP_AT[1] else _STEP_TO[1]


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "step": _step,
    "onecycle": _onecycle,
}


def schedule(name: str, warmup: float = 0.0) -> Callable[[float], float]:
    """The schedule of that name: progress in [0, 1) to a factor.

    ``warmup``: the share of the training in which the factor rises linearly from 0 (Goyal et al.
    2017); the schedule fills the rest. "onecycle" has a warm-up of its own, and no other.

    Raises:
        TaskError: there is none.
    """
    if name not in SCHEDULES:
        raise TaskError(f"schedule = {name!r}, expected one of {', '.join(SCHEDULES)} or search.")
    after = SCHEDULES[name]
    if not warmup or name == "onecycle":
        return after

    def factor(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        return after((progress - warmup) / (1 - warmup))

    return factor
