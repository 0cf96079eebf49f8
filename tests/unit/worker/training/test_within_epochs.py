"""Trainings that stop within an epoch: what they report, and that stopping changes nothing.

Ten random marks of each training are places where it is saved as bytes, taken up by a new trial in
a process whose generators stand elsewhere, and trained on.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import justright
from benchmarks.search.language_problems import language_model
from justright.errors import TaskError
from justright.messages import TrialWork
from worker.lanes.trial import TrialTraining
from worker.training.trainer import TaskTrainer

CPU = torch.device("cpu")
_TORCH = torch.Generator().manual_seed(5)
INPUTS = torch.randn(180, 64, generator=_TORCH)
TARGETS = torch.randint(5, (180,), generator=_TORCH)
RATES = (0.003, 0.01, 0.03)

Losses = list[tuple[int, float | None, float | None]]


class Mlp(justright.Task):
    epochs = 3
    batch_size = 8
    optimizer = "sgd"

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5))

    def train_data(self) -> Any:
        return INPUTS[:140], TARGETS[:140]

    def validation_data(self) -> Any:
        return INPUTS[140:], TARGETS[140:]


class Cnn(Mlp):
    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(256, 5),
        )


class Transformer(Mlp):
    """Tells the next token at each place."""

    def model(self) -> nn.Module:
        return language_model(9, 12, width=8, layers=1)

    def _tokens(self) -> torch.Tensor:
        return torch.randint(9, (180, 13), generator=torch.Generator().manual_seed(1))

    def train_data(self) -> Any:
        return self._tokens()[:140, :-1], self._tokens()[:140, 1:]

    def validation_data(self) -> Any:
        return self._tokens()[140:, :-1], self._tokens()[140:, 1:]

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


class Loaded(Mlp):
    """By a DataLoader with worker processes."""

    epochs = 1

    def train_data(self) -> Any:
        data = TensorDataset(INPUTS[:140], TARGETS[:140])
        return DataLoader(data, batch_size=8, shuffle=True, num_workers=2)


class Stream(IterableDataset[Any]):
    """Samples without an end that anybody knows, in another order with each seed."""

    def __iter__(self) -> Iterator[Any]:
        for row in torch.randperm(140)[:100]:
            yield INPUTS[row], TARGETS[row]


class Streamed(Mlp):
    steps: int | None = 40

    def train_data(self) -> Any:
        return Stream()


KINDS = [Mlp, Cnn, Transformer, Loaded, Streamed]


def work(number: int, lr: float) -> TrialWork:
    return TrialWork(number=number, lr=lr, seed=3, attempt=1)


def trainer_of(kind: type[Mlp], optimizer: str) -> TaskTrainer:
    trainer = TaskTrainer(kind(optimizer=optimizer), CPU, threads=1)
    trainer.measure_initial_loss(3)
    return trainer


def stirred(trainer: TaskTrainer, trial: TrialTraining) -> TrialTraining:
    """The trial as another process takes it up."""
    packed = io.BytesIO()
    torch.save(trial.state(), packed)
    for generator in (random, np.random):
        generator.seed(99)
    torch.manual_seed(99)
    trainer.drop_stack()
    again = trainer.start(trial.work)
    again.restore(torch.load(io.BytesIO(packed.getvalue()), weights_only=False))
    return again


def train(
    trainer: TaskTrainer, rates: tuple[float, ...], stops: frozenset[int] = frozenset()
) -> list[Losses]:
    """The losses of these rates, side by side, and what each has at every mark."""
    trials = [trainer.start(work(number, lr)) for number, lr in enumerate(rates)]
    found: list[Losses] = [[] for _ in rates]
    for mark in trainer.horizon.marks:
        results = trainer.train_together(trials, mark, lambda: False)
        assert results is not None
        for result in results:
            losses = (result.step, result.loss, result.train_loss)
            found[result.trial.work.number].append(losses)
        if mark in stops:
            trials = [stirred(trainer, trial) for trial in trials]
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("rates", [RATES[:1], RATES], ids=["alone", "lanes"])
def test_a_pause_at_ten_random_steps_changes_no_bit(
    kind: type[Mlp], optimizer: str, rates: tuple[float, ...]
) -> None:
    trainer = trainer_of(kind, optimizer)
    marks = trainer.horizon.marks
    stops = random.Random(7).sample(marks[:-1], min(10, len(marks) - 1))
    straight = train(trainer, rates)
    assert train(trainer, rates, frozenset(stops)) == straight
    assert [step for step, *_ in straight[0]] == list(marks)
    assert sum(loss is not None for _, loss, _ in straight[0]) == len(marks)


@pytest.mark.parametrize("kind", [Mlp, Cnn, Streamed])
def test_where_losses_are_taken_changes_nothing_at_the_end(kind: type[Mlp]) -> None:
    trainer = trainer_of(kind, "adamw")
    often = train(trainer, RATES[:1])[0][-1]
    alone = trainer.start(work(0, RATES[0]))
    results = trainer.train_together([alone], trainer.steps, lambda: False)
    assert results is not None
    assert results[0].loss == often[1]


def test_a_look_on_the_way_costs_little_and_lies_near_the_whole() -> None:
    task = Mlp(epochs=1)
    trainer = TaskTrainer(task, CPU, threads=1)
    trainer.measure_initial_loss(3)
    assert trainer.held_out is not None
    assert trainer.held_out.looks_at == 32
    lanes = trainer.lanes([trainer.start(work(0, 0.01))])
    part = trainer.held_out.losses(lanes, 3, trainer.alive)
    assert float(part) == pytest.approx(trainer.initial_loss, rel=1e-5)


def test_data_without_a_length_need_steps() -> None:
    class Epochs(Streamed):
        steps = None

    with pytest.raises(TaskError, match=r"Set steps = N in the task"):
        TaskTrainer(Epochs(), CPU)


def test_a_training_has_one_length() -> None:
    class Both(justright.Task):
        epochs, steps = 3, 40
        model, train_data = Mlp.model, Mlp.train_data

    with pytest.raises(TaskError, match=r"Both sets both epochs = 3 and steps = 40"):
        TaskTrainer(Both(), CPU)


def test_marks_that_are_one_step_of_a_large_batch() -> None:
    """In batches of 70 samples there are two steps in an epoch, where the study has 18."""
    trainer = trainer_of(Mlp, "sgd")
    trial = trainer.start(work(0, 0.01).model_copy(update={"params": {"batch_size": 70}}))
    for mark in (2, 4, 5, 54):
        results = trainer.train_together([trial], mark, lambda: False)
        assert results is not None
        assert results[0].loss is not None
        assert trial.mark == mark
    assert trial.step == 6
