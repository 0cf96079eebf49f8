"""Trials of one task side by side: their weights and buffers, stacked.

A stack holds one tensor for each of the model's, with a first dimension of one row for each lane.
The lanes' own models and optimizers become views of their rows, so they hold the truth at any
time: a trial is saved, leaves, or goes on alone without anything being copied back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from worker.lanes.stack_optimizers import lane_optimizer
from worker.lanes.trial import TrialTraining

Tensors = dict[str, torch.Tensor]


class CannotStack(Exception):
    """Why some trials cannot be trained side by side."""


class Stack:
    """The stacked tensors of some trials."""

    def __init__(self, trials: Sequence[TrialTraining]) -> None:
        """
        Raises:
            CannotStack: their models have not the same tensors.
        """
        models = [trial.model for trial in trials]
        _refuse_hooks(models[0])
        named: list[Tensors] = [dict(model.named_parameters()) for model in models]
        self.parameters: dict[str, torch.Tensor] = {}
        self.shared: dict[str, torch.Tensor] = {}
        for name, lanes in _by_name(named):
            if lanes[0].requires_grad or not _equal(lanes):
                self.parameters[name] = _stack(lanes).requires_grad_(lanes[0].requires_grad)
            else:  # not stacked: what depends on frozen, equal ones alone is computed once
                self.shared[name] = lanes[0].detach()
        self.trained = [name for name, stack in self.parameters.items() if stack.requires_grad]
        buffers = [dict(model.named_buffers()) for model in models]
        self.buffers = {name: _stack(lanes) for name, lanes in _by_name(buffers)}
        parameters = [[of[name] for name in self.trained] for of in named]
        self.optimizer = lane_optimizer([trial.optimizer for trial in trials], parameters)

    @property
    def leaves(self) -> list[torch.Tensor]:
        """The stacks that are trained."""
        return [self.parameters[name] for name in self.trained]


def _refuse_hooks(model: torch.nn.Module) -> None:
    """
    Raises:
        CannotStack: gradients of its parameters pass through the user's own code.
    """
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise CannotStack(f"parameter {name} has a hook on its gradient")


def _by_name(named: Sequence[Tensors]) -> list[tuple[str, list[torch.Tensor]]]:
    first = named[0]
    for other in named[1:]:
        if [(n, t.shape, t.dtype) for n, t in other.items()] != [
            (n, t.shape, t.dtype) for n, t in first.items()
        ]:
            raise CannotStack("model() does not return the same kind of model each time")
    return [(name, [of[name] for of in named]) for name in first]


def _equal(lanes: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(lanes[0], other) for other in lanes[1:])


def _stack(lanes: Sequence[torch.Tensor]) -> torch.Tensor:
    """One tensor of all; each becomes a view of its row."""
    # Contiguous, whatever the lanes were: gradients are, and the kernels read both in order.
    stacked = torch.stack([lane.detach() for lane in lanes]).contiguous()
    for lane, row in zip(lanes, stacked.unbind(0), strict=True):
        lane.data = row
    return stacked


def set_free(trial: TrialTraining) -> None:
    """Give a trial memory of its own: a row would keep its whole stack alive."""
    for tensor in (*trial.model.parameters(), *trial.model.buffers()):
        tensor.data = tensor.data.clone()
    for state in trial.optimizer.state.values():
        for name, value in state.items() if isinstance(state, dict) else ():
            if isinstance(value, torch.Tensor):
                state[name] = value.clone()
