"""How small problems get their data and their models."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import justright

Pair = tuple[torch.Tensor, torch.Tensor]


def split(inputs: Any, targets: Any, held_out: float = 0.3) -> tuple[Pair, Pair]:
    """Shuffled and standardized: training and validation data."""
    x, y = torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    if y.is_floating_point():
        y = ((y - y.mean(0)) / y.std(0)).float()
    count = int(len(x) * (1 - held_out))
    mean, spread = x[:count].mean(0), x[:count].std(0) + 1e-6
    x = (x - mean) / spread
    return (x[:count], y[:count]), (x[count:], y[count:])


def noisy(labels: torch.Tensor, share: float, classes: int) -> torch.Tensor:
    """Some labels replaced at random."""
    generator = torch.Generator().manual_seed(1)
    wrong = torch.rand(len(labels), generator=generator) < share
    other = torch.randint(classes, labels.shape, generator=generator)
    return torch.where(wrong, other, labels)


def mlp(*widths: int, act: Callable[[], nn.Module] = nn.ReLU, norm: bool = False) -> nn.Module:
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(before, after))
        if number < len(widths) - 2:
            layers += [nn.BatchNorm1d(after)] if norm else []
            layers.append(act())
    return nn.Sequential(*layers)


class Problem(justright.Task):
    """A task whose data are made, or loaded, once."""

    batch_size = 64

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.data = self.make()

    def make(self) -> tuple[Pair, Pair]:
        """Training and validation data."""
        raise NotImplementedError

    def train_data(self) -> Pair:
        return self.data[0]

    def validation_data(self) -> Pair:
        return self.data[1]
