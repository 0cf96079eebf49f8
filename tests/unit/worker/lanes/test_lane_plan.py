"""What is planned to be fused is right in lanes, and whatever else there is has a reason not to be.

Timings are made up where a choice depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset

from justright.errors import TaskError
from justright.lane_plan import LanePlan
from justright.messages import TrialWork
from justright.task import Task
from tests.helpers.examples import tries
from worker.lanes.lanes import FusedLanes
from worker.lanes.plan import MOST, _Measuring, _sizes, plan_lanes
from worker.lanes.randomness import seed_for
from worker.lanes.trial import TrialTraining
from worker.training.trainer import TaskTrainer

INPUTS = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS.sum(dim=1) > 0).long()
RATES = (0.01, 0.03, 0.1)
Factory = Callable[[Any, float], torch.optim.Optimizer]


def own_decay(parameters: Any, lr: float) -> torch.optim.Optimizer:
    """Weight decay and momentum of its own for each rate."""
    return torch.optim.SGD(parameters, lr=lr, momentum=10 * lr if lr < 0.1 else 0, weight_decay=lr)


def groups(parameters: Any, lr: float) -> torch.optim.Optimizer:
    """No decay for biases, and they learn more slowly."""
    several = list(parameters)
    flat, matrices = [p for p in several if p.ndim < 2], [p for p in several if p.ndim >= 2]
    parts: list[dict[str, Any]] = [
        {"params": flat, "weight_decay": 0.0, "lr": lr / 3},
        {"params": matrices},
    ]
    return torch.optim.AdamW(parts, lr=lr, weight_decay=0.1)


OPTIMIZERS: dict[str, Factory] = {
    "SGD": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "nesterov": partial(torch.optim.SGD, momentum=0.5, nesterov=True, weight_decay=0.01),
    "dampening": partial(torch.optim.SGD, momentum=0.5, dampening=0.3),
    "own decay": own_decay,
    "adam": torch.optim.Adam,
    "l2": partial(torch.optim.Adam, weight_decay=0.02, betas=(0.8, 0.95)),
    "adamw": torch.optim.AdamW,
    "groups": groups,
    "amsgrad": partial(torch.optim.AdamW, amsgrad=True),
    "RMSprop": partial(torch.optim.RMSprop, momentum=0.5),
}
STEP = 1e-3  # seconds that a step of one trial takes, where timings are made up


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Small(Task):
    epochs = 3
    batch_size = 16
    optimizer = "sgd"
    build: Callable[[], nn.Module] = nn.Module
    double = True  #: So that lanes can be compared to the last digits.

    def model(self) -> nn.Module:
        model = type(self).build()
        return model.double() if self.double else model

    def train_data(self) -> Any:
        return INPUTS.double() if self.double else INPUTS, TARGETS

    def validation_data(self) -> Any:
        # Four times a batch: stacks evaluate it a few lanes at a time.
        inputs, targets = self.train_data()
        return 0.5 * inputs.repeat(2, 1)[:64], targets.repeat(2)[:64]


def trainer_of(build: Callable[[], nn.Module], **names: Any) -> TaskTrainer:
    task = type("Own", (Small,), {"build": staticmethod(build), **names})
    return TaskTrainer(task(), torch.device("cpu"))


def starts(trainer: TaskTrainer, seed: int = 1) -> list[TrialTraining]:
    works = [TrialWork(number=n, lr=lr, seed=seed, attempt=1) for n, lr in enumerate(RATES)]
    return [trainer.start(work) for work in works]


# -- models ------------------------------------------------------------------------------------


def norms() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.LayerNorm(8), nn.Unflatten(1, (4, 2)), nn.GroupNorm(2, 4), nn.ReLU(),
        nn.Flatten(), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2),
    )  # fmt: skip


def frozen() -> nn.Module:
    """With a trained layer before and after it, and a frozen one whose weights all lanes share."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    model[1].requires_grad_(False)
    model[2].weight.requires_grad_(False)
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 2))
    model[2].weight = model[0].weight
    return model


def weight_norm() -> nn.Module:
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 2))
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), normed)


class Layers(nn.Module):
    """Two layers; the others derive from it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        return self.last(torch.tanh(self.first(x)))


class Words(nn.Module):
    """Whole numbers in."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.words, self.last = nn.Embedding(9, 4, **options), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        found = self.words((2 * x).long().clamp(-4, 4) + 4)
        return self.last(found.mean(dim=1))


class Idle(Layers):
    """Some of its parameters get no gradient, ever."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3)


class Sometimes(Layers):
    """Some of its parameters get a gradient in some batches only: the data say in which."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        found = super().forward(x)
        return found + self.extra(x) if x[0, 0] > 0 else found


class Updating(Layers):
    """A buffer that is changed in place, and differs from lane to lane."""

    running: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running", torch.zeros(6))

    def forward(self, x: Any) -> Any:
        found = self.first(x)
        if self.training:
            self.running.mul_(0.9).add_(0.1 * found.detach().mean(dim=0))
        return self.last(found - self.running)


class Replacing(Updating):
    """A buffer that is replaced by another tensor: a mean of past weights, to evaluate with."""

    def __init__(self) -> None:
        super().__init__()
        self.running = self.last.weight.detach().clone()

    def forward(self, x: Any) -> Any:
        if self.training:
            self.running = 0.5 * self.running + 0.5 * self.last.weight.detach()
            return self.last(self.first(x))
        return functional.linear(self.first(x), self.running, self.last.bias)


class Remembering(Layers):
    """A tensor that torch does not know of: a mean of past outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.running = torch.zeros(2, dtype=torch.float64)

    def forward(self, x: Any) -> Any:
        found = super().forward(x)
        if self.training:
            self.running = 0.9 * self.running + found.detach().mean(dim=0) + torch.arange(2.0)
        return found - self.running


class RememberingInputs(Layers):
    """The same of past inputs, which are those of all lanes."""

    def __init__(self) -> None:
        super().__init__()
        self.running = torch.zeros(6, dtype=torch.float64)

    def forward(self, x: Any) -> Any:
        if self.training:
            self.running = 0.9 * self.running + x.mean(dim=0) + 0.1
        return super().forward(x - self.running)


class ChangingInputs(RememberingInputs):
    """The same, changed in place."""

    def forward(self, x: Any) -> Any:
        if self.training:
            self.running.mul_(0.9).add_(x.mean(dim=0) + 0.1)
        return Layers.forward(self, x - self.running)


class Counting(Layers):
    """A plain number that grows with each batch."""

    calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += self.training
        return super().forward(x) * (1 + self.calls)


class CountingInPrivate(Layers):
    _calls = 0

    def forward(self, x: Any) -> Any:
        self._calls += self.training
        return super().forward(x) * (1 + self._calls)


class CountingInAList(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Any) -> Any:
        if self.training:
            self.seen.append(len(x))
        return super().forward(x) * (1 + len(self.seen))


class Drawing(Layers):
    """Draws at random in evaluation, too: for the samples, whatever the lane."""

    def forward(self, x: Any) -> Any:
        return super().forward(x) + 0.5 * torch.randn(len(x), 1, dtype=x.dtype)


class Branching(Layers):
    def forward(self, x: Any) -> Any:
        found = super().forward(x)
        return found if found.mean() > 0 else 2 * found


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.cells, self.last = kind(2, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Any) -> Any:
        return self.last(self.cells(x.view(-1, 3, 2))[0][:, -1])


def hooked() -> nn.Module:
    model = Layers()
    weight: Any = model.first.weight
    weight.register_hook(lambda grad: 0.1 * grad)
    return model


def spectral() -> nn.Module:
    return torch.nn.utils.parametrizations.spectral_norm(nn.Linear(6, 2))


class Pairs(Dataset[Any]):
    def __len__(self) -> int:
        return len(INPUTS)

    def __getitem__(self, index: int) -> Any:
        row = INPUTS[index].double()
        return {"left": row[:2], "right": row[2:]}, TARGETS[index]


class OfPairs(Layers):
    def forward(self, x: Any) -> Any:
        return super().forward(torch.cat([x["left"], x["right"]], dim=1))


def loaders(task: Task) -> Any:
    return DataLoader(Pairs(), batch_size=16, shuffle=True)


def item_loss(task: Task, output: Any, target: Any) -> torch.Tensor:
    loss = functional.cross_entropy(output, target)
    return loss * (1 + 0 * loss.item())


def lbfgs(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(parameters, lr=lr)


def lion(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return Signs(parameters, {"lr": lr})


class Signs(torch.optim.Optimizer):
    """One of the user's own."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                    mean.lerp_(parameter.grad, 0.1)
                    parameter.data.sub_(mean.sign(), alpha=group["lr"])


DICTS = {"train_data": loaders, "validation_data": loaders}
FUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "normalization": (norms, {}),
    "frozen": (frozen, {}),
    "tied": (tied, {"optimizer": "adam"}),
    "weight norm": (weight_norm, {}),
    "an embedding": (Words, {"optimizer": "adam"}),
    "an embedding with padding": (lambda: Words(padding_idx=4), {}),
    "an idle parameter": (Idle, {"optimizer": "adamw"}),
    "a parameter that is idle at times": (Sometimes, {"optimizer": "adamw"}),
    "a buffer": (Updating, {}),
    "noise": (Drawing, {}),
    "dicts": (OfPairs, DICTS),
    "RMSprop": (Layers, {"optimizer": torch.optim.RMSprop}),
    "an own optimizer": (Layers, {"optimizer": lion}),
    "clipping": (Idle, {"clip_grad_norm": 0.1}),
}
REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "LSTM": (lambda: Recurrent(nn.LSTM), {}, "lstm"),
    "GRU": (lambda: Recurrent(nn.GRU), {}, "gru"),
    "an if": (Branching, {}, "data-dependent control flow"),
    "item": (Layers, {"loss": item_loss}, ".item()"),
    "LBFGS": (Layers, {"optimizer": lbfgs}, "closure"),
    "a hook": (hooked, {}, "first.weight"),
    "spectral norm": (spectral, {}, ""),
    "a mean of past outputs": (Remembering, {}, ""),
    "a mean of past inputs": (RememberingInputs, {}, ""),
    "a mean that is changed in place": (ChangingInputs, {}, ""),
    "a count": (Counting, {}, ""),
    "a private count": (CountingInPrivate, {}, ""),
    "a count in a list": (CountingInAList, {}, ""),
    "a replaced buffer": (Replacing, {}, ""),
    "a sparse gradient": (lambda: Words(sparse=True), {}, ""),
}


# -- what can be fused -------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many lanes there are, a step takes the same time."""
    monkeypatch.setattr(_Measuring, "_time", lambda self, lanes: STEP)


def epochs_alone(trainer: TaskTrainer) -> list[list[float | None]]:
    """The losses of separate trainings, by trial."""
    found = []
    for trial in starts(trainer):
        results = [trainer.train_epoch(trial) for _ in range(3)]
        found.append([result.loss for result in results if result is not None])
    return found


def epochs_in_lanes(trainer: TaskTrainer, leave: int | None = None) -> list[list[float | None]]:
    """The same of one stack; one of them leaves after the first epoch, and goes on alone."""
    trials = starts(trainer)
    found: list[list[float | None]] = [[] for _ in trials]
    parts = [trials]
    for epoch in range(3):
        if epoch == 1 and leave is not None:
            parts = [[trials[leave]], [t for n, t in enumerate(trials) if n != leave]]
        for part in parts:
            lanes = trainer.lanes(part)
            assert isinstance(lanes, FusedLanes) or len(part) == 1
            for result in trainer.train_lanes(lanes) or []:
                found[result.trial.work.number].append(result.loss)
    return found


def assert_lanes_equal(trainer: TaskTrainer) -> None:
    expected = epochs_alone(trainer)
    for leave in (None, 0, 1):
        for ours, theirs in zip(epochs_in_lanes(trainer, leave), expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-10)
    assert expected[2][-1] != pytest.approx(expected[0][-1], rel=1e-6), "or nothing was compared"


@pytest.mark.parametrize("case", FUSED)
def test_these_are_fused(case: str, fast: None) -> None:
    build, names = FUSED[case]
    plan = plan_lanes(trainer_of(build, **names), seed=1, most=4)
    assert plan == LanePlan(lanes=4, stack=4, fuse_from=2, speedup=4.0)


@pytest.mark.parametrize("case", ["normalization", "tied", "a parameter that is idle at times"])
def test_what_is_fused_equals_separate_trainings(case: str) -> None:
    """Three of them; tests/numerics has all."""
    build, names = FUSED[case]
    assert_lanes_equal(trainer_of(build, **names))


@pytest.mark.parametrize("case", REFUSED)
def test_these_are_trained_one_by_one_and_the_reason_is_told(case: str, fast: None) -> None:
    build, names, said = REFUSED[case]
    trainer = trainer_of(build, **names)
    plan = plan_lanes(trainer, seed=1, most=4)
    assert plan.stack == plan.lanes == 1, plan
    assert plan.reason.startswith("cannot be fused: ")
    assert said in plan.reason
    assert "\n" not in plan.reason
    assert len(plan.reason) < 250
    assert plan.text == f"trained one by one: {plan.reason}"


def test_an_optimizer_that_wants_a_closure_is_told_before_anything_is_planned() -> None:
    trainer = trainer_of(Layers, optimizer=lbfgs)
    with pytest.raises(TaskError, match=r"the optimizer's step does not work: .*closure"):
        trainer.inspect(seed=1)


def test_normalization_in_single_precision_is_fused(fast: None) -> None:
    assert plan_lanes(trainer_of(norms, double=False), seed=1, most=4).stack == 4


def test_planning_changes_no_loss(fast: None) -> None:
    trainer = trainer_of(norms)
    expected = epochs_alone(trainer_of(norms))
    plan_lanes(trainer, seed=1, most=4)
    assert epochs_alone(trainer) == expected


@pytest.mark.parametrize("build", [Layers, Branching])
def test_torch_is_left_as_it_was(build: Callable[[], nn.Module], fast: None) -> None:
    attention, shortcut = functional.scaled_dot_product_attention, _shortcut()
    plan_lanes(trainer_of(build), seed=1, most=4)
    assert functional.scaled_dot_product_attention is attention
    assert _shortcut() == shortcut


def _shortcut() -> bool:
    return bool(torch.backends.mha.get_fastpath_enabled())


def test_a_small_task_is_really_measured() -> None:
    plan = plan_lanes(trainer_of(Layers, double=False), seed=1, most=8)
    assert 1 <= plan.lanes <= 8
    assert plan.stack == plan.lanes
    assert (plan.stack == 1) == bool(plan.reason)


# -- how many ----------------------------------------------------------------------------------

Speeds = dict[int, float | None]  #: By lanes, over one by one; None: there is no memory.


def plan_at(
    speeds: Speeds, wanted: int | None = None, most: int = MOST, step: float = STEP
) -> tuple[LanePlan, list[int]]:
    """What is planned at these speeds (others: as the next smaller), and which were measured."""
    measured: list[int] = []

    def time_stack(self: _Measuring, lanes: int) -> float | None:
        measured.append(lanes)
        speed = speeds[max(known for known in speeds if known <= lanes)]
        return lanes * step / speed if speed is not None else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Measuring, "_time", lambda self, lanes: step)
        patch.setattr(_Measuring, "_check", lambda self: None)
        patch.setattr(_Measuring, "_time_stack", time_stack)
        return plan_lanes(trainer_of(Layers), 1, wanted, most), measured


@pytest.mark.parametrize(
    ("speeds", "stack", "fuse_from"),
    [
        ({2: 2.0, 4: 4.0, 8: 8.0, 16: 16.0, 32: 32.0, 64: 64.0}, 64, 2),
        ({2: 1.5, 4: 2.5, 8: 4.0, 16: 4.1}, 8, 2),
        ({2: 1.5, 4: 2.5, 8: 3.8, 16: 4.1}, 16, 2),
        ({2: 0.7, 4: 1.04, 8: 1.2, 16: 3.0}, 16, 8),
        ({2: 1.5, 4: 2.0, 8: None}, 4, 2),
        ({2: 1.02, 4: 1.06, 8: 0.9}, 4, 4),
    ],
)
def test_the_smallest_stack_that_is_about_as_good(
    speeds: Speeds, stack: int, fuse_from: int
) -> None:
    plan, _ = plan_at(speeds)
    assert (plan.lanes, plan.stack, plan.fuse_from) == (stack, stack, fuse_from)
    assert plan.reason == ""
    assert plan.speedup == max(speed for speed in speeds.values() if speed is not None)


@pytest.mark.parametrize(
    ("speeds", "said"),
    [
        ({2: 0.5, 4: 0.61, 8: 0.4}, "one by one is fastest: fused they have 0.61 times the speed"),
        ({2: 1.04}, "one by one is fastest: fused they have 1.04 times the speed"),
        ({2: None}, "one by one is fastest: there is no room"),
    ],
)
@pytest.mark.parametrize("wanted", [None, 6])
def test_none_pays(speeds: Speeds, said: str, wanted: int | None) -> None:
    plan, _ = plan_at(speeds, wanted)
    assert plan == LanePlan(lanes=wanted or 1, reason=said)


def test_no_more_are_measured_once_they_get_slower() -> None:
    plan, measured = plan_at({2: 2.0, 4: 3.0, 8: 5.0, 16: 4.0, 32: 3.0, 64: 9.0})
    assert measured == [2, 4, 8, 16, 32]
    assert plan.stack == 8


def test_a_long_step_is_not_measured_further() -> None:
    plan, measured = plan_at({2: 2.0}, step=1.5)
    assert measured == []
    assert plan.stack == 1
    assert "a step takes 1.5 s" in plan.reason


@pytest.mark.parametrize(("wanted", "most"), [(1, 64), (1, 1), (None, 1)])
def test_for_one_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, wanted: int | None, most: int
) -> None:
    def refuse(self: Any, *args: Any) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setattr(_Measuring, "__init__", refuse)
    assert plan_lanes(trainer_of(Layers), 1, wanted, most) == LanePlan()


@pytest.mark.parametrize(("count", "expected"), [(2, [2]), (3, [2, 3]), (8, [2, 4, 8]),
                                                 (9, [2, 4, 8, 9])])  # fmt: skip
def test_sizes(count: int, expected: list[int]) -> None:
    assert _sizes(count) == expected


@settings(max_examples=tries(40))
@given(
    speeds=st.lists(st.floats(0.9, 1.2) | st.floats(0.3, 8.0), min_size=7, max_size=7),
    wanted=st.none() | st.integers(2, 80),
    most=st.integers(1, 80),
)
def test_any_plan_can_be_followed(speeds: list[float], wanted: int | None, most: int) -> None:
    table: Speeds = {2**power: speed for power, speed in enumerate(speeds, start=1)}
    plan, measured = plan_at(table, wanted, most)
    if wanted is not None:
        assert plan.lanes == wanted
    else:
        assert plan.lanes == plan.stack <= min(most, MOST)
    assert plan.stack <= plan.lanes
    if plan.stack == 1:
        assert bool(plan.reason) == (most > 1), "measured, or not even that"
        return
    assert plan.reason == ""
    assert plan.fuse_from <= plan.stack, "or nothing would ever be fused"
    assert {plan.stack, plan.fuse_from} <= set(measured)


def test_a_stack_for_which_memory_is_short_is_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    def time_step(self: _Measuring, lanes: Any) -> float:
        if len(lanes.trials) > 4:
            raise torch.OutOfMemoryError("no memory")
        return STEP

    monkeypatch.setattr(_Measuring, "_time", time_step)
    plan = plan_lanes(trainer_of(Layers), 1, most=32)
    assert (plan.lanes, plan.stack) == (4, 4)


# -- the optimizer's state, in and out of stacks -----------------------------------------------


def train(trainer: TaskTrainer, parts: Sequence[Sequence[TrialTraining]], batches: range) -> None:
    """Some batches, by lanes of these parts."""
    for part in parts:
        lanes = trainer.lanes(part)
        lanes.train(True)
        seed_for(1, 1)
        drawn = [batch for _ in range(3) for batch in trainer.training_batches]
        for index in batches:
            lanes.step(*drawn[index], 0.0)


def assert_same_state(found: TrialTraining, expected: TrialTraining) -> None:
    """Weights, and the optimizer's state as far as it has any effect."""
    for name, value in expected.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=1e-10, atol=1e-12)
    pairs = zip(found.model.parameters(), expected.model.parameters(), strict=True)
    for ours, theirs in pairs:
        own, state = found.optimizer.state[ours], expected.optimizer.state[theirs]
        for name, value in state.items():
            if value is not None:
                torch.testing.assert_close(own[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_states_go_in_and_out_of_stacks(optimizer: str) -> None:
    check_states(optimizer, "at both ends", Sometimes)


def check_states(optimizer: str, fused: str, build: Callable[[], nn.Module]) -> None:
    """Weights and states after three turns, some in a stack, are those of separate trainings."""
    trainer = trainer_of(build, optimizer=OPTIMIZERS[optimizer])
    expected = starts(trainer)
    train(trainer, [[trial] for trial in expected], range(9))
    trials = starts(trainer)
    together, apart = [trials], [[trial] for trial in trials]
    turns = {
        "first": (together, apart, apart),
        "last": (apart, apart, together),
        "in the middle": (apart, together, apart),
        "at both ends": (together, apart, together),
    }[fused]
    for turn, parts in enumerate(turns):
        train(trainer, parts, range(3 * turn, 3 * turn + 3))
    for trial, one in zip(trials, expected, strict=True):
        assert_same_state(trial, one)


def test_what_is_idle_is_not_decayed() -> None:
    trainer = trainer_of(Idle, optimizer="adamw")
    trials = starts(trainer)
    before = trials[0].model.get_parameter("idle.weight").clone()
    train(trainer, [trials], range(3))
    for trial in trials:
        assert torch.equal(trial.model.get_parameter("idle.weight"), before)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_state_that_is_saved_in_lanes_is_restored_alone(optimizer: str) -> None:
    trainer = trainer_of(Sometimes, optimizer=OPTIMIZERS[optimizer])
    expected, trials = starts(trainer), starts(trainer)
    train(trainer, [[trial] for trial in expected], range(6))
    train(trainer, [trials], range(3))
    others = starts(trainer)
    for trial, other in zip(trials, others, strict=True):
        other.restore(trial.state())
    train(trainer, [[other] for other in others], range(3, 6))
    for other, one in zip(others, expected, strict=True):
        assert_same_state(other, one)
