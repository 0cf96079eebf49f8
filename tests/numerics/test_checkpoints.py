"""Trainings of the examples, and with DataLoader's processes, that are interrupted and go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.checkpoints.test_checkpoints import (
    CPU,
    DAMAGE,
    EPOCHS,
    SOME,
    Ended,
    NoisyTask,
    Place,
    check_damage,
    check_goes_on,
    example,
)
from worker.training.trainer import TaskTrainer


@pytest.mark.parametrize(
    ("optimizer", "schedule"), [("sgd", "constant"), ("adam", "cosine"), ("adamw", "onecycle")]
)
@pytest.mark.parametrize(
    "name", ["digits.py:Digits", "digits.py:DigitsCNN", "diabetes.py:Diabetes"]
)
def test_the_examples_go_on(name: str, optimizer: str, schedule: str, tmp_path: Path) -> None:
    task = example(name, optimizer=optimizer, schedule=schedule)
    stops = {(0, 1), (0, 7), (1, 0), (1, 5), (2, 0), (2, 10)}
    check_goes_on(lambda: TaskTrainer(task, CPU, EPOCHS), tmp_path, stops)


@pytest.mark.parametrize(
    "settings",
    [{"workers": 2}, {"workers": 2, "own_generator": True}, {"workers": 2, "stay": True}],
)
def test_random_augmentation(settings: dict[str, Any], tmp_path: Path) -> None:
    task = NoisyTask(**settings)
    stops = {(0, 3), (1, 0), (1, 1), (2, 5)}
    check_goes_on(lambda: TaskTrainer(task, CPU), tmp_path, stops)


@pytest.mark.parametrize("damage", sorted({*DAMAGE} - {*SOME}))
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("each_batch")
def test_the_one_before_is_used(
    task: Path, whole: Ended, tmp_path: Path, restored: list[Place],
    caplog: pytest.LogCaptureFixture, damage: str,
) -> None:  # fmt: skip
    check_damage(task, whole, tmp_path, restored, caplog, damage)
