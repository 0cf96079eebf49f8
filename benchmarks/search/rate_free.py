"""What people use instead of a search: optimizers that need no rate, and the range test.

Each optimizer takes a task's place for its own, at the rate that its authors give it, and is
trained by the same loop; schedules stay, but for ScheduleFree, which replaces them. Needs the extra
``bench``.

Sources: Prodigy, Mishchenko and Defazio 2023; D-Adaptation, Defazio and Mishchenko 2023; MoMo,
Schaipp et al. 2023; ScheduleFree, Defazio et al. 2024; the range test, Smith 2015.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from dadaptation import DAdaptAdam
from momo import Momo, MomoAdam
from prodigyopt import Prodigy
from schedulefree import AdamWScheduleFree

import justright
from justright.messages import TrialWork
from worker.training.trainer import TaskTrainer

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100  # of the range test
_SMOOTHED = 0.98
_STOPS_AT = 4.0  # times the lowest loss
_LEFT_OUT = 5  # at the end, where the loss explodes


@dataclass(frozen=True)
class RateFree:
    """An optimizer, and the rate that its authors recommend."""

    lr: float
    make: Callable[[justright.Task, Any, float], torch.optim.Optimizer]
    schedules: bool = True  #: Whether it follows the task's schedule.


def _prodigy(task: justright.Task, parameters: Any, lr: float) -> torch.optim.Optimizer:
    found: torch.optim.Optimizer = Prodigy(parameters, lr=lr, weight_decay=_decay(task))
    return found


def _dadapt(task: justright.Task, parameters: Any, lr: float) -> torch.optim.Optimizer:
    found: torch.optim.Optimizer = DAdaptAdam(parameters, lr=lr, weight_decay=_decay(task))
    return found


def _momo(task: justright.Task, parameters: Any, lr: float) -> torch.optim.Optimizer:
    return _told(task, Momo(parameters, lr=lr, weight_decay=_decay(task)))


def _momo_adam(task: justright.Task, parameters: Any, lr: float) -> torch.optim.Optimizer:
    return _told(task, MomoAdam(parameters, lr=lr, weight_decay=_decay(task)))


def _decay(task: justright.Task) -> float:
    return task.weight_decay or 0.0


def _told(task: Any, optimizer: Any) -> torch.optim.Optimizer:
    """It wants the loss at each step: the last that the task computed."""
    step = optimizer.step
    optimizer.step = lambda closure=None: step(loss=task.last_loss)
    found: torch.optim.Optimizer = optimizer
    return found


def _schedule_free(task: Any, parameters: Any, lr: float) -> torch.optim.Optimizer:
    """It averages: evaluated at the average, trained beside it."""
    optimizer = AdamWScheduleFree(parameters, lr=lr, weight_decay=_decay(task))
    model, whole = task.last_model, task.last_model.train

    def train(mode: bool = True) -> Any:
        (optimizer.train if mode else optimizer.eval)()
        return whole(mode)

    model.train = train
    optimizer.train()
    found: torch.optim.Optimizer = optimizer
    return found


OPTIMIZERS = {
    "Prodigy": RateFree(1.0, _prodigy),
    "MoMo": RateFree(1.0, _momo),
    "MoMo-Adam": RateFree(1e-2, _momo_adam),
    "D-Adapt Adam": RateFree(1.0, _dadapt),
    "ScheduleFree AdamW": RateFree(2.5e-3, _schedule_free, schedules=False),
}


def with_optimizer(task: justright.Task, chosen: RateFree) -> justright.Task:
    """The same task, trained by it. It keeps its last model and its last loss for it."""
    kind = type(task)

    class Instead(kind):  # type: ignore[misc, valid-type]
        def model(self) -> torch.nn.Module:
            made: torch.nn.Module = super().model()
            self.last_model = made
            return made

        def loss(self, output: Any, target: Any) -> torch.Tensor:
            found: torch.Tensor = super().loss(output, target)
            self.last_loss = found.detach()
            return found

    made: justright.Task = Instead()
    made.optimizer = lambda parameters, lr: chosen.make(made, parameters, lr)
    made.weight_decay = None
    if not chosen.schedules:
        made.schedule, made.warmup = "constant", 0.0
    return made


def range_test(trainer: TaskTrainer, seed: int) -> tuple[float, int]:
    """The rate that the range test suggests ("valley"), and the steps it took.

    The rate rises from batch to batch, until the smoothed loss is four times its lowest. The
    suggestion lies in the middle of the longest stretch over which the loss falls.
    """
    trial = trainer.start(TrialWork(number=0, lr=LOWEST, seed=seed, attempt=1))
    trial.model.train()
    inputs, targets = trainer.task.train_data()
    generator = torch.Generator().manual_seed(seed)
    size = trainer.task.batch_size
    rates, losses, mean, lowest = [], [], 0.0, math.inf
    order = torch.empty(0, dtype=torch.long)
    for step in range(STEPS):
        if len(order) < size:
            order = torch.randperm(len(inputs), generator=generator)
        batch, order = order[:size], order[size:]
        lr = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        for group in trial.optimizer.param_groups:
            group["lr"] = lr
        loss = trainer.task.loss(trial.model(inputs[batch]), targets[batch])
        trial.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        trial.optimizer.step()
        mean = _SMOOTHED * mean + (1 - _SMOOTHED) * float(loss.detach())
        smooth = mean / (1 - _SMOOTHED ** (step + 1))
        if not math.isfinite(smooth) or smooth > _STOPS_AT * lowest:
            break
        lowest = min(lowest, smooth)
        rates.append(lr)
        losses.append(smooth)
    first = STEPS // 10
    kept = slice(first, max(first + 1, len(rates) - _LEFT_OUT))
    begin, end = _longest_fall(losses[kept])
    return rates[kept][begin + (end - begin) // 2], len(rates)


def _longest_fall(losses: Sequence[float]) -> tuple[int, int]:
    """Where the longest falling subsequence begins and ends."""
    length, start = [1] * len(losses), list(range(len(losses)))
    for i, loss in enumerate(losses):
        for j in range(i):
            if loss < losses[j] and length[j] + 1 > length[i]:
                length[i], start[i] = length[j] + 1, start[j]
    end = max(range(len(losses)), key=lambda i: length[i])
    return start[end], end
