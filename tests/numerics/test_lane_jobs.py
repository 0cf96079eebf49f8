"""Jobs of lanes: the examples as users have them, saving at each batch, memory that ends late."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from justright.messages import OutcomeKind
from tests.helpers.commands import EXAMPLES
from tests.helpers.lane_jobs import (
    ALONE,
    EXACT,
    LANES,
    RATES,
    ROUNDED,
    TASK,
    Apart,
    Stacks,
    again,
    assert_near,
    assert_same,
    computed_once,
    files,
    noted_stacks,
    run,
    works,
)
from tests.unit.worker.jobs.test_lane_jobs import (
    check_always_failing,
    check_halved,
    check_paused_lane,
    check_stack_sizes,
)
from worker.checkpoints.store import Checkpoints


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "tiny_for_lanes.py"
    path.write_text(TASK)
    return path


@pytest.mark.parametrize("example", ["digits.py:Digits", "digits.py:DigitsCNN"])
def test_an_example_in_single_precision(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, name = example.split(":")
    task = tmp_path / path
    shutil.copy(EXAMPLES / path, task)
    rates = (0.001, 0.003, 0.01)
    arguments: dict[str, Any] = {"name": name, "epochs": 2, "optimizer": "sgd"}
    stacks = noted_stacks(monkeypatch)
    alone = run(task, works(rates), ALONE, {1: ("stop", 1)}, **arguments)
    found = run(task, works(rates), LANES, {1: ("stop", 1)}, **arguments)
    assert_same(found, alone, ROUNDED)
    assert set(stacks) == {(0, 1, 2), (0, 2)}


@pytest.mark.parametrize("name", ["Tiny", "Tied"])
def test_saving_lanes_at_each_batch_changes_nothing(
    task: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    alone = run(task, works(RATES[:3]), ALONE, name=name)
    monkeypatch.setattr(Checkpoints, "due", property(lambda self: True))
    assert_same(run(task, works(RATES[:3]), name=name), alone)
    run(task, works(RATES[:3]), leave=15, name=name)
    assert [len(files(task, trial)) for trial in range(3)] == [2] * 3
    ended = run(task, again(works(RATES[:3])), name=name)
    for trial, outcome in ended.outcomes.items():
        assert outcome.kind is OutcomeKind.COMPLETE
        assert_near(dict(outcome.losses), dict(alone.outcomes[trial].losses), EXACT)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Apart:
    return computed_once(tmp_path_factory.mktemp("apart"))


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> Stacks:
    return noted_stacks(monkeypatch)


@pytest.mark.parametrize("after", [0, 13])
def test_a_stack_without_memory_is_halved(
    task: Path, apart: Apart, stacks: Stacks, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    check_halved(task, apart, stacks, monkeypatch, after)


@pytest.mark.parametrize(
    ("error", "after"),
    [(RuntimeError("vmap: no"), 0), (MemoryError(), 13), (ZeroDivisionError(), 13)],
)
def test_a_stack_that_always_fails_is_trained_one_by_one(
    task: Path, apart: Apart, stacks: Stacks, monkeypatch: pytest.MonkeyPatch,
    error: Exception, after: int,
) -> None:  # fmt: skip
    check_always_failing(task, apart, stacks, monkeypatch, error, after)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_paused_lane_goes_on_among_others_and_alone(
    task: Path, apart: Apart, stacks: Stacks, optimizer: str
) -> None:
    check_paused_lane(task, apart, stacks, optimizer)


@pytest.mark.parametrize(
    ("count", "stack", "expected"),
    [(6, 4, {(0, 1, 2, 3), (4, 5)}), (8, 8, {tuple(range(8))})],
)
def test_no_stack_is_larger_than_planned(
    task: Path, apart: Apart, stacks: Stacks, count: int, stack: int, expected: set[tuple[int, ...]]
) -> None:
    check_stack_sizes(task, apart, stacks, count, stack, expected)
