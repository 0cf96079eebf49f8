"""All state of one trial's training: what a checkpoint holds, and what lanes share out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from justright.messages import TrialWork
from worker.lanes.loss_scale import LossScale
from worker.lanes.own_state import own_state, restore, to_save

LOOKING_RATE = 1e-8  # so small that a model is as good as untrained after some steps


def for_a_look(seed: int, number: int = 0) -> TrialWork:
    """A trial that only serves to try or to time a task."""
    return TrialWork(number=number, lr=LOOKING_RATE, seed=seed, attempt=1)


@dataclass
class TrialTraining:
    """All state of one trial's training: with these fields it can be continued anywhere."""

    work: TrialWork
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    base_rates: list[float]  #: The rate of each parameter group before the schedule's factor.
    factor: Callable[[float], float]  #: The schedule.
    batch_size: int
    scale: LossScale | None = None  #: For fp16.
    own: tuple[str, ...] = ()  #: State of the model beside its ``state_dict``, by name.
    lowest: float = math.inf  #: The lowest loss so far.
    mark: int = 0  #: The last step of the study at which its loss was taken.
    step: int = 0  #: Its own optimizer steps so far: others where its batches are of another size.
    epoch: int = 0  #: Whole passes over the training data.
    batch: int = 0  #: Batches of the next one that are done.
    random: dict[str, Any] = field(default_factory=dict)  #: Where randomness stands after them.
    total: torch.Tensor | None = None  #: Sum of the training losses since the last mark.
    seen: int = 0  #: Samples since then.
    seconds: float = 0.0  #: Time spent since then.

    def rates(self, progress: float) -> list[float]:
        """The rate of each parameter group after that share of the training."""
        factor = self.factor(progress)
        return [rate * factor for rate in self.base_rates]

    def state(self) -> dict[str, Any]:
        """All of it as tensors and plain values. Not while a batch is under way."""
        return {
            "lr": self.work.lr,
            "seed": self.work.seed,
            "model": _alone(self.model.state_dict()),
            "optimizer": _alone(self.optimizer.state_dict()),
            "kind": type(self.optimizer).__name__,
            "scale": [self.scale.factor, self.scale.good] if self.scale else None,
            "mark": self.mark,
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "total": _alone(self.total),
            "seen": self.seen,
            "seconds": self.seconds,
            "random": self.random,
            "own": to_save(own_state(self.model), self.own) if self.own else {},
            "lowest": self.lowest,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state; this object must be new.

        Raises:
            ValueError: it is that of another trial.
            Exception: whatever torch raises for weights that do not fit.
        """
        if (state["lr"], state["seed"]) != (self.work.lr, self.work.seed):
            raise ValueError(f"it is of another trial: lr {state['lr']:g}, seed {state['seed']}")
        self.model.load_state_dict(state["model"])
        if state["kind"] != type(self.optimizer).__name__:  # torch takes it, and fails in a step
            raise ValueError(f"it is of another optimizer: {state['kind']}")
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scale") is not None:
            self.scale = LossScale(*state["scale"])
        total = state["total"]
        device = next(self.model.parameters()).device
        self.total = total.to(device) if total is not None else None
        self.epoch, self.batch, self.seen = state["epoch"], state["batch"], state["seen"]
        # The first edition counted epochs; what they are in steps is for the caller to say.
        self.mark, self.step = state.get("mark", -1), state.get("step", -1)
        self.seconds, self.random = state["seconds"], state["random"]
        restore(self.model, state.get("own", {}))
        self.lowest = state.get("lowest", math.inf)


def _alone(value: Any, known: dict[Any, torch.Tensor] | None = None) -> Any:
    """The same without what lies around it: a row of a stack would be saved with all lanes.

    ``known``: what has been copied already, since weights may be shared.
    """
    known = {} if known is None else known
    if isinstance(value, torch.Tensor):
        if value.untyped_storage().nbytes() == value.numel() * value.element_size():
            return value
        place = (value.data_ptr(), value.shape, value.stride())
        if place not in known:
            known[place] = value.clone()
        return known[place]
    if isinstance(value, dict):
        found = type(value)((key, _alone(item, known)) for key, item in value.items())
        if hasattr(value, "_metadata"):  # the versions of a model's modules
            setattr(found, "_metadata", value._metadata)  # noqa: B010
        return found
    if isinstance(value, list):
        return [_alone(item, known) for item in value]
    return value
