"""A look at a task without a service: what ``doctor`` says of it."""

from __future__ import annotations

from justright.spec import TaskRef
from justright.task import Task
from worker.lanes.plan import plan_lanes
from worker.training.device import pick_device
from worker.training.trainer import TaskTrainer
from worker.user_code.loading import load


def look_at(target: str) -> str:
    """Load a task and try one batch of it; returns a description for people.

    Raises:
        JustrightError: it cannot be loaded or trained; the message says why.
    """
    found = load(TaskRef(target=target))
    if not isinstance(found, Task):
        return f"{target}: an objective; it is tried when its first trial runs"
    trainer = TaskTrainer(found, pick_device())
    details = trainer.inspect(seed=0)
    parts = ", ".join(f"{name} {value}" for name, value in details.items())
    loss = "not finite" if trainer.initial_loss is None else f"{trainer.initial_loss:.4g}"
    lanes = plan_lanes(trainer, seed=0).text
    counted = f"{trainer.steps} steps" if trainer.epochs is None else f"{trainer.epochs} epochs"
    return f"{target}: {counted}, {parts}, untrained loss {loss}; {lanes}"
