"""Lanes of the examples as users have them: as far as alone, over several epochs."""

from __future__ import annotations

import pytest

from tests.unit.worker.lanes.test_lanes import (
    Factory,
    adam,
    adamw,
    assert_equal_trainings,
    sgd,
    together,
    trainer_of,
    works,
)

STEPS = 100


@pytest.mark.parametrize(
    ("example", "optimizer"),
    [
        ("digits.py:Digits", sgd),
        ("digits.py:DigitsCNN", adamw),
        ("digits.py:DigitsTransformer", adamw),
        ("diabetes.py:Diabetes", adam),
    ],
)
def test_lanes_equal_separate_trainings(example: str, optimizer: Factory) -> None:
    trainer = trainer_of(example, optimizer)
    found = together(trainer, [trainer.start(work) for work in works()], STEPS)
    assert_equal_trainings(trainer, found, STEPS)
    assert found[4][-1] < 0.95 * found[4][0]  # or nothing was compared
