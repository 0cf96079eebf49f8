"""The optimizers of a stack: each lane's step, with its own rate, decay, momentum and state.

The optimizers' states are stacked as the weights are, and each lane's own optimizer has views of
its rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Grads = Sequence[torch.Tensor | None]
Rates = Sequence[Sequence[float]]  #: By lane and parameter group.

_FUSED_DEVICES = ("cpu", "cuda")
_CLIP_EPSILON = 1e-6  # added to a norm before it divides, as in torch.nn.utils.clip_grad_norm_


class LaneOptimizer(ABC):
    """The optimizers of all lanes, each with its own rate, decay, momentum and state."""

    @abstractmethod
    def step(self, grads: Grads, rates: Rates, skipped: Sequence[int] = ()) -> None:
        """One step of every lane but those ``skipped``.

        ``grads``: for each parameter its gradient, a row a lane, or None where it has none.
        """


def lane_optimizer(
    optimizers: Sequence[torch.optim.Optimizer], parameters: Sequence[list[torch.Tensor]]
) -> LaneOptimizer:
    """The quickest way to step these; ``parameters``: for each lane its trained ones, in order."""
    alike = len({type(optimizer) for optimizer in optimizers}) == 1
    if alike and all(_is_fusible(optimizer) for optimizer in optimizers):
        return _FusedOptimizer(optimizers, parameters)
    return _OwnOptimizers(optimizers, parameters)


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """Give each parameter group its rate."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


class _OwnOptimizers(LaneOptimizer):
    """Each lane's own torch.optim object does its step, whatever it is."""

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        parameters: Sequence[list[torch.Tensor]],
    ) -> None:
        self._optimizers, self._parameters = optimizers, parameters

    def step(self, grads: Grads, rates: Rates, skipped: Sequence[int] = ()) -> None:
        for lane, optimizer in enumerate(self._optimizers):
            if lane in skipped:
                continue
            set_rates(optimizer, rates[lane])
            for parameter, grad in zip(self._parameters[lane], grads, strict=True):
                parameter.grad = grad[lane] if grad is not None else None
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def _is_fusible(optimizer: torch.optim.Optimizer) -> bool:
    """Whether torch's fused kernels do just what this optimizer does."""
    kind = type(optimizer)
    if kind not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        return False
    if "step" in vars(optimizer):  # replaced by the user's own
        return False
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return False
    for group in optimizer.param_groups:
        if any(group.get(name) for name in ("amsgrad", "capturable", "differentiable")):
            return False
        if group.get("dampening") or not isinstance(group["lr"], float):
            return False
        if not all(isinstance(beta, float) for beta in group.get("betas", ())):
            return False
        for parameter in group["params"]:
            known = parameter.is_floating_point() and parameter.layout == torch.strided
            if not known or parameter.device.type not in _FUSED_DEVICES:
                return False
    return True


@dataclass
class _Group:
    """One parameter group of one lane, as lists for the kernel."""

    kernel: Callable[..., Any]
    options: dict[str, Any]
    columns: list[int]  #: Which of the stack's trained parameters it has.
    parameters: list[torch.Tensor]
    states: list[list[torch.Tensor]]  #: As the kernel wants them, each one tensor a parameter.

    def step(self, grads: list[torch.Tensor], rate: float) -> None:
        self.kernel(self.parameters, grads, *self.states, lr=rate, **self.options)

    def part(self, chosen: Sequence[int]) -> _Group:
        """Only some of its parameters."""
        columns = [self.columns[i] for i in chosen]
        parameters = [self.parameters[i] for i in chosen]
        states = [[state[i] for i in chosen] if state else state for state in self.states]
        return _Group(self.kernel, self.options, columns, parameters, states)


class _FusedOptimizer(LaneOptimizer):
    """SGD, Adam and AdamW by torch's fused kernels, one call for all parameters of a lane.

    A lane's weights, gradients and state lie together in the cache then: with dozens of lanes of a
    small model that is several times quicker than torch.optim, and than stacked operations.
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        parameters: Sequence[list[torch.Tensor]],
    ) -> None:
        self._sgd = isinstance(optimizers[0], torch.optim.SGD)
        self._count = len(parameters[0])
        self._stack_states(optimizers, parameters)
        self._lanes = [
            self._groups_of(lane, optimizer, parameters[lane])
            for lane, optimizer in enumerate(optimizers)
        ]

    def _stack_states(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        parameters: Sequence[list[torch.Tensor]],
    ) -> None:
        """Make the optimizers' states views of common tensors; new ones begin at zero."""
        names = ["momentum_buffer"] if self._sgd else ["exp_avg", "exp_avg_sq"]
        device = parameters[0][0].device
        self._steps = torch.zeros(len(optimizers), self._count, device=device)
        stepped = {id(p) for group in optimizers[0].param_groups for p in group["params"]}
        for column in range(self._count):
            lanes = [of[column] for of in parameters]
            if id(lanes[0]) not in stepped:
                continue
            states = [opt.state[lane] for opt, lane in zip(optimizers, lanes, strict=True)]
            for name in names:
                self._stack_state(name, optimizers, lanes, states)
            for row, state in enumerate(states if not self._sgd else ()):
                if "step" in state:
                    self._steps[row, column] = state["step"]
                state["step"] = self._steps[row, column]

    def _stack_state(
        self,
        name: str,
        optimizers: Sequence[torch.optim.Optimizer],
        lanes: Sequence[torch.Tensor],
        states: Sequence[dict[str, Any]],
    ) -> None:
        pairs = zip(optimizers, lanes, strict=True)
        if self._sgd and not any(_has_momentum(*pair) for pair in pairs):
            return
        before = [state.get(name) for state in states]
        stacked = torch.stack(
            [
                old if old is not None else torch.zeros_like(lane.detach())
                for old, lane in zip(before, lanes, strict=True)
            ]
        ).contiguous()
        for state, row in zip(states, stacked.unbind(0), strict=True):
            state[name] = row

    def _groups_of(
        self, lane: int, optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor]
    ) -> list[_Group]:
        column_of = {id(parameter): column for column, parameter in enumerate(parameters)}
        groups = []
        for group in optimizer.param_groups:
            columns = [column_of[id(p)] for p in group["params"] if id(p) in column_of]
            own = [parameters[column] for column in columns]
            state = [optimizer.state[p] for p in own]
            rows = [p.detach() for p in own]
            if self._sgd:
                kernel: Callable[..., Any] = torch._fused_sgd_
                momentum = [s["momentum_buffer"] for s in state] if group["momentum"] else []
                states = [momentum]
            else:
                decoupled = group.get("decoupled_weight_decay", False)
                kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
                steps = [self._steps[lane, column] for column in columns]
                first, second = ([s[name] for s in state] for name in ("exp_avg", "exp_avg_sq"))
                states = [first, second, [], steps]
            groups.append(_Group(kernel, _options(group, self._sgd), columns, rows, states))
        return groups

    def step(self, grads: Grads, rates: Rates, skipped: Sequence[int] = ()) -> None:
        whole = all(grad is not None for grad in grads)
        # The kernels read memory in its order, and a gradient may be a transposed view.
        rows = [grad.contiguous().unbind(0) if grad is not None else () for grad in grads]
        if not self._sgd:
            self._count_steps(grads, skipped)
        for lane, groups in enumerate(self._lanes):
            if lane in skipped:
                continue
            for group, rate in zip(groups, rates[lane], strict=True):
                if not whole:  # as torch.optim: what has no gradient is left as it is
                    group = group.part([i for i, c in enumerate(group.columns) if rows[c]])
                if group.columns:
                    group.step([rows[column][lane] for column in group.columns], rate)

    def _count_steps(self, grads: Grads, skipped: Sequence[int]) -> None:
        columns = [column for column, grad in enumerate(grads) if grad is not None]
        lanes = [lane for lane in range(len(self._lanes)) if lane not in skipped]
        if len(columns) == self._count and len(lanes) == len(self._lanes):
            self._steps += 1
        else:
            index = torch.tensor(lanes, dtype=torch.long), torch.tensor(columns, dtype=torch.long)
            self._steps[index[0][:, None], index[1]] += 1


def _has_momentum(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> bool:
    return any(
        group["momentum"] and any(parameter is own for own in group["params"])
        for group in optimizer.param_groups
    )


def _options(group: dict[str, Any], sgd: bool) -> dict[str, Any]:
    """The keyword arguments of the kernel for one parameter group."""
    if sgd:
        return {
            "weight_decay": group["weight_decay"],
            "momentum": group["momentum"],
            "dampening": 0.0,
            "nesterov": group["nesterov"],
            "maximize": group["maximize"],
            "is_first_step": False,  # a momentum of zeros gives the same
        }
    beta1, beta2 = group["betas"]
    return {
        "beta1": beta1,
        "beta2": beta2,
        "weight_decay": group["weight_decay"],
        "eps": group["eps"],
        "amsgrad": False,
        "maximize": group["maximize"],
    }


def clip_lanes(grads: Grads, limit: float) -> None:
    """Each lane's gradients scaled to a total norm of at most ``limit``, in place.

    The same as ``torch.nn.utils.clip_grad_norm_`` lane by lane.
    """
    found = [grad for grad in grads if grad is not None]
    norms = torch.stack(
        [torch.linalg.vector_norm(grad.reshape(len(grad), -1), dim=1) for grad in found]
    )
    factors = (limit / (torch.linalg.vector_norm(norms, dim=0) + _CLIP_EPSILON)).clamp(max=1.0)
    for grad in found:
        grad.mul_(factors.view(-1, *[1] * (grad.ndim - 1)))
