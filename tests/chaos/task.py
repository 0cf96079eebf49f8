"""What is trained under chaos: small, slow enough to be hit, the same losses in every run."""

from __future__ import annotations

import time

import torch

import justright

BATCHES = 8
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
