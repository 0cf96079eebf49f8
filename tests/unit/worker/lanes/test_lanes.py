"""Lanes: trials trained in one stack compute what each computes alone, by torch.optim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from justright.messages import TrialWork
from justright.spec import TaskRef
from justright.task import Task
from tests.helpers.commands import EXAMPLES
from worker.lanes.lanes import FusedLanes
from worker.lanes.randomness import seed_for
from worker.lanes.trial import TrialTraining
from worker.training.schedules import SCHEDULES
from worker.training.trainer import TaskTrainer
from worker.user_code.loading import load

STEPS = 100
EXAMPLE_NAMES = ("digits.py:Digits", "digits.py:DigitsCNN", "digits.py:DigitsTransformer",
                 "diabetes.py:Diabetes")  # fmt: skip
SANE = (1e-4, 3e-4, 1e-3, 3e-3)  # hotter ones are chaotic here: they amplify any rounding
RATES = (*SANE[:2], 1e6, *SANE[2:])  # one is insane: it must not touch the others
INSANE = 2

Factory = Callable[[Any, float], torch.optim.Optimizer]


def sgd(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def plain_sgd(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr)


def nesterov(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.5, nesterov=True, weight_decay=0.01)


def own_decay(parameters: Any, lr: float) -> torch.optim.Optimizer:
    """Weight decay and momentum of its own for each rate."""
    return torch.optim.SGD(parameters, lr=lr, momentum=min(0.9, lr), weight_decay=lr / 1e8)


def adam(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr)


def adam_l2(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr, weight_decay=0.02, betas=(0.8, 0.95))


def adamw(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr)


def groups(parameters: Any, lr: float) -> torch.optim.Optimizer:
    """No decay for biases, and a head that learns more slowly."""
    several: list[torch.nn.Parameter] = list(parameters)
    flat, matrices = [p for p in several if p.ndim < 2], [p for p in several if p.ndim >= 2]
    two: list[dict[str, Any]] = [
        {"params": flat, "weight_decay": 0.0, "lr": lr / 3},
        {"params": matrices},
    ]
    return torch.optim.AdamW(two, lr=lr)


def amsgrad(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, amsgrad=True)


def rmsprop(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(parameters, lr=lr, momentum=0.5)


COMMON: tuple[Factory, ...] = (sgd, adam, adamw)
OTHERS: tuple[Factory, ...] = (plain_sgd, nesterov, own_decay, adam_l2, groups, amsgrad, rmsprop)


class Double:
    """A task in double precision."""

    def __init__(self, task: Task, optimizer: Factory | None = None) -> None:
        self.task = task
        if optimizer is not None:
            task.optimizer = optimizer
        model, train, held_out = task.model, task.train_data, task.validation_data
        task.model = lambda: model().double()  # type: ignore[method-assign]
        task.train_data = lambda: _double(train())  # type: ignore[method-assign]
        task.validation_data = lambda: _double(held_out())  # type: ignore[method-assign]


def _double(data: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(part.double() if part.is_floating_point() else part for part in data)


def trainer_of(name: str, optimizer: Factory | None = None, **settings: Any) -> TaskTrainer:
    task = load(TaskRef(target=f"{EXAMPLES}/{name}", arguments=settings))
    assert isinstance(task, Task)
    trainer = TaskTrainer(Double(task, optimizer).task, torch.device("cpu"))
    torch.set_num_threads(1)
    return trainer


def works(rates: Sequence[float] = RATES, **params: Any) -> list[TrialWork]:
    return [
        TrialWork(number=n, lr=lr, seed=7, attempt=1, params=params) for n, lr in enumerate(rates)
    ]


def alone(trainer: TaskTrainer, work: TrialWork, steps: int = STEPS) -> list[float]:
    """The losses of a training as anybody would write it, with torch.optim."""
    task = trainer.task
    trial = trainer.start(work)
    model, optimizer = trial.model, trial.optimizer
    names = work.params.get("schedule", task.schedule)
    bases = [group["lr"] for group in optimizer.param_groups]
    per_epoch, epoch = len(trainer._train), 0
    losses: list[float] = []
    model.train()
    while len(losses) < steps:
        seed_for(work.seed, epoch + 1)
        for inputs, targets in trainer._train:
            done = len(losses) / (trainer.epochs * per_epoch)
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base * SCHEDULES[str(names)](done)
            optimizer.zero_grad()
            loss = task.loss(model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            if task.clip_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), task.clip_grad_norm)
            optimizer.step()
            losses.append(float(loss.detach()))
            if len(losses) == steps:
                break
        epoch += 1
    return losses


def together(
    trainer: TaskTrainer,
    trials: Sequence[TrialTraining],
    steps: int = STEPS,
    leave: dict[int, int] | None = None,
) -> dict[int, list[float]]:
    """The losses of lanes by trial number; ``leave``: who leaves before which step."""
    lanes = trainer.lanes(trials)
    assert isinstance(lanes, FusedLanes) or len(trials) == 1
    lanes.train(True)
    found: dict[int, list[float]] = {trial.work.number: [] for trial in trials}
    per_epoch, done, epoch = len(trainer._train), 0, 0
    while done < steps:
        seed_for(trials[0].work.seed, epoch + 1)
        for inputs, targets in trainer._train:
            gone = (leave or {}).get(done)
            if gone is not None:
                lanes.keep([t for t in lanes.trials if t.work.number != gone])
            losses = lanes.step(inputs, targets, done / (trainer.epochs * per_epoch))
            for trial, loss in lanes.by_trial(losses):
                found[trial.work.number].append(float(loss))
            done += 1
            if done == steps:
                break
        epoch += 1
    return found


def assert_equal_trainings(trainer: TaskTrainer, found: dict[int, list[float]]) -> None:
    """All as alone; the insane lane at its beginning, before it has amplified its rounding."""
    for work in works():
        losses, expected = found[work.number], alone(trainer, work)
        if work.number == INSANE:
            assert_equal_losses(losses[:2], expected[:2])
        else:
            assert_equal_losses(losses, expected)


def assert_equal_losses(found: list[float], expected: list[float], relative: float = 1e-10) -> None:
    """Equal as far as both are finite, and neither goes on where the other is not."""
    ours, theirs = (torch.tensor(x, dtype=torch.float64) for x in (found, expected))
    assert len(ours) <= len(theirs)
    theirs = theirs[: len(ours)]
    assert torch.equal(torch.isfinite(ours), torch.isfinite(theirs))
    fine = torch.isfinite(ours)
    assert torch.allclose(ours[fine], theirs[fine], rtol=relative, atol=relative)


@pytest.mark.parametrize("optimizer", COMMON, ids=lambda of: of.__name__)
@pytest.mark.parametrize("example", EXAMPLE_NAMES)
def test_lanes_equal_separate_trainings(example: str, optimizer: Factory) -> None:
    trainer = trainer_of(example, optimizer)
    found = together(trainer, [trainer.start(work) for work in works()])
    assert_equal_trainings(trainer, found)
    assert found[4][-1] < 0.95 * found[4][0]  # or nothing was compared


@pytest.mark.parametrize("example", EXAMPLE_NAMES)
def test_lanes_that_leave_change_nothing_for_the_others(example: str) -> None:
    trainer = trainer_of(example, adamw)
    trials = [trainer.start(work) for work in works()]
    found = together(trainer, trials, leave={13: 2, 40: 0, 41: 3, 60: 4})
    assert [len(losses) for losses in found.values()] == [40, 100, 13, 41, 60]
    assert_equal_trainings(trainer, found)


@pytest.mark.parametrize("optimizer", OTHERS, ids=lambda of: of.__name__)
def test_other_optimizers_in_lanes(optimizer: Factory) -> None:
    trainer = trainer_of("digits.py:Digits", optimizer)
    found = together(trainer, [trainer.start(work) for work in works()])
    assert_equal_trainings(trainer, found)


@pytest.mark.parametrize("optimizer", COMMON, ids=lambda of: of.__name__)
def test_gradients_are_clipped_by_lane(optimizer: Factory) -> None:
    trainer = trainer_of("digits.py:DigitsCNN", optimizer, clip_grad_norm=0.3)
    found = together(trainer, [trainer.start(work) for work in works()])
    assert_equal_trainings(trainer, found)
    free = trainer_of("digits.py:DigitsCNN", optimizer)
    assert alone(free, works()[1]) != alone(trainer, works()[1])


def test_each_lane_has_its_own_schedule() -> None:
    trainer = trainer_of("digits.py:Digits", sgd, epochs=5)
    several = [
        TrialWork(number=n, lr=0.1, seed=0, attempt=1, params={"schedule": name})
        for n, name in enumerate(SCHEDULES)
    ]
    found = together(trainer, [trainer.start(work) for work in several], 95)
    for work in several:
        assert_equal_losses(found[work.number], alone(trainer, work, 95))
    assert len({tuple(losses) for losses in found.values()}) == len(SCHEDULES)
