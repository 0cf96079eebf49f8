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
    again,
    assert_near,
    assert_same,
    computed_once,
    files,
    noted_stacks,
    run,
    works,
)
from tests.unit.worker.jobs.test_lane_jobs import check_halved
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


@pytest.mark.parametrize("after", [0, 13])
def test_a_stack_without_memory_is_halved(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    apart = computed_once(tmp_path / "apart")
    check_halved(task, apart, noted_stacks(monkeypatch), monkeypatch, after)
