"""Lanes of the examples as users have them: as far as alone, over several epochs."""

from __future__ import annotations

import pytest

from tests.unit.worker.lanes.test_lanes import (
    OTHERS,
    Factory,
    adam,
    adamw,
    assert_equal_trainings,
    check_clipping,
    check_leaving,
    sgd,
    small,
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


@pytest.mark.parametrize("optimizer", OTHERS, ids=lambda of: of.__name__)
def test_other_optimizers_in_lanes(optimizer: Factory) -> None:
    trainer = small("digits.py:Digits", optimizer)
    found = together(trainer, [trainer.start(work) for work in works()])
    assert_equal_trainings(trainer, found)


@pytest.mark.parametrize("example", ["digits.py:DigitsTransformer", "diabetes.py:Diabetes"])
def test_lanes_that_leave_change_nothing_for_the_others(example: str) -> None:
    check_leaving(example)


def test_gradients_are_clipped_by_lane() -> None:
    check_clipping("digits.py:Digits", adam)
