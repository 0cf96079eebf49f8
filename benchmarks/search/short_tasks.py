"""Trainings of few epochs, as people have them today: what a search must not be dear on."""

from __future__ import annotations

from typing import Any

import torch
from sklearn import datasets
from torch import nn
from torch.nn import functional

import justright
from benchmarks.search.language_problems import FineTune, language_model, text_of_datasets
from benchmarks.search.problem_data import Pair, split


class Characters(justright.Task):
    """A character transformer, one epoch over every window of a text."""

    epochs = 1
    batch_size = 16
    optimizer = "adamw"
    schedule = "cosine"
    warmup = 0.05
    length = 32

    def _windows(self) -> torch.Tensor:
        text = text_of_datasets()
        known = {symbol: number for number, symbol in enumerate(sorted(set(text)))}
        self._symbols = len(known)
        windows = torch.tensor([known[symbol] for symbol in text]).unfold(0, self.length + 1, 1)
        return windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))]

    def train_data(self) -> Pair:
        windows = self._windows()[1500:]
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def validation_data(self) -> Pair:
        windows = self._windows()[:1500]
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def model(self) -> nn.Module:
        return language_model(self._symbols, self.length)

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        return functional.cross_entropy(output.flatten(0, 1), target.flatten())


class ThreeEpochs(justright.Task):
    """A table, three epochs."""

    epochs = 3
    batch_size = 32
    optimizer = "adam"

    def _table(self) -> tuple[Pair, Pair]:
        x, y = datasets.make_classification(
            6000, 30, n_informative=14, n_classes=6, class_sep=0.9, flip_y=0.05, random_state=8
        )
        return split(x, y)

    def train_data(self) -> Pair:
        return self._table()[0]

    def validation_data(self) -> Pair:
        return self._table()[1]

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(30, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 6)
        )


class SixEpochs(justright.Task):
    """A small residual conv net on digits, six epochs."""

    epochs = 6
    batch_size = 16
    optimizer = "sgd"
    schedule = "onecycle"

    def _digits(self) -> tuple[Pair, Pair]:
        (x, y), (held_x, held_y) = split(*datasets.load_digits(return_X_y=True))
        return (x.view(-1, 1, 8, 8), y), (held_x.view(-1, 1, 8, 8), held_y)

    def train_data(self) -> Pair:
        return self._digits()[0]

    def validation_data(self) -> Pair:
        return self._digits()[1]

    def model(self) -> nn.Module:
        return _Residual()


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 12, 3, padding=1)
        self.second, self.third = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(12) for _ in range(3))
        self.head = nn.Linear(192, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norms[0](self.first(x)))
        inner = functional.relu(self.norms[1](self.second(x)))
        x = functional.relu(x + self.norms[2](self.third(inner)))
        return self.head(functional.max_pool2d(x, 2).flatten(1))  # type: ignore[no-any-return]


class FineTuning(FineTune):
    """New digits, from a net that knows others: two epochs."""

    epochs = 2
    batch_size = 8
    optimizer = "adamw"
    schedule = "linear"
    warmup = 0.1
