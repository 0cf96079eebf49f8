"""TaskTrainer: repeatable to the bit, equal to a plain torch loop, its schedules those of torch."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from justright.messages import TrialWork
from justright.task import Task
from worker.training.schedules import SCHEDULES, schedule
from worker.training.trainer import Taken, TaskTrainer

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(5)
INPUTS = torch.randn(50, 4, generator=GENERATOR)
TARGETS = (INPUTS.sum(dim=1) > 0).long()


class Small(Task):
    """Two classes of 50 points, with dropout, so that a training draws random numbers."""

    epochs = 3
    batch_size = 16

    def model(self) -> torch.nn.Module:
        nn = torch.nn
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))

    def train_data(self) -> Any:
        return INPUTS, TARGETS

    def validation_data(self) -> Any:
        return INPUTS[:20], TARGETS[:20]


class FromDataset(Small):
    def train_data(self) -> Any:
        return TensorDataset(INPUTS, TARGETS)


class FromAugmentedDataset(Small):
    """A Dataset that adds noise from each of the three sources of randomness."""

    def train_data(self) -> Any:
        class Noisy(Dataset[Any]):
            def __len__(self) -> int:
                return len(INPUTS)

            def __getitem__(self, row: int) -> Any:
                noise = random.random() + float(np.random.rand()) + float(torch.rand(()))
                return INPUTS[row] + 0.1 * noise, TARGETS[row]

        return Noisy()


class FromLoader(Small):
    def train_data(self) -> Any:
        return DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=16, shuffle=True)


class FromLoaderWithGenerator(Small):
    """As torch's page on reproducibility advises: the loader has a generator of its own."""

    def train_data(self) -> Any:
        own = torch.Generator().manual_seed(0)
        data = TensorDataset(INPUTS, TARGETS)
        return DataLoader(data, batch_size=16, shuffle=True, generator=own)


def work(number: int = 0, lr: float = 0.1, seed: int = 0, **params: Any) -> TrialWork:
    return TrialWork(number=number, lr=lr, seed=seed, attempt=1, params=params)


def train(trainer: TaskTrainer, of: TrialWork) -> list[Taken]:
    assert trainer.epochs is not None
    trial = trainer.start(of)
    return [trainer.train_epoch(trial) for _ in range(trainer.epochs)]


def losses(results: list[Taken]) -> list[tuple[float | None, float | None]]:
    return [(result.loss, result.train_loss) for result in results]


# -- repeatable --------------------------------------------------------------------------------

WORKS = [work(0, 0.05), work(1, 0.5), work(2, 0.05, seed=1)]


@pytest.mark.parametrize(
    "task", [Small, FromDataset, FromAugmentedDataset, FromLoader, FromLoaderWithGenerator]
)
def test_a_trial_does_not_depend_on_what_was_trained_before(task: type[Task]) -> None:
    alone = [losses(train(TaskTrainer(task(), CPU), of)) for of in WORKS]
    assert alone[0] != alone[1], "the rate matters"
    assert alone[0] != alone[2], "the seed matters"
    trainer = TaskTrainer(task(), CPU)
    trainer.inspect(seed=7)
    assert [losses(train(trainer, of)) for of in reversed(WORKS)] == alone[::-1]

    trials = [trainer.start(of) for of in WORKS]
    side_by_side: list[list[Taken]] = [[] for _ in WORKS]
    assert trainer.epochs is not None
    for _ in range(trainer.epochs):
        for trial, results in zip(trials, side_by_side, strict=True):
            torch.rand(3), random.random(), np.random.rand()  # others draw numbers in between
            results.append(trainer.train_epoch(trial))
    assert [losses(results) for results in side_by_side] == alone


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "callable": lambda parameters, lr: torch.optim.RMSprop(parameters, lr=lr, alpha=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equal_to_a_plain_torch_loop(name: str) -> None:
    task = Small(optimizer=OPTIMIZERS[name] if name == "callable" else name, schedule="cosine")
    trainer = TaskTrainer(task, CPU)
    trial = trainer.start(work(lr=0.02, seed=3))
    found = [trainer.train_epoch(trial) for _ in range(3)]

    def seed(epoch: int) -> None:
        torch.manual_seed(3 * 1_000_003 + epoch)

    seed(0)
    model = task.model()
    optimizer = OPTIMIZERS[name](model.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3 * 4)
    for epoch in range(3):
        seed(epoch + 1)
        model.train()
        summed = 0.0
        batches = torch.split(torch.randperm(50), 16)
        for rows in batches:
            loss = torch.nn.functional.cross_entropy(model(INPUTS[rows]), TARGETS[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            summed += loss.item() * len(rows)
        model.eval()
        with torch.no_grad():
            held_out = torch.nn.functional.cross_entropy(model(INPUTS[:20]), TARGETS[:20])
        assert found[epoch].step == (epoch + 1) * len(batches)
        assert found[epoch].train_loss == pytest.approx(summed / 50, rel=1e-5)
        assert found[epoch].loss == pytest.approx(held_out.item(), rel=1e-5)
    for ours, plain in zip(trial.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


# -- optimizers and schedules ------------------------------------------------------------------


class Recorder(torch.optim.SGD):
    """Keeps the rates of its parameter groups at every step."""

    def __init__(self, parameters: Any, lr: float) -> None:
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim < 2], "lr": lr / 10},
        ]
        super().__init__(groups, lr=lr)
        self.rates: list[tuple[float, float]] = []

    def step(self, closure: Any = None) -> Any:
        self.rates.append((self.param_groups[0]["lr"], self.param_groups[1]["lr"]))
        return super().step(closure)


class WithFunction(Small):
    """A function written in the class body, as in the documentation's example."""

    def optimizer(parameters: Any, lr: float) -> Any:  # type: ignore[override]
        return Recorder(parameters, lr)


@pytest.mark.parametrize("task", [Small(optimizer=Recorder), WithFunction()])
def test_every_group_follows_the_schedule_at_every_batch(task: Task) -> None:
    trainer = TaskTrainer(task, CPU)
    trial = trainer.start(work(lr=0.4, schedule="linear"))
    for _ in range(3):
        trainer.train_epoch(trial)
    assert isinstance(trial.optimizer, Recorder)
    expected = [0.4 * (1 - step / 12) for step in range(12)]
    assert [rates[0] for rates in trial.optimizer.rates] == pytest.approx(expected)
    assert [rates[1] for rates in trial.optimizer.rates] == pytest.approx(
        [rate / 10 for rate in expected]
    )


def torch_schedule(name: str, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    known: Any = torch.optim.lr_scheduler
    return {
        "constant": lambda: known.ConstantLR(optimizer, factor=1.0),
        "linear": lambda: known.LinearLR(optimizer, 1.0, 0.0, total_iters=steps),
        "cosine": lambda: known.CosineAnnealingLR(optimizer, T_max=steps),
        "step": lambda: known.MultiStepLR(optimizer, [steps // 2, steps * 3 // 4], gamma=0.1),
        "onecycle": lambda: known.OneCycleLR(optimizer, 1.0, total_steps=steps),
    }[name]()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_that_of_torch(name: str) -> None:
    steps = 2000
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = torch_schedule(name, optimizer, steps)
    # torch's one-cycle counts its legs from step to step, not from 0 to 1: off by one of them.
    tolerance = 3 / steps if name == "onecycle" else 1e-9
    for step in range(steps):
        rate = optimizer.param_groups[0]["lr"]
        assert schedule(name)(step / steps) == pytest.approx(rate, abs=tolerance), step
        optimizer.step()
        if step < steps - 1:
            scheduler.step()


def test_a_task_may_leave_its_schedule_to_the_study() -> None:
    trainer = TaskTrainer(Small(schedule="search"), CPU)
    assert trainer.search_schedule
    assert trainer.inspect(seed=0)["schedule"] == "constant"  # until the study says another
    found = [losses(train(trainer, work(schedule=name))) for name in SCHEDULES]
    assert found[0] == losses(train(TaskTrainer(Small(), CPU), work()))
    assert len({str(each) for each in found}) == len(SCHEDULES)
