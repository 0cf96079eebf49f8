"""What is searched beside the rate, against plain torch: alone, in lanes, and from a checkpoint."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from justright.errors import TaskError
from justright.messages import TrialWork
from justright.task import Task
from worker.lanes.randomness import seed_for
from worker.training.schedules import SCHEDULES, schedule
from worker.training.trainer import TaskTrainer

EPOCHS, SAMPLES = 3, 96
SETTINGS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.3},
    {"momentum": 0.5},
    {"momentum": 0.0, "weight_decay": 0.01},
    {"warmup": 0.25},
    {"schedule": "cosine", "warmup": 0.4, "momentum": 0.8, "weight_decay": 0.1},
    {"batch_size": 24},
    {"batch_size": 96, "schedule": "linear"},
]


class Small(Task):
    epochs = EPOCHS
    batch_size = 32

    def model(self) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
        ).double()

    def train_data(self) -> Any:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(SAMPLES, 5, generator=generator).double()
        return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5)


def trainer_of(**settings: Any) -> TaskTrainer:
    torch.set_num_threads(1)
    return TaskTrainer(Small(**settings), torch.device("cpu"))


def work(params: dict[str, Any], number: int = 0, lr: float = 0.02) -> TrialWork:
    return TrialWork(number=number, lr=lr, seed=3, attempt=1, params=params)


def by_hand(optimizer: str, params: dict[str, Any], lr: float = 0.02) -> list[float]:
    """The mean training loss of each epoch, as anybody would write it."""
    task = Small()
    seed_for(3, 0)
    model = task.model()
    momentum, decay = params.get("momentum", 0.9), params.get("weight_decay")
    made: torch.optim.Optimizer
    if optimizer == "sgd":
        made = torch.optim.SGD(model.parameters(), lr, momentum=momentum, weight_decay=decay or 0)
    else:
        usual = 0.01 if optimizer == "adamw" else 0.0
        kind = torch.optim.AdamW if optimizer == "adamw" else torch.optim.Adam
        decay = usual if decay is None else decay
        made = kind(model.parameters(), lr, betas=(momentum, 0.999), weight_decay=decay)
    x, y = task.train_data()
    size = params.get("batch_size", 32)
    total = EPOCHS * SAMPLES // size
    rise = params.get("warmup", 0.0) * total
    after = SCHEDULES[params.get("schedule", "constant")]
    losses, done = [], 0
    for epoch in range(EPOCHS):
        seed_for(3, epoch + 1)
        order, summed = torch.randperm(SAMPLES), 0.0
        for at in range(0, SAMPLES, size):
            factor = done / rise if done < rise else after((done - rise) / (total - rise))
            for group in made.param_groups:
                group["lr"] = lr * factor
            rows = order[at : at + size]
            made.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            made.step()
            summed, done = summed + float(loss.detach()) * len(rows), done + 1
        losses.append(summed / SAMPLES)
    return losses


def trained(trainer: TaskTrainer, params: dict[str, Any]) -> list[float | None]:
    trial = trainer.start(work(params))
    results = [trainer.train_epoch(trial) for _ in range(EPOCHS)]
    return [result.train_loss for result in results if result is not None]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("params", SETTINGS)
def test_a_trial_has_its_own_settings(optimizer: str, params: dict[str, Any]) -> None:
    expected = by_hand(optimizer, params)
    assert trained(trainer_of(optimizer=optimizer), params) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("params", SETTINGS)
def test_what_the_task_says_is_the_same_as_what_is_searched(params: dict[str, Any]) -> None:
    assert trained(trainer_of(**params), {}) == trained(trainer_of(), params)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_lanes_have_each_their_own(optimizer: str) -> None:
    trainer = trainer_of(optimizer=optimizer)
    alike = [params for params in SETTINGS if "batch_size" not in params]
    trials = [trainer.start(work(params, number)) for number, params in enumerate(alike)]
    lanes = trainer.lanes(trials)
    losses: list[list[float | None]] = [[] for _ in alike]
    for _ in range(EPOCHS):
        results = trainer.train_lanes(lanes)
        assert results is not None
        for result in results:
            losses[result.trial.work.number].append(result.train_loss)
    for params, own in zip(alike, losses, strict=True):
        assert own == pytest.approx(by_hand(optimizer, params), rel=1e-9), params


def test_a_checkpoint_goes_on_with_its_own_settings() -> None:
    params = {"batch_size": 24, "momentum": 0.5, "weight_decay": 0.2, "warmup": 0.5}
    trainer = trainer_of()
    first = trainer.start(work(params))
    trainer.train_epoch(first)
    second = trainer_of().start(work(params))
    second.restore(first.state())
    result = trainer.train_epoch(second)
    assert result is not None
    assert result.train_loss == pytest.approx(by_hand("sgd", params)[1], rel=1e-10)


def test_the_same_data_are_not_copied() -> None:
    batches = trainer_of().training_batches
    small = batches.of_size(8)
    assert len(small) == SAMPLES // 8
    assert small._inputs.data_ptr() == batches._inputs.data_ptr()  # type: ignore[attr-defined]


def exempting(parameters: Any, lr: float) -> torch.optim.Optimizer:
    every = list(parameters)
    groups = [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in every if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr)


def test_groups_without_weight_decay_stay_without() -> None:
    trainer = trainer_of(optimizer=exempting)
    trial = trainer.start(work({"weight_decay": 0.7}))
    assert [group["weight_decay"] for group in trial.optimizer.param_groups] == [0.7, 0.0]
    plain = trainer_of().start(work({"weight_decay": 0.7}))
    assert [group["weight_decay"] for group in plain.optimizer.param_groups] == [0.7]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.0}, "momentum = 1.0, expected a finite number of at least 0 and below 1"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1, expected"),
        ({"weight_decay": math.inf}, "weight_decay = inf, expected"),
        ({"warmup": 1}, "warmup = 1, expected"),
        ({"warmup": "long"}, "warmup = 'long', expected"),
        ({"batch_size": 0}, "batch_size = 0, expected a positive whole number"),
        ({"schedule": "wavy"}, "schedule = 'wavy', expected one of"),
    ],
)
def test_settings_out_of_their_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        trainer_of(**settings).inspect(0)


def adagrad(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, lr=lr)


def rprop(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Rprop(parameters, lr=lr)


def test_an_optimizer_without_the_setting() -> None:
    with pytest.raises(TaskError, match=r"Adagrad, has none\. Leave out --search momentum"):
        trainer_of(optimizer=adagrad).inspect(0, ["momentum"])
    with pytest.raises(TaskError, match="Rprop, has no weight_decay"):
        trainer_of(optimizer=rprop, weight_decay=0.1).inspect(0)
    trainer_of(optimizer=adagrad).inspect(0, ["weight_decay"])


class Loaded(Small):
    def train_data(self) -> Any:
        return DataLoader(TensorDataset(*super().train_data()), batch_size=16)


class AsDataset(Small):
    def train_data(self) -> Any:
        class Pairs(torch.utils.data.Dataset[Any]):
            def __len__(self) -> int:
                return SAMPLES

            def __getitem__(self, at: int) -> Any:
                return tensors[0][at], tensors[1][at]

        tensors = super().train_data()
        return Pairs()


def test_the_batch_size_of_a_loader_is_the_users_own() -> None:
    with pytest.raises(TaskError, match="return the Dataset, or a pair of tensors"):
        TaskTrainer(Loaded(), torch.device("cpu")).inspect(0, ["batch_size"])


def test_a_dataset_comes_in_batches_of_any_size() -> None:
    trainer = TaskTrainer(AsDataset(), torch.device("cpu"))
    trainer.inspect(0, ["batch_size"])
    trial = trainer.start(work({"batch_size": 24}))
    result = trainer.train_epoch(trial)
    assert result is not None
    assert result.train_loss is not None
    assert math.isfinite(result.train_loss)
    assert [len(trainer._train_in(size)) for size in (32, 24)] == [3, 4]


def test_what_is_in_force_is_told() -> None:
    details = trainer_of(optimizer="adamw", warmup=0.1).inspect(0)
    expected = {
        "batch_size": 32,
        "schedule": "constant",
        "warmup": 0.1,
        "weight_decay": 0.01,
        "momentum": 0.9,
        "optimizer": "AdamW",
    }
    assert expected.items() <= details.items()


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "onecycle"])
def test_the_schedule_fills_what_the_warm_up_leaves(name: str) -> None:
    factor = schedule(name, 0.2)
    assert factor(0.0) == 0.0
    assert factor(0.1) == pytest.approx(0.5)
    assert factor(0.2) == pytest.approx(1.0)
    for progress in (0.3, 0.6, 0.9, 0.99):
        assert factor(progress) == pytest.approx(SCHEDULES[name]((progress - 0.2) / 0.8))


def test_onecycle_has_a_warm_up_of_its_own() -> None:
    assert schedule("onecycle", 0.2) is schedule("onecycle")
