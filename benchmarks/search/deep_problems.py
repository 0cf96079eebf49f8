"""Problems whose good rates diverge late, drift far or are unusually cold: deep nets and others.

Without normalization a deep net may train well at a rate for a third of its horizon and then blow
up; a loss that sums over pixels wants cold rates; a variational autoencoder improves for ever.
"""

from __future__ import annotations

from typing import Any

import torch
from sklearn import datasets
from torch import nn
from torch.nn import functional

from benchmarks.search.problem_data import Pair, Problem, mlp, split


class DeepRelu(Problem):
    """Eight layers without normalization, with hard labels."""

    def make(self) -> tuple[Pair, Pair]:
        x, y = datasets.make_classification(
            900, 30, n_informative=12, n_classes=5, class_sep=0.8, flip_y=0.1, random_state=3
        )
        return split(x, y)

    def model(self) -> nn.Module:
        return mlp(30, 32, 32, 32, 32, 32, 32, 32, 5)


class Variational(Problem):
    """A variational autoencoder of digits: pixels summed, plus the divergence of the code."""

    code = 6

    def make(self) -> tuple[Pair, Pair]:
        pixels = torch.tensor(datasets.load_digits().data, dtype=torch.float32) / 16
        pixels = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))]
        return (pixels[:900], pixels[:900]), (pixels[1200:1600], pixels[1200:1600])

    def model(self) -> nn.Module:
        return _Coder(64, 48, self.code)

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        pixels, mean, spread = output.split([64, self.code, self.code], dim=1)
        rebuilt = functional.binary_cross_entropy_with_logits(pixels, target) * 64
        apart = 0.5 * (mean.square() + spread.exp() - 1 - spread).sum(1).mean()
        loss: torch.Tensor = rebuilt + apart
        return loss


class VariationalMean(Variational):
    """The same with a square error per pixel, and a wide code."""

    code = 12

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        pixels, mean, spread = output.split([64, self.code, self.code], dim=1)
        apart = 0.5 * (mean.square() + spread.exp() - 1 - spread).sum(1).mean()
        loss: torch.Tensor = functional.mse_loss(pixels, target) + 1e-3 * apart
        return loss


class _Coder(nn.Module):
    def __init__(self, size: int, width: int, code: int) -> None:
        super().__init__()
        self.read = mlp(size, width, 2 * code)
        self.write = mlp(code, width, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, spread = self.read(x).chunk(2, dim=1)
        code = mean
        if self.training:
            code = mean + (0.5 * spread).exp() * torch.randn(mean.shape)
        return torch.cat([self.write(code), mean, spread], dim=1)


class Recurrent(Problem):
    """The next symbol of made sequences, by a plain recurrent net."""

    symbols, length, width = 8, 10, 32

    def make(self) -> tuple[Pair, Pair]:
        generator = torch.Generator().manual_seed(11)
        table = torch.randint(self.symbols, (self.symbols, self.symbols), generator=generator)
        rows = torch.randint(self.symbols, (900, self.length + 1), generator=generator)
        for place in range(2, self.length + 1):
            sure = torch.rand(900, generator=generator) < 0.85
            rows[:, place] = torch.where(
                sure, table[rows[:, place - 1], rows[:, place - 2]], rows[:, place]
            )
        x, y = rows[:, :-1], rows[:, -1]
        return (x[:650], y[:650]), (x[650:], y[650:])

    def model(self) -> nn.Module:
        return _Steps(self.symbols, self.width)


class _Steps(nn.Module):
    """A recurrent net in plain operations, which lanes can stack."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.step = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, symbols)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.embed(x)
        state = torch.zeros_like(seen[:, 0])
        for place in range(x.shape[1]):
            state = torch.tanh(self.step(torch.cat([seen[:, place], state], dim=1)))
        return self.head(state)  # type: ignore[no-any-return]
