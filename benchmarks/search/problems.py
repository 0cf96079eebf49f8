"""Small training problems, of many kinds, on which searches are fitted and judged.

Each is a Task on data that scikit-learn brings along, or that is made from a fixed seed. They are
small enough that 36 rates of one take seconds as lanes. ``PROBLEMS`` names them and says on which
side of the split each is: what is fitted to some problems is judged on the others only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from sklearn import datasets
from torch import nn
from torch.nn import functional

from benchmarks.search.deep_problems import (
    DeepRelu,
    Recurrent,
    Variational,
    VariationalMean,
)
from benchmarks.search.language_problems import Characters, FineTune, FineTuneWhole, Words
from benchmarks.search.problem_data import Pair, Problem, mlp, noisy, split

T = TypeVar("T")


class Regression(Problem):
    def loss(self, output: Any, target: Any) -> torch.Tensor:
        return functional.mse_loss(output.squeeze(-1), target)


# -- classification -----------------------------------------------------------------------------


class DigitsMLP(Problem):
    def make(self) -> tuple[Pair, Pair]:
        return split(*datasets.load_digits(return_X_y=True))

    def model(self) -> nn.Module:
        return mlp(64, 64, 10)


class DigitsDeep(DigitsMLP):
    """Narrow and deep, without normalization."""

    def model(self) -> nn.Module:
        return mlp(64, 24, 24, 24, 24, 24, 24, 10, act=nn.Tanh)


class DigitsNorm(DigitsMLP):
    def model(self) -> nn.Module:
        return mlp(64, 48, 48, 10, norm=True)


class DigitsDropout(DigitsMLP):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Dropout(0.5), nn.Linear(96, 10))


class DigitsCNN(DigitsMLP):
    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip


class DigitsNoisy(DigitsMLP):
    """A third of the labels is wrong: training goes on while validation gets worse."""

    def make(self) -> tuple[Pair, Pair]:
        (x, y), held_out = super().make()
        return (x, noisy(y, 0.33, 10)), held_out

    def model(self) -> nn.Module:
        return mlp(64, 128, 10)


class Cancer(Problem):
    """Logistic regression."""

    batch_size = 32

    def make(self) -> tuple[Pair, Pair]:
        return split(*datasets.load_breast_cancer(return_X_y=True))

    def model(self) -> nn.Module:
        return nn.Linear(30, 2)


class Wine(Problem):
    batch_size = 16

    def make(self) -> tuple[Pair, Pair]:
        return split(*datasets.load_wine(return_X_y=True))

    def model(self) -> nn.Module:
        return mlp(13, 32, 3, act=nn.GELU)


class Blobs(Problem):
    """Many features, few of which tell anything."""

    def make(self) -> tuple[Pair, Pair]:
        made = datasets.make_classification(
            1500, 40, n_informative=8, n_classes=5, flip_y=0.1, random_state=0
        )
        return split(*made)

    def model(self) -> nn.Module:
        return mlp(40, 64, 32, 5)


class Moons(Problem):
    def make(self) -> tuple[Pair, Pair]:
        return split(*datasets.make_moons(1000, noise=0.25, random_state=0))

    def model(self) -> nn.Module:
        return mlp(2, 32, 32, 2, act=nn.Tanh)


class Chain(Problem):
    """The next of 12 symbols of a Markov chain of second order, from the last six."""

    def make(self) -> tuple[Pair, Pair]:
        generator = torch.Generator().manual_seed(3)
        table = torch.randn(12, 12, 12, generator=generator).mul(2).softmax(-1)
        chain = [0, 1]
        for _ in range(2400):
            weights = table[chain[-2], chain[-1]]
            chain.append(int(torch.multinomial(weights, 1, generator=generator)))
        windows = torch.tensor(chain).unfold(0, 7, 1)
        x, y = windows[:, :6], windows[:, 6]
        return (x[:1700], y[:1700]), (x[1700:], y[1700:])

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Embedding(12, 8), nn.Flatten(), mlp(48, 64, 12))


class ChainAttention(Chain):
    """The same with a block of attention."""

    def model(self) -> nn.Module:
        return _Attends(12, 16)


class _Attends(nn.Module):
    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.place = nn.Parameter(0.1 * torch.randn(6, width))
        self.block = nn.TransformerEncoderLayer(
            width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(width, symbols)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.embed(x) + self.place)[:, -1])  # type: ignore[no-any-return]


# -- regression and others ----------------------------------------------------------------------


class Diabetes(Regression):
    batch_size = 32

    def make(self) -> tuple[Pair, Pair]:
        return split(*datasets.load_diabetes(return_X_y=True))

    def model(self) -> nn.Module:
        return mlp(10, 32, 1, act=nn.Tanh)


class Friedman(Regression):
    def make(self) -> tuple[Pair, Pair]:
        return split(*datasets.make_friedman1(1200, noise=1.0, random_state=0))

    def model(self) -> nn.Module:
        return mlp(10, 64, 64, 1)


class IllConditioned(Regression):
    """Least squares whose directions differ by a factor of 1000 in curvature."""

    def make(self) -> tuple[Pair, Pair]:
        generator = torch.Generator().manual_seed(0)
        scale = torch.logspace(0, -1.5, 30)
        x = torch.randn(1200, 30, generator=generator) * scale
        y = x @ (torch.randn(30, generator=generator) / scale)
        y = (y + y.std() * 0.3 * torch.randn(1200, generator=generator)) / y.std()
        return (x[:900], y[:900]), (x[900:], y[900:])

    def model(self) -> nn.Module:
        return nn.Linear(30, 1)


class Teacher(Regression):
    """A network learns another of its kind."""

    def make(self) -> tuple[Pair, Pair]:
        state = torch.get_rng_state()
        torch.manual_seed(11)
        x = torch.randn(1600, 16)
        with torch.no_grad():
            y = mlp(16, 32, 32, 1, act=nn.Tanh)(x).squeeze(1) * 5
        torch.set_rng_state(state)
        return split(x, y)

    def model(self) -> nn.Module:
        return mlp(16, 48, 48, 1, act=nn.Tanh)


class Autoencoder(Problem):
    """Digits through four numbers."""

    def make(self) -> tuple[Pair, Pair]:
        pixels = torch.tensor(datasets.load_digits().data, dtype=torch.float32) / 16
        pixels = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))]
        return (pixels[:1200], pixels[:1200]), (pixels[1200:], pixels[1200:])

    def model(self) -> nn.Module:
        return mlp(64, 32, 4, 32, 64)

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        return functional.mse_loss(output, target) * 64


class Quadratic(Problem):
    """A noisy bowl in 40 dimensions, most of them flat: the data are the noise."""

    def make(self) -> tuple[Pair, Pair]:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(1000, 40, generator=generator) * 0.3
        nothing = torch.zeros(1000)
        return (noise[:700], nothing[:700]), (noise[700:], nothing[700:])

    def model(self) -> nn.Module:
        return _Bowl(40)

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        return output.mean()  # type: ignore[no-any-return]


class _Bowl(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.randn(size))
        self.curvature: torch.Tensor
        values = torch.cat([torch.rand(size - size // 10), 5 + 10 * torch.rand(size // 10)])
        self.register_buffer("curvature", values)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((self.point - x).square() * self.curvature).sum(1)


class Factors(Problem):
    """A matrix of rank 6 from a fifth of its noisy entries."""

    batch_size = 128

    def make(self) -> tuple[Pair, Pair]:
        generator = torch.Generator().manual_seed(5)
        left, right = (torch.randn(90, 6, generator=generator) for _ in range(2))
        where = torch.randperm(8100, generator=generator)[:2400]
        x = torch.stack([where // 90, where % 90], dim=1)
        y = (left[x[:, 0]] * right[x[:, 1]]).sum(1) / math.sqrt(6)
        y = y + 0.2 * torch.randn(2400, generator=generator)
        return (x[:1900], y[:1900]), (x[1900:], y[1900:])

    def model(self) -> nn.Module:
        return _Product(90, 8)

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        return functional.mse_loss(output, target)


class _Product(nn.Module):
    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.left, self.right = nn.Embedding(size, rank), nn.Embedding(size, rank)
        for table in (self.left, self.right):
            nn.init.normal_(table.weight, std=0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = (self.left(x[:, 0]) * self.right(x[:, 1])).sum(1)
        return found


@dataclass(frozen=True)
class Entry:
    """A problem, and on which side of the split it is."""

    task: type[Problem]
    side: str  #: "fit" or "test".
    long: bool = False  #: Whether it is trained for long horizons as well ...
    short: bool = False  #: ... or for short ones only.

    def settings(
        self, usual: tuple[T, ...], long: tuple[T, ...], short: tuple[T, ...]
    ) -> tuple[T, ...]:
        """How it is trained, of those that there are."""
        if self.short:
            return short
        return (*usual, *long) if self.long else usual


PROBLEMS: dict[str, Entry] = {
    "digits_mlp": Entry(DigitsMLP, "fit"),
    "digits_norm": Entry(DigitsNorm, "fit"),
    "digits_dropout": Entry(DigitsDropout, "fit"),
    "digits_noisy": Entry(DigitsNoisy, "fit"),
    "cancer": Entry(Cancer, "fit"),
    "blobs": Entry(Blobs, "fit"),
    "chain": Entry(Chain, "fit"),
    "friedman": Entry(Friedman, "fit"),
    "ill_conditioned": Entry(IllConditioned, "fit"),
    "autoencoder": Entry(Autoencoder, "fit"),
    "deep_relu": Entry(DeepRelu, "fit", long=True),
    "variational": Entry(Variational, "test", long=True),
    "recurrent": Entry(Recurrent, "fit"),
    "digits_deep": Entry(DigitsDeep, "fit"),
    "digits_cnn": Entry(DigitsCNN, "test"),
    "wine": Entry(Wine, "fit"),
    "moons": Entry(Moons, "fit"),
    "chain_attention": Entry(ChainAttention, "fit"),
    "diabetes": Entry(Diabetes, "fit"),
    "teacher": Entry(Teacher, "test"),
    "quadratic": Entry(Quadratic, "fit"),
    "factors": Entry(Factors, "fit"),
    "variational_mean": Entry(VariationalMean, "fit", long=True),
    "characters": Entry(Characters, "fit", short=True),
    "words": Entry(Words, "test", short=True),
    "fine_tune": Entry(FineTune, "fit", short=True),
    "fine_tune_whole": Entry(FineTuneWhole, "test", short=True),
}
