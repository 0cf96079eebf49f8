"""The learning rate of examples/digits.py:Digits, found as people write it without justright.

Optuna in one process: TPE, MedianPruner, a plain PyTorch loop. Model, data, optimizer, epochs and
range are those of the example; the loss of a trial is its lowest validation loss, as there.

    python benchmarks/scripts/optuna_digits.py [--index-batches] [--threads N] [--grid N]

prints one line of JSON. ``--grid N`` trains N rates, evenly spread, to the end instead.
``--index-batches`` takes batches by indexing the tensors, which is quicker than a DataLoader for
data as small as this; ``--threads 1`` is quicker for a model as small as this. Few people think of
either.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator

import optuna
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 30
BATCH_SIZE = 64
TRIALS = 30
LR = (1e-6, 10.0)

Batch = tuple[torch.Tensor, torch.Tensor]
epochs_trained = 0


class IndexBatches:
    """Shuffled batches of two tensors, without the work of a DataLoader."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.inputs))
        for at in range(0, len(order), BATCH_SIZE):
            rows = order[at : at + BATCH_SIZE]
            yield self.inputs[rows], self.targets[rows]


def load_data(index_batches: bool) -> tuple[Iterable[Batch], Iterable[Batch]]:
    """Training and validation batches; the validation data is one batch."""
    pixels, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    inputs = torch.tensor(pixels, dtype=torch.float32)[order] / 16
    targets = torch.tensor(classes)[order]
    train, validation = (inputs[:1200], targets[:1200]), (inputs[1200:], targets[1200:])
    if index_batches:
        return IndexBatches(*train), [validation]
    return (
        DataLoader(TensorDataset(*train), batch_size=BATCH_SIZE, shuffle=True),
        DataLoader(TensorDataset(*validation), batch_size=1024),
    )


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def loss_of(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(output, targets, label_smoothing=0.1)


def validate(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The mean validation loss."""
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for inputs, targets in batches:
            total += loss_of(model(inputs), targets).item() * len(targets)
            count += len(targets)
    return total / count


def train(trial: optuna.Trial, training: Iterable[Batch], validation: Iterable[Batch]) -> float:
    """The objective."""
    global epochs_trained
    lr = trial.suggest_float("lr", *LR, log=True)
    torch.manual_seed(0)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    best = math.inf
    for epoch in range(EPOCHS):
        model.train()
        for inputs, targets in training:
            optimizer.zero_grad()
            loss_of(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        epochs_trained += 1
        loss = validate(model, validation)
        if not math.isfinite(loss):
            raise optuna.TrialPruned
        best = min(best, loss)
        trial.report(loss, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return best


def grid(count: int) -> list[float]:
    """Rates evenly spread on the log scale, ends included."""
    low, high = LR
    return [low * (high / low) ** (i / (count - 1)) for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--index-batches", action="store_true")
    parser.add_argument("--threads", type=int, help="of torch [its own choice]")
    parser.add_argument("--grid", type=int, default=0, metavar="N", help="train N rates to the end")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    training, validation = load_data(arguments.index_batches)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(seed=0)
    pruner: optuna.pruners.BasePruner = optuna.pruners.MedianPruner()
    if arguments.grid:
        sampler = optuna.samplers.GridSampler({"lr": grid(arguments.grid)}, seed=0)
        pruner = optuna.pruners.NopPruner()
    study = optuna.create_study(sampler=sampler, pruner=pruner)
    trials = arguments.grid or TRIALS
    study.optimize(lambda trial: train(trial, training, validation), n_trials=trials)
    answer = {"best_lr": study.best_params["lr"], "loss": study.best_value}
    print(json.dumps(answer | {"epochs": epochs_trained}))


if __name__ == "__main__":
    main()
