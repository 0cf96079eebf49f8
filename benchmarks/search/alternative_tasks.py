"""Trainings of many kinds, on which a search is weighed against what people use instead of one.

None of them is in the library of the default search, and each takes a second or two on a CPU.
``TASKS`` names them with the examples and some of the other benchmarks.
"""

from __future__ import annotations

from typing import Any

import torch
from sklearn import datasets
from torch import nn
from torch.nn import functional

from benchmarks.search.language_problems import FineTuneWhole, Words
from benchmarks.search.problem_data import Pair, Problem, mlp, split
from benchmarks.search.problems import Regression, Teacher


class LinearTable(Regression):
    """Linear regression on a table whose columns differ in size by a factor of 30."""

    epochs, batch_size, optimizer = 20, 32, "sgd"

    def make(self) -> tuple[Pair, Pair]:
        x, y = datasets.make_regression(1500, 24, n_informative=24, noise=20.0, random_state=4)
        (x, y), held_out = split(x, y)
        size = torch.logspace(-1, 0.5, 24)
        return (x * size, y), (held_out[0] * size, held_out[1])

    def model(self) -> nn.Module:
        return nn.Linear(24, 1)


class Rings(Problem):
    """Two rings in the plane, one inside the other, by a narrow deep net without normalization."""

    epochs, batch_size, optimizer = 30, 32, "sgd"

    def make(self) -> tuple[Pair, Pair]:
        return split(*datasets.make_circles(1200, noise=0.12, factor=0.6, random_state=2))

    def model(self) -> nn.Module:
        return mlp(2, 16, 16, 16, 16, 2, act=nn.Tanh)


class Sums(Regression):
    """The sum of the marked two of twelve numbers, by a recurrent net."""

    epochs, batch_size, optimizer = 12, 64, "adam"

    def make(self) -> tuple[Pair, Pair]:
        generator = torch.Generator().manual_seed(9)
        numbers = torch.rand(2400, 12, generator=generator)
        marks = torch.zeros(2400, 12)
        marks.scatter_(1, torch.rand(2400, 12, generator=generator).argsort(1)[:, :2], 1.0)
        x, y = torch.stack([numbers, marks], -1), (numbers * marks).sum(1)
        return (x[:1900], y[:1900]), (x[1900:], y[1900:])

    def model(self) -> nn.Module:
        return _Reads()


class _Reads(nn.Module):
    """Minimal gated units (Zhou et al. 2016): torch's own cells cannot be trained as lanes."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.new, self.head = nn.Linear(26, 24), nn.Linear(26, 24), nn.Linear(24, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = x.new_zeros(len(x), 24)
        for now in x.unbind(1):
            gate = torch.sigmoid(self.gate(torch.cat([now, state], 1)))
            new = torch.tanh(self.new(torch.cat([now, gate * state], 1)))
            state = state + gate * (new - state)
        return self.head(state)  # type: ignore[no-any-return]


class Denoise(Problem):
    """Digits from noisy ones, by a small conv net."""

    epochs, batch_size, optimizer, schedule = 6, 32, "adamw", "cosine"

    def make(self) -> tuple[Pair, Pair]:
        clean = torch.tensor(datasets.load_digits().images, dtype=torch.float32)[:, None] / 16
        noise = 0.4 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
        return (clean[:1200] + noise[:1200], clean[:1200]), (
            clean[1200:] + noise[1200:],
            clean[1200:],
        )

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.SiLU(), nn.Conv2d(12, 12, 3, padding=1), nn.SiLU(),
            nn.Conv2d(12, 1, 3, padding=1),
        )  # fmt: skip

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        return functional.mse_loss(output, target)


class Counts(Problem):
    """How often something happens: the rate of a Poisson distribution."""

    epochs, batch_size, optimizer = 15, 64, "adam"

    def make(self) -> tuple[Pair, Pair]:
        generator = torch.Generator().manual_seed(5)
        x = torch.randn(2000, 12, generator=generator)
        rate = (0.5 * x[:, 0] - 0.4 * x[:, 1] * x[:, 2] + 0.3 * x[:, 3].abs()).clamp(max=2.5).exp()
        y = torch.poisson(rate, generator=generator)
        return (x[:1500], y[:1500]), (x[1500:], y[1500:])

    def model(self) -> nn.Module:
        return mlp(12, 48, 48, 1)

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        return functional.poisson_nll_loss(output.squeeze(-1), target, full=True)


class Bags(Problem):
    """The subject of a bag of made words, by the mean of their embeddings."""

    epochs, batch_size, optimizer = 8, 32, "sgd"

    def make(self) -> tuple[Pair, Pair]:
        generator = torch.Generator().manual_seed(7)
        subjects = (torch.randn(6, 300, generator=generator) * 1.3).softmax(-1)
        y = torch.randint(6, (2200,), generator=generator)
        x = torch.multinomial(subjects[y], 20, replacement=True, generator=generator)
        return (x[:1700], y[:1700]), (x[1700:], y[1700:])

    def model(self) -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(300, 24), nn.Linear(24, 6))


class Probabilities(Problem):
    """A net with gates of its own, on a table of six classes; weights decay strongly."""

    epochs, batch_size, optimizer, schedule = 10, 64, "adamw", "linear"
    weight_decay = 0.1

    def make(self) -> tuple[Pair, Pair]:
        made = datasets.make_classification(
            2400, 24, n_informative=12, n_classes=6, class_sep=1.2, random_state=21
        )
        return split(*made)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(24, 96), nn.GLU(), nn.LayerNorm(48), nn.Linear(48, 6))


class TeacherSGD(Teacher):
    epochs, optimizer = 25, "sgd"


class WordsOnce(Words):
    """A language model of words, one epoch."""

    epochs, optimizer, schedule, warmup = 1, "adamw", "cosine", 0.05


class FineTuneShifted(FineTuneWhole):
    """A net that is trained on, for three epochs, where little is left to learn."""

    epochs, optimizer, schedule = 3, "adamw", "linear"


_HERE = "benchmarks.search.alternative_tasks"
_SHORT = "benchmarks.search.short_tasks"
TASKS = {
    "digits MLP, SGD": "examples/digits.py:Digits",
    "digits CNN, AdamW": "examples/digits.py:DigitsCNN",
    "digits transformer, AdamW": "examples/digits.py:DigitsTransformer",
    "diabetes, Adam": "examples/diabetes.py:Diabetes",
    "linear table, SGD": f"{_HERE}:LinearTable",
    "deep tanh MLP, SGD": f"{_HERE}:Rings",
    "teacher and student, SGD": f"{_HERE}:TeacherSGD",
    "bags of words, SGD": f"{_HERE}:Bags",
    "recurrent sums, Adam": f"{_HERE}:Sums",
    "counts, Adam": f"{_HERE}:Counts",
    "table of 3 epochs, Adam": f"{_SHORT}:ThreeEpochs",
    "denoising conv net, AdamW": f"{_HERE}:Denoise",
    "gated table, AdamW": f"{_HERE}:Probabilities",
    "words in one epoch, AdamW": f"{_HERE}:WordsOnce",
    "fine-tuning, AdamW": f"{_HERE}:FineTuneShifted",
    "residual net of 6 epochs, SGD": f"{_SHORT}:SixEpochs",
}
