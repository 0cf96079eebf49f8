"""Jobs in a worker's ``JobRunner`` without a service: what it reports of their trials."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from justright.failures import FailureKind
from justright.lane_plan import LanePlan
from justright.messages import Decision, Event, Outcome, Report, TrainJob, TrialWork
from justright.settings import Settings
from justright.spec import TaskRef
from worker.jobs.channel import Channel
from worker.jobs.runner import JobRunner
from worker.lanes.lanes import FusedLanes
from worker.user_code.permission import read_permission

LANES = LanePlan(lanes=8, stack=8, fuse_from=2)
ALONE = LanePlan()
PLACE = "s-1"
EPOCHS, BATCHES = 4, 5
EXACT, ROUNDED = 1e-10, 1e-4  # relative differences that rounding makes, by precision
RATES = (0.003, 0.01, 0.03, 0.05, 0.1)
INSANE = 1e6

TASK = """
import torch

import justright


class Tiny(justright.Task):
    epochs = 4
    batch_size = 8
    optimizer = "adam"
    hidden = 6
    double = True

    def model(self):
        model = torch.nn.Sequential(
            torch.nn.Linear(4, self.hidden, bias=False), torch.nn.BatchNorm1d(self.hidden),
            torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(self.hidden, 3),
        )
        return model.double() if self.double else model

    def data(self, count, seed):
        inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
        targets = (inputs.sum(1) > 0).long()
        targets[0] = 2  # a single one
        return inputs.double() if self.double else inputs, targets

    def train_data(self):
        return self.data(40, 0)

    def validation_data(self):
        return self.data(30, 1)


class Explosive(Tiny):
    '''Without normalization a rate that is too high gives inf or NaN.'''

    optimizer = "sgd"

    def model(self):
        model = torch.nn.Sequential(
            torch.nn.Linear(4, self.hidden), torch.nn.ReLU(), torch.nn.Dropout(0.3),
            torch.nn.Linear(self.hidden, 3),
        )
        return model.double() if self.double else model


class Tied(Tiny):
    def model(self):
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
        model[1].weight = model[0].weight
        return torch.nn.Sequential(torch.nn.Linear(4, 64), model, torch.nn.Linear(64, 3)).double()


class Item(Tiny):
    '''In one batch of each epoch it does what lanes cannot.'''

    def loss(self, output, target):
        loss = super().loss(output, target)
        if torch.is_grad_enabled() and (target == 2).any():
            return loss * (1 + 0 * loss.item())
        return loss


class Counting(torch.optim.SGD):
    '''One of the user's own: its state has more than that of each parameter.'''

    def step(self, closure=None):
        self.state["count"] = self.state.get("count", 0) + 1
        for group in self.param_groups:
            group["lr"] /= self.state["count"]
        return super().step(closure)


class Counted(Tiny):
    optimizer = Counting


class Picky(Explosive):
    '''It does not bear a high loss.'''

    def loss(self, output, target):
        loss = super().loss(output, target)
        if loss > 1000:
            raise ValueError("this is too hot")
        return loss


class Broken(Tiny):
    '''It does not bear one of the samples.'''

    def loss(self, output, target):
        if torch.is_grad_enabled() and (target == 2).any():
            raise ValueError("no such class")
        return super().loss(output, target)
"""

Stacks = list[tuple[int, ...]]
Told = dict[int, tuple[str, int]]  #: By trial: what it is told once it has reported that step.


class Line(Channel):
    """A channel to nobody, that says what it was told to say: at once, without a thread."""

    def __init__(self, told: Told) -> None:
        self.events: list[Event] = []
        self.leaving = None
        self.reported = False
        self._told = told
        self._reached: dict[tuple[int, int], int] = {}

    def watch(self, study: str, trials: Any) -> None:
        self.reported = False

    def send(self, event: Event) -> None:
        event.encode()
        self.events.append(event)
        if isinstance(event, Report):
            self.reported = True
            self._reached[event.trial, event.attempt] = event.step

    def decision(self, trial: int, attempt: int) -> Decision | None:
        action, step = self._told.get(trial, ("", 0))
        if not action or self._reached.get((trial, attempt), -1) < step:
            return None
        return Decision.model_validate({"attempt": attempt, "action": action, "reason": "told so"})

    def flush(self) -> None: ...


@dataclass
class Ended:
    """What was said of the trials of a job."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    reports: dict[int, dict[int, list[float | None]]] = field(default_factory=dict)

    @property
    def kinds(self) -> list[str]:
        return [self.outcomes[trial].kind.value for trial in sorted(self.outcomes)]

    @property
    def steps(self) -> list[int]:
        return [self.outcomes[trial].step for trial in sorted(self.outcomes)]


def works(rates: tuple[float, ...] = RATES, first: int = 0, seed: int = 3) -> list[TrialWork]:
    return [TrialWork(number=first + n, lr=lr, seed=seed, attempt=1) for n, lr in enumerate(rates)]


def again(trials: list[TrialWork], attempt: int = 2) -> list[TrialWork]:
    return [one.model_copy(update={"attempt": attempt}) for one in trials]


def run(
    task: Path,
    trials: list[TrialWork],
    plan: LanePlan = LANES,
    told: Told | None = None,
    leave: int = 0,
    name: str = "Tiny",
    epochs: int | None = None,
    until: int | None = None,
    **arguments: Any,
) -> Ended:
    """A job in a worker that has nothing in memory; ``leave``: after so many signs of life."""
    line = Line(told or {})
    left = [leave]

    def alive() -> None:
        if torch.is_grad_enabled():  # those of the validation do not count here
            left[0] -= 1
            if left[0] == 0:
                line.leave("the worker was asked to leave", FailureKind.RETURNED)

    settings = Settings.model_validate({"artifacts": str(kept(task))})
    runner = JobRunner(line, read_permission([str(task.parent)], False), settings, alive)
    torch.manual_seed(99)  # what another trial in this process does to it
    ref = TaskRef(target=f"{task}:{name}", arguments=arguments)
    runner.run(
        TrainJob(
            id="j", study="s", task=ref, epochs=epochs, until=until,
            checkpoint_prefix=PLACE, trials=tuple(trials), plan=plan,
        )
    )  # fmt: skip
    ended = Ended()
    for event in line.events:
        if isinstance(event, Report):
            steps = ended.reports.setdefault(event.trial, {})
            steps.setdefault(event.step, []).append(event.loss)
        elif isinstance(event, Outcome):
            assert event.trial not in ended.outcomes, "an attempt ends once"
            ended.outcomes[event.trial] = event
    assert sorted(ended.outcomes) == sorted(one.number for one in trials)
    return ended


Apart = Callable[..., Ended]


def computed_once(folder: Path) -> Apart:
    """``run`` one by one, of a task in this folder; what was asked before is not trained again."""
    folder.mkdir(exist_ok=True)
    task = folder / "tiny_apart.py"
    task.write_text(TASK)
    known: dict[str, Ended] = {}

    def apart(trials: list[TrialWork], told: Told | None = None, **arguments: Any) -> Ended:
        key = repr((trials, told, sorted(arguments.items())))
        if key not in known:
            known[key] = run(task, trials, ALONE, told, **arguments)
            shutil.rmtree(kept(task), ignore_errors=True)
        return known[key]

    return apart


def noted_stacks(monkeypatch: pytest.MonkeyPatch) -> Stacks:
    """The trials in each fused step from now on."""
    found: Stacks = []
    step = FusedLanes.step

    def noting(self: FusedLanes, *args: Any) -> torch.Tensor:
        found.append(tuple(trial.work.number for trial in self.trials))
        return step(self, *args)

    monkeypatch.setattr(FusedLanes, "step", noting)
    return found


def kept(task: Path) -> Path:
    """Where the checkpoints are."""
    return task.parent / "kept"


def files(task: Path, trial: int) -> list[Path]:
    folder = kept(task) / PLACE / str(trial)
    return sorted(folder.iterdir()) if folder.exists() else []


def assert_same(
    found: Ended,
    expected: Ended,
    relative: float = EXACT,
    trials: list[int] | None = None,
    since: int = 0,
) -> None:
    """The same outcomes and losses of these trials (None: all); ``since``: reported after that
    step, as of one that went on from there. What is reported twice must be the same as well."""
    for trial in expected.outcomes if trials is None else trials:
        ours, theirs = found.outcomes[trial], expected.outcomes[trial]
        assert (ours.kind, ours.step, ours.reason) == (theirs.kind, theirs.step, theirs.reason)
        assert_near(dict(ours.losses), dict(theirs.losses), relative)
        reports = found.reports.get(trial, {})
        wanted = {s: of[0] for s, of in expected.reports.get(trial, {}).items() if s > since}
        for turn in range(max(map(len, reports.values()), default=1)):
            assert_near(
                {s: of[min(turn, len(of) - 1)] for s, of in reports.items()}, wanted, relative
            )


def assert_near(
    found: dict[int, float | None], expected: dict[int, float | None], relative: float
) -> None:
    assert found.keys() == expected.keys()
    for step, loss in expected.items():
        if loss is None:
            assert found[step] is None
        else:
            assert found[step] == pytest.approx(loss, rel=relative)
