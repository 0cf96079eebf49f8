"""What is trained under chaos: small, slow enough to be hit, the same losses in every run."""

from __future__ import annotations

import json
import time

import torch

import justright

BATCHES = 8
_SLEEP = time.sleep
RAISES = (0.2, 0.5)  #: Rates in this band raise in the user's own code.


def _optimizer(parameters: object, lr: float) -> torch.optim.Optimizer:
    if RAISES[0] < lr < RAISES[1]:
        raise ArithmeticError(f"no training at {lr:.3g}")
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)  # type: ignore[arg-type]


class Tiny(justright.Task):
    """A regression with dropout, so that randomness has to be restored as well."""

    epochs = 6
    batch_size = 32
    optimizer = staticmethod(_optimizer)
    schedule = "cosine"
    pause = 0.08  #: seconds that each batch takes

    def model(self) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1)
        )

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(32 * BATCHES, 8, generator=generator)
        return inputs, inputs.sin().sum(1, keepdim=True)

    def validation_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = self.train_data()
        return inputs[:64] + 0.1, targets[:64]

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if output.requires_grad:
            time.sleep(self.pause)
        return torch.nn.functional.mse_loss(output, target)


class Hangs(Tiny):
    """Gives no sign of life once it trains."""

    epochs = 60
    pause = 0.05

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if output.requires_grad and self._trains():
            while True:
                time.sleep(60)
        return super().loss(output, target)

    def _trains(self) -> bool:
        """Whether this is more than a look at the task, which trains a few batches."""
        self.batches = getattr(self, "batches", 0) + 1
        return self.batches > 60


class Breaks(Hangs):
    """Spoils what its process needs to speak, then hangs."""

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if output.requires_grad and self._trains():
            json.dumps = json.loads = lambda *_, **__: None  # type: ignore[assignment]
            while True:
                _SLEEP(60)
        return Tiny.loss(self, output, target)


class Huge(Tiny):
    """Losses that no square of them fits into a float."""

    pause = 0.0
    scale = 1e200

    def model(self) -> torch.nn.Module:
        return super().model().double()

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = super().train_data()
        return inputs.double(), targets.double()

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().loss(output, target) * self.scale


class Tiniest(Huge):
    """Losses that vanish when they are squared."""

    scale = 1e-300
