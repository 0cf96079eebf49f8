"""How long a full training is, in optimizer steps, and on what its losses are taken."""

from __future__ import annotations

import math
from dataclasses import dataclass

from justright.errors import TaskError
from justright.marks import marks
from justright.task import Task
from worker.training.data import Batches, size_of

_EVALUATION = 0.1  # of the training's time that looks on the way may cost ...
_FORWARD = 3  # ... where a sample costs a third of what it costs to train on
_FEWEST = 32  # samples that a look takes: fewer tell nothing

_BOTH = (
    "{name} sets both epochs = {epochs} and steps = {steps}, which cannot both be the length of a "
    "training. Leave one of them out."
)
_NO_LENGTH = (
    "train_data() returned data without a length, so that nobody knows how long an epoch is. Set "
    "steps = N in the task (or --steps N): the batches that a full training takes."
)


@dataclass(frozen=True)
class Horizon:
    """The length of a full training."""

    steps: int  #: Batches of the task's own size.
    epochs: int | None  #: As the user counts it; None: in steps.
    epoch: int | None  #: ... in one pass over the training data; None: nobody knows.
    lap: int | None  #: ... between two evaluations on all held-out data, within the training.

    @property
    def marks(self) -> tuple[int, ...]:
        """The steps at which losses are taken."""
        return marks(self.steps, self.lap)

    def whole(self, step: int) -> bool:
        """Whether the loss after a step is taken on all held-out data."""
        return step >= self.steps or (self.lap is not None and step % self.lap == 0)

    def own(self, step: int, length: int) -> int:
        """What a step is in a training of another length, in batches of another size."""
        return (
            step if length == self.steps else min(length, max(1, round(step * length / self.steps)))
        )

    def when(self, step: int) -> str:
        """A step in words."""
        return f"at step {step}" if self.epoch is None else f"in epoch {-(-step // self.epoch)}"


def horizon_of(task: Task, data: Batches, epochs: int | None, steps: int | None) -> Horizon:
    """The horizon that was asked for, else the task's own.

    ``epochs``, ``steps``: as typed; None: not given.

    Raises:
        TaskError: the task asks for none, or for two.
    """
    if epochs is None and steps is None:
        epochs, steps = _asked(task)
    for name, value in (("epochs", epochs), ("steps", steps)):
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if value is not None and not whole:
            raise TaskError(f"{name} = {value!r}, expected a positive whole number.")
    epoch = length(data)
    if steps is None:
        assert epochs is not None
        if epoch is None:
            raise TaskError(_NO_LENGTH)
        steps = epochs * epoch
    every = task.evaluate_every
    if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        raise TaskError(f"evaluate_every = {every!r}, expected a positive whole number of steps.")
    lap = every or epoch
    return Horizon(steps, epochs, epoch, lap if lap is not None and lap < steps else None)


def _asked(task: Task) -> tuple[int | None, int | None]:
    """The task's own epochs or steps: what was set last, by an argument or the nearest class.

    Raises:
        TaskError: both were set at once.
    """
    epochs, steps = task.epochs, task.steps
    for owner in (vars(task), *(vars(kind) for kind in type(task).__mro__ if kind is not Task)):
        if owner.get("epochs") is not None and owner.get("steps") is not None:
            raise TaskError(_BOTH.format(name=type(task).__name__, epochs=epochs, steps=steps))
        if owner.get("steps") is not None and steps is not None:
            return None, steps
        if owner.get("epochs") is not None:
            return epochs, None
    return (epochs, None) if steps is None else (None, steps)


def length(data: Batches) -> int | None:
    """Batches of a pass; None: nobody knows."""
    try:
        return len(data)
    except TypeError:
        return None


def looking_samples(horizon: Horizon, batch_size: int, held_out: Batches) -> int | None:
    """Samples of held-out data that a look on the way takes; None: all of them.

    So few that all looks of a full training cost about a tenth of it.
    """
    looks = sum(not horizon.whole(mark) for mark in horizon.marks)
    if not looks:
        return None
    most = _EVALUATION * _FORWARD * horizon.steps * batch_size / looks
    count = max(_FEWEST, math.ceil(most))
    there = size_of(held_out)
    return None if there is not None and count >= there else count
