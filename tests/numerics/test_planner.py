"""The default search on all of the library, as users have it; tests/unit has a part of it."""

from __future__ import annotations

import pytest

from tests.helpers.curves import Made, regret
from tests.unit.orchestrator.search.test_planner import answer, cost, search


@pytest.mark.parametrize("best", [-4.0, -3.1, -2.0, -1.2])
@pytest.mark.parametrize("horizon", [10, 40, 100])
def test_it_finds_the_bottom_of_a_bowl_for_few_trainings(best: float, horizon: int) -> None:
    task = Made(best=best, wall=best + 1.5, horizon=horizon)
    curves, _ = search(task)
    assert regret(task, answer(curves, horizon)) < 0.15
    assert cost(curves, horizon) < 5


def test_a_rate_that_diverges_late_is_not_the_answer() -> None:
    task = Made(best=-1.0, wall=-0.4, late=0.8, horizon=100)
    curves, _ = search(task)
    assert regret(task, answer(curves, task.horizon)) < 0.1


def test_a_wrong_hint_misleads_nobody() -> None:
    task = Made(best=-2.0, wall=-0.5, horizon=40)
    plain, good, wrong = (search(task, hint=hint)[0] for hint in (None, -2.0, -4.5))
    assert cost(good, 40) <= cost(plain, 40)
    assert regret(task, answer(wrong, 40)) < 0.06
    assert cost(wrong, 40) < cost(plain, 40) + 1.5
