"""TaskTrainer: what counts as the loss, divergence in its epoch, a look at the task, its faults."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from justright.errors import TaskError, UserCodeError
from justright.messages import TrialWork
from justright.spec import TaskRef
from justright.task import Task
from tests.helpers.commands import EXAMPLES
from worker.training.trainer import TaskTrainer
from worker.user_code.loading import load

CPU = torch.device("cpu")
INPUTS = torch.randn(64, 4, generator=torch.Generator().manual_seed(5))
TARGETS = INPUTS.sum(dim=1, keepdim=True)


class Line(Task):
    """A regression that plain gradient descent solves below a rate of about 1."""

    epochs = 6
    batch_size = 16
    bad_epoch = 0  #: The epoch in which the loss turns bad; 0: never.
    bad = 1.0

    def model(self) -> torch.nn.Module:
        self.batches = 0
        return torch.nn.Linear(4, 1)

    def optimizer(parameters: Any, lr: float) -> Any:  # type: ignore[override]
        return torch.optim.SGD(parameters, lr=lr)

    def train_data(self) -> Any:
        return INPUTS, TARGETS

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        loss = torch.nn.functional.mse_loss(output, target)
        if torch.is_grad_enabled():
            self.batches += 1
            if self.bad_epoch and self.batches > 4 * (self.bad_epoch - 1):
                return loss * self.bad
        return loss


class HeldOut(Line):
    def validation_data(self) -> Any:
        return 2 * INPUTS, TARGETS


def work(lr: float = 0.05) -> TrialWork:
    return TrialWork(number=0, lr=lr, seed=0, attempt=1)


def trainer_of(task: Task) -> TaskTrainer:
    """A trainer that has looked at its task, as a worker's has before it trains."""
    trainer = TaskTrainer(task, CPU)
    trainer.inspect(seed=0)
    return trainer


# -- the loss ----------------------------------------------------------------------------------


def test_without_validation_data_the_training_loss_is_compared() -> None:
    trainer = trainer_of(Line())
    trial = trainer.start(work())
    untrained = torch.nn.functional.mse_loss(trial.model(INPUTS), TARGETS).item()
    assert trainer.initial_loss == pytest.approx(untrained)
    results = [trainer.train_epoch(trial) for _ in range(6)]
    assert all(result.loss == result.train_loss for result in results)
    assert results[-1].loss is not None
    assert results[-1].loss < 0.5 * untrained
    assert not any(result.diverged for result in results)


def test_with_validation_data_its_loss_is_compared() -> None:
    trainer = trainer_of(HeldOut())
    trial = trainer.start(work())
    result = trainer.train_epoch(trial)
    expected = torch.nn.functional.mse_loss(trial.model(2 * INPUTS), TARGETS).item()
    assert result.loss == pytest.approx(expected)
    assert result.train_loss is not None
    assert result.train_loss != pytest.approx(expected)


def test_validation_touches_nothing() -> None:
    """Not the weights, nor BatchNorm's running statistics, nor dropout's next draw."""
    task = load(TaskRef(target=f"{EXAMPLES / 'digits.py'}:DigitsCNN"))
    assert isinstance(task, Task)
    trainer = TaskTrainer(task, CPU)
    trial = trainer.start(work(1e-3))
    trainer.train_epoch(trial)
    before = {name: value.clone() for name, value in trial.model.state_dict().items()}
    data = trainer.held_out
    assert data is not None
    lanes = trainer.lanes([trial])
    first, second = (data.losses(lanes, trainer.steps, trainer.alive) for _ in range(2))
    assert first == second
    for name, value in trial.model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("task", "optimizer", "batches"),
    [("digits.py:Digits", "SGD", 19), ("digits.py:DigitsCNN", "AdamW", 19),
     ("diabetes.py:Diabetes", "Adam", 11)],
)  # fmt: skip
def test_the_examples_train(task: str, optimizer: str, batches: int) -> None:
    loaded = load(TaskRef(target=f"{EXAMPLES}/{task}"))
    assert isinstance(loaded, Task)
    trainer = TaskTrainer(loaded, CPU)
    details = trainer.inspect(seed=0)
    trial = trainer.start(work(0.01))
    assert details == {
        "device": "cpu",
        "batch_size": loaded.batch_size,
        "momentum": 0.9,
        "warmup": 0.0,
        "weight_decay": 0.01 if optimizer == "AdamW" else 0.0,
        "batches": batches,
        "parameters": sum(parameter.numel() for parameter in trial.model.parameters()),
        "optimizer": optimizer,
        "schedule": "constant",
    }
    results = [trainer.train_epoch(trial) for _ in range(3)]
    assert [result.step for result in results] == [batches, 2 * batches, 3 * batches]
    assert trainer.initial_loss is not None
    assert results[2].loss is not None
    assert results[2].loss < 0.9 * trainer.initial_loss


def test_a_study_may_set_the_horizon() -> None:
    """The schedule ends with the study's horizon, not with the task's."""
    trainer = TaskTrainer(Line(schedule="linear"), CPU, epochs=2)
    trial = trainer.start(work(0.1))
    trainer.train_epoch(trial)
    trainer.train_epoch(trial)
    assert trial.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * (1 - 7 / 8))


# -- divergence --------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [Line, HeldOut])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_noticed_in_its_epoch(task: type[Line], bad: float) -> None:
    trainer = trainer_of(task(bad_epoch=3, bad=bad))
    trial = trainer.start(work())
    results = [trainer.train_epoch(trial) for _ in range(3)]
    assert [result.diverged for result in results[:2]] == ["", ""]
    assert "epoch 3" in results[2].diverged
    assert results[2].loss is None


def test_weights_that_overflow_are_noticed_in_validation() -> None:
    """The last step of an epoch can spoil the weights without spoiling its training loss."""
    trainer = trainer_of(HeldOut())
    trial = trainer.start(work(1e38))
    result = trainer.train_epoch(trial)
    assert result.loss is None
    assert "epoch 1" in result.diverged


def test_a_loss_far_above_the_untrained_one_is_divergence() -> None:
    trainer = trainer_of(Line(divergence_factor=50.0))
    trial = trainer.start(work(1.5))
    assert trainer.initial_loss is not None
    while True:
        result = trainer.train_epoch(trial)
        assert result.loss is not None, "it was let go until it was no number"
        if result.loss > 50 * trainer.initial_loss:
            break
        assert result.diverged == ""
    assert f"epoch {trial.epoch}" in result.diverged
    assert f"{trainer.initial_loss:.3g}" in result.diverged


# -- faults of a task --------------------------------------------------------------------------


class Unreadable(Dataset[Any]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, row: int) -> Any:
        raise FileNotFoundError(f"no picture {row}.png")


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(INPUTS, TARGETS, strict=True))


class Frozen(Line):
    def model(self) -> torch.nn.Module:
        return torch.nn.Linear(4, 1).requires_grad_(False)


class Given(Line):
    """A task with the data that it is given."""

    data: Any = None

    def train_data(self) -> Any:
        return self.data


def test_data_that_cannot_be_read_shows_its_traceback() -> None:
    with pytest.raises(UserCodeError, match=r"no picture \d+\.png") as caught:
        trainer_of(Given(data=Unreadable()))
    assert "in __getitem__" in caught.value.traceback
    assert str(Path(torch.__file__).parent) not in caught.value.traceback


FAULTS: dict[str, tuple[Task, str]] = {
    "optimizer": (Line(optimizer="lion"), "optimizer = 'lion', expected sgd, adam"),
    "no-optimizer": (Line(optimizer=lambda parameters, lr: lr), r"returned a float"),
    "schedule": (Line(schedule="slow"), "schedule = 'slow', expected one of constant"),
    "epochs": (Line(epochs=2.5), "epochs = 2.5, expected a positive whole number"),
    "batch-size": (Line(batch_size=0), "batch_size = 0, expected a positive whole number"),
    "frozen": (Frozen(optimizer="sgd"), "parameter"),
    "stream": (Given(data=Stream()), "train_data"),
    "stream-in-loader": (Given(data=DataLoader(Stream(), batch_size=8)), "train_data"),
    "empty-dataset": (Given(data=TensorDataset(INPUTS[:0], TARGETS[:0], TARGETS[:0])), "train"),
    "triples": (Given(data=TensorDataset(INPUTS, TARGETS, TARGETS)), "list of 3 .* a pair"),
}  # fmt: skip


@pytest.mark.parametrize(("task", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_task_is_worded(task: Task, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        trainer_of(task)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return zip(itertools.cycle(INPUTS), itertools.cycle(TARGETS), strict=False)


class HeldOutStream(Given):
    held: Any = None

    def validation_data(self) -> Any:
        return self.held


@pytest.mark.parametrize("data", [Endless(), DataLoader(Endless(), batch_size=8)])
def test_training_data_may_be_without_an_end(data: Any) -> None:
    assert trainer_of(Given(data=data, steps=5, batch_size=1)).initial_loss is not None
    trainer = trainer_of(Given(data=data, steps=5))
    trainer.inspect(0)
    assert trainer.initial_loss is not None, "of a part of them"
    trial = trainer.start(TrialWork(number=0, lr=1e-3, seed=0, attempt=1))
    result = trainer.train_epoch(trial)
    assert result is not None
    assert result.step == 5
    assert result.loss is not None


def test_held_out_data_must_come_to_an_end() -> None:
    with pytest.raises(TaskError, match="no length, and after 1000 batches no end, where a full"):
        trainer_of(HeldOutStream(data=Endless(), steps=5, held=Endless()))
    ends = trainer_of(HeldOutStream(data=Endless(), steps=5, held=Stream()))
    ends.measure_initial_loss(0)
    assert ends.initial_loss is not None
