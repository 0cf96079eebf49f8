"""Optimizers of many families, for a corpus in which a user's own one is no stranger."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

Params = Iterable[torch.nn.Parameter]


def sgd(parameters: Any, lr: float) -> torch.optim.Optimizer:
    """Plain gradient descent."""
    return torch.optim.SGD(parameters, lr=lr)


def momentum(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def adam(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr)


def adamw(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05)


def rmsprop(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(parameters, lr=lr)


def adafactor(parameters: Any, lr: float) -> torch.optim.Optimizer:
    """Steps in shares of a parameter's own size (Shazeer and Stern 2018)."""
    return torch.optim.Adafactor(parameters, lr=lr)


def adagrad(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, lr=lr)


def nadam(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.NAdam(parameters, lr=lr)


class _Stepper(torch.optim.Optimizer):
    """An optimizer in a few lines: ``move`` changes one parameter by its gradient."""

    def __init__(self, parameters: Params, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, parameter.grad, self.state[parameter], group["lr"])

    def move(
        self, parameter: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any], lr: float
    ) -> None:
        raise NotImplementedError


class Lion(_Stepper):
    """The sign of a mean of gradients (Chen et al. 2023)."""

    def move(
        self, parameter: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any], lr: float
    ) -> None:
        mean = state.setdefault("mean", torch.zeros_like(parameter))
        parameter.sub_(lr * (0.9 * mean + 0.1 * gradient).sign())
        mean.mul_(0.99).add_(gradient, alpha=0.01)


class Normalized(_Stepper):
    """Momentum of gradients that are scaled to a length of 1 (as in LARS and NGD)."""

    def move(
        self, parameter: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any], lr: float
    ) -> None:
        mean = state.setdefault("mean", torch.zeros_like(parameter))
        mean.mul_(0.9).add_(gradient / (gradient.norm() + 1e-8))
        parameter.sub_(lr * mean)


class BoundedAdam(_Stepper):
    """Adam whose steps are bounded to a band that closes about 0.1 (Luo et al. 2019)."""

    def move(
        self, parameter: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any], lr: float
    ) -> None:
        count = state["count"] = state.get("count", 0) + 1
        mean = state.setdefault("mean", torch.zeros_like(parameter))
        square = state.setdefault("square", torch.zeros_like(parameter))
        mean.mul_(0.9).add_(gradient, alpha=0.1)
        square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        size = 1 / ((square / (1 - 0.999**count)).sqrt() + 1e-8)
        low, high = 100 * (1 - 1 / (0.001 * count + 1)), 100 * (1 + 1 / (0.001 * count))
        parameter.sub_(lr * size.clamp(low, high) * mean / (1 - 0.9**count))


def lion(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return Lion(parameters, lr)


def normalized(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return Normalized(parameters, lr)


def bounded(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return BoundedAdam(parameters, lr)
