"""Half precision, loss scaling by trial, deterministic algorithms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from justright.errors import TaskError
from justright.messages import TrialWork
from justright.spec import TaskRef
from justright.task import Task
from tests.helpers.commands import EXAMPLES
from worker.lanes.loss_scale import LossScale, factors, unscale
from worker.lanes.trial import TrialTraining
from worker.training.trainer import TaskTrainer
from worker.user_code.loading import load

CPU = torch.device("cpu")
RATES = (1e-3, 3e-3, 1e-2)


def trainer_of(name: str = "digits.py:Digits", **settings: Any) -> TaskTrainer:
    task = load(TaskRef(target=f"{EXAMPLES}/{name}", arguments=settings))
    assert isinstance(task, Task)
    return TaskTrainer(task, CPU, threads=1)


def trials_of(trainer: TaskTrainer) -> list[TrialTraining]:
    works = (TrialWork(number=n, lr=lr, seed=1, attempt=1) for n, lr in enumerate(RATES))
    return [trainer.start(work) for work in works]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_in_lanes_and_alone(precision: str) -> None:
    check_precision("digits.py:Digits", precision)


def check_precision(name: str, precision: str) -> None:
    """Close to each other as rounding allows, close to full precision, and not the same as it."""
    size = {"channels": 4} if name.endswith("CNN") else {}
    trainer = trainer_of(name, precision=precision, epochs=2, **size)
    fused = trainer.train_lanes(trainer.lanes(trials_of(trainer)))
    alone = [trainer.train_epoch(trial) for trial in trials_of(trainer)]
    full = trainer_of(name, epochs=2, **size)
    exact = [full.train_epoch(trial) for trial in trials_of(full)]
    for ours, own, expected in zip(fused or (), alone, exact, strict=True):
        assert own is not None
        assert expected is not None
        assert ours.loss == pytest.approx(own.loss, rel=0.1)
        assert ours.loss == pytest.approx(expected.loss, rel=0.1)
        assert own.loss != expected.loss


def test_each_lane_has_a_loss_scale_of_its_own() -> None:
    """One whose gradients overflow leaves out its step; the others do theirs."""
    trainer = trainer_of(precision="fp16")
    trials = trials_of(trainer)
    trials[1].scale = LossScale(factor=1e30)
    before = [trial.model[0].weight.detach().clone() for trial in trials]  # type: ignore[index]
    lanes = trainer.lanes(trials)
    lanes.step(*next(iter(trainer.training_batches)), 0.0)
    moved = [
        not torch.equal(trial.model[0].weight, old)  # type: ignore[index]
        for trial, old in zip(trials, before, strict=True)
    ]
    assert moved == [True, False, True]
    assert [trial.scale for trial in trials] == [
        LossScale(65536.0, 1), LossScale(5e29, 0), LossScale(65536.0, 1)
    ]  # fmt: skip


def test_the_loss_scale_doubles_after_a_long_row_and_halves_at_once() -> None:
    scale = LossScale(factor=8.0)
    for _ in range(1999):
        scale.update(True)
    assert scale.factor == 8
    scale.update(True)
    assert (scale.factor, scale.good) == (16, 0)
    scale.update(False)
    assert (scale.factor, scale.good) == (8, 0)


def test_gradients_are_divided_by_their_own_factor() -> None:
    scales = [LossScale(2.0), LossScale(4.0), LossScale(8.0)]
    assert factors(scales, CPU).tolist() == [2, 4, 8]
    grads = [torch.full((3, 2), 8.0), None, torch.full((3, 1, 1), 16.0)]
    assert grads[0] is not None
    grads[0][1, 0] = math.nan
    assert unscale(scales, grads) == [1]
    assert grads[0][0].tolist() == [4, 4]
    assert grads[0][2].tolist() == [1, 1]
    assert grads[2] is not None
    assert grads[2].flatten().tolist() == [8, 4, 2]


def test_the_loss_scale_is_part_of_a_checkpoint() -> None:
    trainer = trainer_of(precision="fp16")
    trial = trials_of(trainer)[0]
    trial.scale = LossScale(128.0, 7)
    state = trial.state()
    again = trials_of(trainer)[0]
    again.restore(state)
    assert again.scale == LossScale(128.0, 7)


def test_a_precision_that_there_is_not() -> None:
    with pytest.raises(TaskError, match="precision = 'int4', expected one of float32, bf16, fp16"):
        trainer_of(precision="int4")


@pytest.fixture
def forgiving() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("forgiving")
def test_deterministic_mode_refuses_what_is_not_and_ends_with_its_task() -> None:
    trainer_of(deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    trainer_of()
    assert not torch.are_deterministic_algorithms_enabled()
