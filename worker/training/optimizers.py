"""What a trial trains with beside its rate: the task's own settings, or what is searched."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from justright.errors import TaskError
from justright.messages import TrialWork
from justright.search_space import NAMES
from justright.task import Task
from worker.training.schedules import schedule
from worker.user_code.guard import user_code

_OF_A_FUNCTION = 2  # parameters: what is trained, and the rate
_MODEL_NAMES = ("model", "module", "net", "network")
_SGD_MOMENTUM = 0.9  # of "sgd", where the task says nothing else


@dataclass(frozen=True)
class Hyperparameters:
    """The settings of one trial. None: the optimizer's own."""

    batch_size: int
    schedule: str = "constant"
    warmup: float = 0.0
    weight_decay: float | None = None
    momentum: float | None = None

    def factor(self) -> Callable[[float], float]:
        """The schedule, after its warm-up."""
        return schedule(self.schedule, self.warmup)


def hyperparameters(task: Task, work: TrialWork) -> Hyperparameters:
    """Those of a trial.

    Raises:
        TaskError: one is out of its range.
    """
    given = {name: work.params.get(name, getattr(task, name)) for name in NAMES}
    if given["schedule"] == "search":  # a look at the task, not a trial of the study
        given["schedule"] = "constant"
    size = given["batch_size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise TaskError(f"batch_size = {size!r}, expected a positive whole number.")
    _check("warmup", given["warmup"], 1.0)
    if given["weight_decay"] is not None:
        _check("weight_decay", given["weight_decay"], math.inf)
    if given["momentum"] is not None:
        _check("momentum", given["momentum"], 1.0)
    return Hyperparameters(**given)


def _check(name: str, value: Any, limit: float) -> None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not known or not 0 <= value < limit:
        upper = f" and below {limit:g}" if limit < math.inf else ""
        raise TaskError(f"{name} = {value!r}, expected a finite number of at least 0{upper}.")


def make_optimizer(
    task: Task, model: torch.nn.Module, lr: float, chosen: Hyperparameters
) -> torch.optim.Optimizer:
    """The task's optimizer of this model, with a rate, weight decay and momentum.

    Raises:
        TaskError: there is nothing to train, or no such optimizer, or it has no such setting.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise TaskError("model() has no parameter that can be trained.")
    optimizer = _named(task.optimizer, model, parameters, lr)
    if chosen.weight_decay is not None:
        _set_weight_decay(optimizer, float(chosen.weight_decay))
    if chosen.momentum is not None:
        _set_momentum(optimizer, float(chosen.momentum))
    return optimizer


def _named(
    choice: Any, model: torch.nn.Module, parameters: Iterable[torch.nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    if choice == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=_SGD_MOMENTUM)
    if choice == "adam":
        return torch.optim.Adam(parameters, lr=lr)
    if choice == "adamw":
        return torch.optim.AdamW(parameters, lr=lr)
    if not callable(choice):
        raise TaskError(
            f"optimizer = {choice!r}, expected sgd, adam, adamw, a callable (parameters, lr) -> "
            "torch.optim.Optimizer, or a method optimizer(self, parameters, lr)."
        )
    optimizer = user_code(lambda: _called(choice, model, parameters, lr))
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TaskError(
            f"optimizer(...) returned a {type(optimizer).__name__}, expected a "
            "torch.optim.Optimizer."
        )
    return optimizer


def _called(choice: Any, model: torch.nn.Module, parameters: Any, lr: float) -> Any:
    """A function (parameters, lr) or a method (self, parameters, lr), however the rate is named.

    Reached through the class, a plain function arrives bound to the task: its number of parameters
    tells it from a method. A method's first one may also be the model.
    """
    factory = getattr(choice, "__func__", choice)
    if factory is choice:
        return _with_rate(choice, parameters, lr)
    names = [
        name
        for name, one in inspect.signature(factory).parameters.items()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if len(names) <= _OF_A_FUNCTION:
        return _with_rate(factory, parameters, lr)
    wants_model = names[1] in _MODEL_NAMES
    return _with_rate(choice, model if wants_model else parameters, lr)


def _with_rate(factory: Callable[..., Any], first: Any, lr: float) -> Any:
    """The rate by position, or by its name where it has no place."""
    try:
        inspect.signature(factory).bind(first, lr)
    except TypeError:
        return factory(first, lr=lr)
    except ValueError:  # written in C: it has no signature
        pass
    return factory(first, lr)


def _set_weight_decay(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Parameter groups that the user's own optimizer exempts, as biases are, stay exempt."""
    _need(optimizer, "weight_decay", any("weight_decay" in g for g in optimizer.param_groups))
    decays = [group.get("weight_decay") for group in optimizer.param_groups]
    for group, own in zip(optimizer.param_groups, decays, strict=True):
        if own is not None and (own or not any(decays)):
            group["weight_decay"] = value


def _set_momentum(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Of Adam and its kin that is the first beta."""
    groups = optimizer.param_groups
    _need(optimizer, "momentum", any("momentum" in g or "betas" in g for g in groups))
    for group in groups:
        if "betas" in group:
            group["betas"] = (value, *group["betas"][1:])
        elif "momentum" in group:
            group["momentum"] = value


def _need(optimizer: torch.optim.Optimizer, name: str, there: bool) -> None:
    if not there:
        raise TaskError(
            f"the optimizer, {type(optimizer).__name__}, has no {name}: do not set or search it."
        )


def in_force(
    chosen: Hyperparameters, optimizer: torch.optim.Optimizer
) -> dict[str, bool | int | float | str]:
    """All settings by name as they are, the optimizer's own included where it has them."""
    group = max(optimizer.param_groups, key=lambda g: float(g.get("weight_decay") or 0.0))
    found: dict[str, bool | int | float | str] = {
        "batch_size": chosen.batch_size,
        "schedule": chosen.schedule,
        "warmup": float(chosen.warmup),
    }
    if "weight_decay" in group:
        found["weight_decay"] = float(group["weight_decay"])
    if "momentum" in group or "betas" in group:
        own = group["betas"][0] if "betas" in group else group["momentum"]
        found["momentum"] = float(own)
    return found
