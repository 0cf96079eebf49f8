"""Lanes: trials trained in one stack compute what each computes alone, by torch.optim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
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

STEPS = 40  # two epochs and some: each has 19 batches, the last one smaller
# The examples, made small (tests/numerics has them as they are): the same kinds of layer.
SMALL: dict[str, dict[str, Any]] = {
    "digits.py:Digits": {"hidden": 16},
    "digits.py:DigitsCNN": {"channels": 4},
    "digits.py:DigitsTransformer": {"width": 8},
    "diabetes.py:Diabetes": {"hidden": 8},
}
FEW = 300  # as many samples of each
SANE = (1e-4, 3e-4, 1e-3, 3e-3)  # hotter ones are chaotic here: they amplify any rounding
RATES = (*SANE[:2], 1e6, *SANE[2:])  # one is insane: it must not touch the others
INSANE = 2

Factory = Callable[[Any, float], torch.optim.Optimizer]


def sgd(parameters: Any, lr: float) -> torch.optim.Optimizer:
    """At ten times Adam's rates, or it would learn nothing in so few steps."""
    return torch.optim.SGD(parameters, lr=10 * lr, momentum=0.9)


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


def _double(data: Sequence[torch.Tensor], most: int | None = None) -> tuple[torch.Tensor, ...]:
    return tuple(p[:most].double() if p.is_floating_point() else p[:most] for p in data)


def trainer_of(
    name: str, optimizer: Factory, samples: int | None = None, **settings: Any
) -> TaskTrainer:
    """Of an example in double precision, on its first samples."""
    torch.set_num_threads(1)
    task = load(TaskRef(target=f"{EXAMPLES}/{name}", arguments=settings))
    assert isinstance(task, Task)
    task.optimizer = optimizer
    model, train, held_out = task.model, task.train_data, task.validation_data
    task.model = lambda: model().double()  # type: ignore[method-assign]
    task.train_data = lambda: _double(train(), samples)  # type: ignore[method-assign]
    task.validation_data = lambda: _double(held_out())  # type: ignore[method-assign]
    return TaskTrainer(task, torch.device("cpu"))


@cache
def small(name: str, optimizer: Factory, **settings: Any) -> TaskTrainer:
    """Of a small one, of few samples."""
    settings = {**SMALL[name], "batch_size": 16, **settings}
    return trainer_of(name, optimizer, FEW, **settings)


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
    epoch = 0
    losses: list[float] = []
    model.train()
    while len(losses) < steps:
        seed_for(work.seed, epoch + 1)
        for inputs, targets in trainer._train:
            done = len(losses) / trainer.steps
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
    done, epoch = 0, 0
    while done < steps:
        seed_for(trials[0].work.seed, epoch + 1)
        for inputs, targets in trainer._train:
            gone = (leave or {}).get(done)
            if gone is not None:
                lanes.keep([t for t in lanes.trials if t.work.number != gone])
            losses = lanes.step(inputs, targets, done / trainer.steps)
            for trial, loss in lanes.by_trial(losses):
                found[trial.work.number].append(float(loss))
            done += 1
            if done == steps:
                break
        epoch += 1
    return found


@cache
def each_alone(trainer: TaskTrainer, steps: int) -> list[list[float]]:
    return [alone(trainer, work, steps) for work in works()]


def assert_equal_trainings(
    trainer: TaskTrainer, found: dict[int, list[float]], steps: int = STEPS
) -> None:
    """All as alone; the insane lane at its beginning, before it has amplified its rounding."""
    for work, expected in zip(works(), each_alone(trainer, steps), strict=True):
        losses = found[work.number]
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


# The larger models with one optimizer: a gradient is the same whichever uses it.
CASES = [(name, of) for name in ("digits.py:Digits", "diabetes.py:Diabetes") for of in COMMON]
CASES += [("digits.py:DigitsCNN", sgd), ("digits.py:DigitsTransformer", adamw)]


@pytest.mark.parametrize(("example", "optimizer"), CASES)
def test_lanes_equal_separate_trainings(example: str, optimizer: Factory) -> None:
    trainer = small(example, optimizer)
    found = together(trainer, [trainer.start(work) for work in works()])
    assert_equal_trainings(trainer, found)
    assert found[4][-1] < 0.95 * found[4][0]  # or nothing was compared


@pytest.mark.parametrize("example", ["digits.py:Digits", "digits.py:DigitsCNN"])
def test_lanes_that_leave_change_nothing_for_the_others(example: str) -> None:
    check_leaving(example)


def check_leaving(example: str) -> None:
    trainer = small(example, adamw)
    trials = [trainer.start(work) for work in works()]
    found = together(trainer, trials, leave={6: 2, 20: 0, 21: 3, 30: 4})
    assert [len(losses) for losses in found.values()] == [20, 40, 6, 21, 30]
    assert_equal_trainings(trainer, found)


@pytest.mark.parametrize("optimizer", [own_decay, groups])
def test_other_optimizers_in_lanes(optimizer: Factory) -> None:
    trainer = small("digits.py:Digits", optimizer)
    found = together(trainer, [trainer.start(work) for work in works()])
    assert_equal_trainings(trainer, found)


@pytest.mark.parametrize(
    ("example", "optimizer"),
    [("digits.py:Digits", sgd), ("digits.py:DigitsCNN", adamw)],
)
def test_gradients_are_clipped_by_lane(example: str, optimizer: Factory) -> None:
    check_clipping(example, optimizer)


def check_clipping(example: str, optimizer: Factory) -> None:
    trainer = small(example, optimizer, clip_grad_norm=0.3)
    found = together(trainer, [trainer.start(work) for work in works()])
    assert_equal_trainings(trainer, found)
    free = small(example, optimizer)
    assert each_alone(free, STEPS)[1] != each_alone(trainer, STEPS)[1]


def test_each_lane_has_its_own_schedule() -> None:
    trainer = small("digits.py:Digits", sgd, epochs=5)
    several = [
        TrialWork(number=n, lr=0.01, seed=0, attempt=1, params={"schedule": name})
        for n, name in enumerate(SCHEDULES)
    ]
    found = together(trainer, [trainer.start(work) for work in several], 95)
    for work in several:
        assert_equal_losses(found[work.number], alone(trainer, work, 95))
    assert len({tuple(losses) for losses in found.values()}) == len(SCHEDULES)
