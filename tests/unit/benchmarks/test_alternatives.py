"""What a search is weighed against does what its authors say, on a task that takes no time."""

from __future__ import annotations

import pytest
import torch

from benchmarks.search.alternative_tasks import TASKS, LinearTable
from benchmarks.search.alternatives import USUAL, summary
from benchmarks.search.fine_grid import train
from benchmarks.search.rate_free import OPTIMIZERS, _longest_fall, range_test, with_optimizer
from justright.messages import TrialWork
from justright.spec import TaskRef
from justright.task import Task
from worker.training.trainer import TaskTrainer
from worker.user_code.loading import load


def trainer_of(task: Task) -> TaskTrainer:
    trainer = TaskTrainer(task, torch.device("cpu"), threads=1)
    trainer.measure_initial_loss(0)
    return trainer


@pytest.mark.parametrize("way", OPTIMIZERS)
def test_an_optimizer_without_a_rate_trains_a_task_in_its_own_optimizers_place(way: str) -> None:
    chosen = OPTIMIZERS[way]
    trainer = trainer_of(with_optimizer(LinearTable(epochs=8), chosen))
    assert trainer.initial_loss is not None
    assert train(trainer, chosen.lr).best < 0.6 * trainer.initial_loss


def test_an_averaging_optimizer_is_evaluated_at_its_average() -> None:
    chosen = OPTIMIZERS["ScheduleFree AdamW"]
    trainer = trainer_of(with_optimizer(LinearTable(epochs=2, schedule="cosine"), chosen))
    trial = trainer.start(TrialWork(number=0, lr=chosen.lr, seed=0, attempt=1))
    trainer.train_epoch(trial)
    trial.model.train()
    beside = next(trial.model.parameters()).detach().clone()
    trial.model.eval()
    assert not torch.equal(beside, next(trial.model.parameters()))
    assert trainer.task.schedule == "constant", "it replaces schedules"


def test_the_range_test_suggests_a_rate_from_where_the_loss_falls() -> None:
    trainer = trainer_of(LinearTable())
    lr, steps = range_test(trainer, 0)
    assert 10 <= steps <= 100
    assert 1e-5 < lr < 1e-2, "between where nothing moves and where it explodes"
    assert range_test(trainer, 0) == (lr, steps)


def test_the_longest_fall_may_have_bumps() -> None:
    assert _longest_fall([5.0, 4.0, 4.5, 3.0, 2.0, 9.0, 8.0]) == (0, 4)
    assert _longest_fall([1.0]) == (0, 0)


def test_each_task_is_there_and_names_its_optimizer() -> None:
    for target in TASKS.values():
        module, _, name = target.partition(":")
        path = module if module.endswith(".py") else module.replace(".", "/") + ".py"
        task = load(TaskRef(target=f"{path}:{name}"))
        assert isinstance(task, Task)
        assert str(task.optimizer) in USUAL


def test_the_summary_gives_the_mean_and_the_worst_of_each_way() -> None:
    rows = [
        {"task": "a", "way": "x", "regret": 0.1, "full_trainings": 1.0},
        {"task": "b", "way": "x", "regret": 0.3, "full_trainings": 1.0},
        {"task": "a", "way": "y", "regret": -0.1, "full_trainings": 2.0},
    ]
    found = summary(rows)
    assert found["worst"] == {"x": 0.3, "y": -0.1}
    assert found["mean"] == pytest.approx({"x": 0.2, "y": -0.1})
    assert found["rows"] == rows
