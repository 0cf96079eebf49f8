"""Small language models, and trainings that go on from weights that were trained before."""

from __future__ import annotations

import re
from typing import Any

import torch
from sklearn import datasets
from torch import nn
from torch.nn import functional

from benchmarks.search.problem_data import Pair, Problem, mlp, split


def text_of_datasets() -> str:
    """What scikit-learn says of its data sets."""
    names = ("iris", "diabetes", "digits", "wine", "breast_cancer", "linnerud")
    return "\n".join(getattr(datasets, f"load_{name}")().DESCR for name in names)


def language_model(
    symbols: int, length: int, width: int = 32, heads: int = 2, layers: int = 2
) -> nn.Module:
    """A small transformer that tells the next symbol at each place."""
    return _Transformer(symbols, length, width, heads, layers)


class _Language(Problem):
    """The next token at every place of a window."""

    batch_size = 16
    length, width, heads, layers = 32, 32, 2, 2

    def tokens(self) -> list[str]:
        raise NotImplementedError

    def make(self) -> tuple[Pair, Pair]:
        tokens = self.tokens()
        known = {token: number for number, token in enumerate(sorted(set(tokens)))}
        self._symbols = len(known)
        windows = torch.tensor([known[token] for token in tokens]).unfold(0, self.length + 1, 5)
        blocks = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(2))]
        x, y = blocks[:, :-1].contiguous(), blocks[:, 1:].contiguous()
        held_out = min(160, len(blocks) // 5)
        return (x[held_out:], y[held_out:]), (x[:held_out], y[:held_out])

    def model(self) -> nn.Module:
        return _Transformer(self._symbols, self.length, self.width, self.heads, self.layers)

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        return functional.cross_entropy(output.flatten(0, 1), target.flatten())


class Characters(_Language):
    def tokens(self) -> list[str]:
        return list(text_of_datasets())


class Words(_Language):
    """Words, the rare ones as one; no attention, a wide vocabulary."""

    length, layers = 12, 1

    def tokens(self) -> list[str]:
        words = re.findall(r"[a-z]+|[^a-z\s]", text_of_datasets().lower())
        often = {word for word in words if words.count(word) >= 3}
        return [word if word in often else "?" for word in words]


class _Transformer(nn.Module):
    """Blocks of attention and an MLP, normalized before."""

    def __init__(self, symbols: int, length: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.embed(x) + self.places
        for block in self.blocks:
            state = block(state)
        return self.head(self.norm(state))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = mlp(width, 4 * width, width, act=nn.GELU)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        rows, length, width = state.shape
        parts = self.attend(self.before(state)).view(rows, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5
        later = torch.ones(length, length, device=state.device).triu(1) * -1e9
        seen = ((scores + later).softmax(-1) @ value).transpose(1, 2).reshape(rows, length, width)
        state = state + self.project(seen)
        return state + self.think(self.after(state))  # type: ignore[no-any-return]


class FineTune(Problem):
    """Digits 5 to 9, from a net that was trained on 0 to 4."""

    batch_size = 16

    def make(self) -> tuple[Pair, Pair]:
        x, y = datasets.load_digits(return_X_y=True)
        small = y < 5
        (old_x, old_y), _ = split(x[small], y[small])
        torch.manual_seed(4)
        before = self._net()
        self._train(before, old_x, old_y)
        self._weights = before.state_dict()
        return split(x[~small], y[~small] - 5)

    def _net(self) -> nn.Module:
        return mlp(64, 64, 64, 5)

    def _train(self, net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for _ in range(150):
            loss = functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def model(self) -> nn.Module:
        net = self._net()
        state = {name: value.clone() for name, value in self._weights.items()}
        last = max(int(name.split(".")[0]) for name in state)
        head = {n: v for n, v in net.state_dict().items() if n.startswith(f"{last}.")}
        net.load_state_dict(state | head)
        return net


class FineTuneWhole(FineTune):
    """The same digits, shifted and noisy, with the old head: little is left to learn."""

    def make(self) -> tuple[Pair, Pair]:
        x, y = datasets.load_digits(return_X_y=True)
        torch.manual_seed(6)
        (seen, labels), _ = split(x, y)
        before = self._net()
        self._train(before, seen, labels)
        self._weights = before.state_dict()
        moved = torch.as_tensor(x, dtype=torch.float32).view(-1, 8, 8).roll(1, 2).flatten(1)
        return split(moved + torch.randn(moved.shape) * 2, y)

    def _net(self) -> nn.Module:
        return mlp(64, 48, 48, 10)

    def model(self) -> nn.Module:
        net = self._net()
        net.load_state_dict({name: value.clone() for name, value in self._weights.items()})
        return net
