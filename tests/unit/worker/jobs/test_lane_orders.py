"""Whatever order, group, leave and thaw a job's trials come in: each has the losses of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from justright.lane_plan import LanePlan
from justright.messages import OutcomeKind, TrialWork
from tests.helpers.examples import tries
from tests.helpers.lane_jobs import ALONE, EXACT, Ended, Told, assert_near, run

RATES = (0.01, 1e-3, 1e8, 3e-3, 3e-2, 3e-4)  # in no order; one of them diverges everywhere
EPOCHS = 4

TASKS = """
import torch

import justright


class Mlp(justright.Task):
    epochs = 4
    batch_size = 8
    optimizer = "sgd"

    def model(self):
        return self.layers().double()

    def layers(self):
        return torch.nn.Sequential(
            torch.nn.Linear(16, 6), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(6, 3)
        )

    def data(self, count, seed):
        draw = torch.Generator().manual_seed(seed)
        inputs = torch.randn(count, 16, generator=draw).double()
        return inputs, (inputs.sum(1) > 0).long() + (inputs[:, 0] > 1).long()

    def train_data(self):
        return self.data(24, 0)

    def validation_data(self):
        return self.data(20, 1)


class Cnn(Mlp):
    def layers(self):
        nn = torch.nn
        return nn.Sequential(
            nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3),
            nn.ReLU(), nn.Flatten(), nn.Linear(48, 3), Sharp(),
        )


class Transformer(Mlp):
    def layers(self):
        nn = torch.nn
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        return nn.Sequential(
            nn.Unflatten(1, (4, 4)), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False),
            nn.Flatten(), nn.Linear(16, 3), Sharp(),
        )


class Sharp(torch.nn.Module):
    '''Behind normalization a rate that is too hot would give a high loss, not an infinite one.'''

    def forward(self, x):
        return x + 1e-30 * x.exp()
"""


@dataclass(frozen=True)
class Part:
    """One job of a case: which trials, in which order, fused how, until when."""

    order: tuple[int, ...]
    until: int | None  #: None: to the end.
    stack: int
    leave: int  #: The sign of life at which the worker leaves; 0: it stays.
    stop: tuple[tuple[int, int], ...]  #: (trial, epoch) at which it is paused.


@st.composite
def parts(draw: st.DrawFn) -> list[Part]:
    """Jobs whose trials come in any order, some of them from checkpoints; the last ends all."""
    everyone = range(len(RATES))
    found = []
    for until in (*draw(st.lists(st.integers(1, EPOCHS - 1), max_size=2).map(sorted)), None):
        chosen = draw(st.permutations(everyone))
        if until is not None:
            chosen = chosen[: draw(st.integers(1, len(RATES)))]
        stop = draw(st.dictionaries(st.sampled_from(everyone), st.integers(1, 3), max_size=2))
        leave = draw(st.sampled_from([0, 0, 5, 14]))
        stack = draw(st.sampled_from([2, 3, len(RATES)]))
        last = until is None
        found.append(
            Part(
                tuple(chosen), until, stack, 0 if last else leave, () if last else (*stop.items(),)
            )
        )
    return found


@cache
def task() -> Path:
    path = Path(mkdtemp(prefix="justright-")) / "tasks_in_any_order.py"
    path.write_text(TASKS)
    return path


@pytest.fixture(scope="session", autouse=True)
def _tidy() -> object:
    """At the very end: a process may come back to this module."""
    yield
    shutil.rmtree(task().parent)


def work(number: int, attempt: int = 1) -> TrialWork:
    return TrialWork(number=number, lr=RATES[number], seed=3, attempt=attempt)


@cache
def alone(name: str) -> Ended:
    """Each trial in a job of its own."""
    found = Ended()
    for number in range(len(RATES)):
        ended = run(task(), [work(number)], ALONE, name=name)
        found.outcomes |= ended.outcomes
        found.reports |= ended.reports
    shutil.rmtree(task().parent / "kept", ignore_errors=True)
    return found


def ends(kind: OutcomeKind) -> bool:
    return kind in (OutcomeKind.COMPLETE, OutcomeKind.DIVERGED)


def check(name: str, jobs: list[Part], runner: Callable[..., Ended] = run) -> None:
    torch.set_num_threads(1)
    expected = alone(name)
    assert [o.kind for _, o in sorted(expected.outcomes.items())].count(OutcomeKind.DIVERGED) == 1
    attempts = dict.fromkeys(range(len(RATES)), 0)
    ended: dict[int, OutcomeKind] = {}
    for part in jobs:
        trials = []
        for number in part.order:
            if number not in ended:
                attempts[number] += 1
                trials.append(work(number, attempts[number]))
        if not trials:
            continue
        told: Told = {number: ("pause", epoch) for number, epoch in part.stop}
        plan = LanePlan(lanes=len(RATES), stack=part.stack, fuse_from=2)
        found = runner(task(), trials, plan, told, part.leave, name=name, until=part.until)
        for number, outcome in found.outcomes.items():
            own = expected.outcomes[number]
            if ends(outcome.kind):
                ended[number] = outcome.kind
                assert (outcome.kind, outcome.step) == (own.kind, own.step), number
                assert outcome.reason == own.reason
            losses = dict(own.losses)
            assert_near(
                dict(outcome.losses), {step: losses[step] for step, _ in outcome.losses}, EXACT
            )
            for step, of in found.reports.get(number, {}).items():
                assert_near({step: of[0]}, {step: losses[step]}, EXACT)
    assert ended == {n: outcome.kind for n, outcome in expected.outcomes.items()}
    shutil.rmtree(task().parent / "kept", ignore_errors=True)


@pytest.mark.parametrize("name", ["Mlp", "Cnn", "Transformer"])
@examples(max_examples=tries(12))
@given(jobs=parts())
def test_each_trial_has_its_own_losses(name: str, jobs: list[Part]) -> None:
    check(name, jobs)


@pytest.mark.parametrize("name", ["Mlp", "Cnn", "Transformer"])
def test_a_job_whose_trials_are_in_no_order(name: str) -> None:
    """As after a thaw: the first epoch in the job's order, the next ones in that of numbers."""
    part = Part((5, 2, 0, 4, 1, 3), None, len(RATES), 0, ())
    check(name, [part])
