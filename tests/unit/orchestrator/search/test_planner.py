"""What the default search trains next, and when it stops, on tasks whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from justright.marks import marks
from orchestrator.search.freeze_thaw.curve_model import CurveModel
from orchestrator.search.freeze_thaw.library import library
from orchestrator.search.freeze_thaw.planner import STEP, Planner, grid_of
from orchestrator.search.loss_curve import LossCurve
from tests.helpers.curves import Made, regret
from tests.helpers.examples import tries

pytestmark = pytest.mark.usefixtures("few_surfaces")  # tests/numerics searches with all

LOW, HIGH = -5.0, 1.0


def planner(task: Made, seed: int = 0, hint: float | None = None) -> Planner:
    ends = (LOW, HIGH)
    return Planner(task.initial, marks(task.horizon, 1), ends, ends, seed, hint)


def search(
    task: Made, seed: int = 0, lanes: int = 1, rates: int = 30, hint: float | None = None
) -> tuple[dict[float, LossCurve], int]:
    """Do as the planner says until it has enough; the curves, and the longest time in epochs."""
    plans = planner(task, seed, hint)
    probes = plans.probes(rates)
    curves = {x: task.losses(x, plans.first) for x in probes}
    time = -(-len(probes) // lanes) * plans.first
    while not plans.settled(curves):
        left = rates - len(curves)
        plan = plans.plan(curves, (), lanes=lanes, capacity=lanes, new=left)
        if plan is None:
            break
        assert 0 < len(plan.rates) <= lanes
        done = [curves[x].steps if x in curves else 0 for x in plan.rates]
        assert all(before < plan.until <= task.horizon for before in done)
        assert not any(curves[x].diverged for x in plan.rates if x in curves)
        curves |= {x: task.losses(x, plan.until) for x in plan.rates}
        time += plan.until - min(done)
    return curves, time


def answer(curves: dict[float, LossCurve], horizon: int) -> float:
    whole = {x: c for x, c in curves.items() if c.steps >= horizon and not c.diverged}
    return min(whole, key=lambda x: whole[x].losses.min())


def cost(curves: dict[float, LossCurve], horizon: int) -> float:
    return sum(curve.steps for curve in curves.values()) / horizon


@pytest.mark.parametrize(("best", "horizon"), [(-4.0, 10), (-3.1, 40), (-2.0, 100), (-1.2, 10)])
def test_it_finds_the_bottom_of_a_bowl_for_few_trainings(best: float, horizon: int) -> None:
    task = Made(best=best, wall=best + 1.5, horizon=horizon)
    curves, _ = search(task)
    assert regret(task, answer(curves, horizon)) < 0.15
    assert cost(curves, horizon) < 5


def test_a_rate_that_diverges_late_is_not_the_answer() -> None:
    task = Made(best=-1.0, wall=-0.4, late=0.8, horizon=100)
    curves, _ = search(task)
    found = answer(curves, task.horizon)
    assert np.isfinite(task.quality(found))
    assert regret(task, found) < 0.1


def test_the_same_curves_give_the_same_decisions() -> None:
    task = Made(noise=0.01)
    first, _ = search(task, seed=3)
    second, _ = search(task, seed=3)
    assert sorted((x, c.steps) for x, c in first.items()) == sorted(
        (x, c.steps) for x, c in second.items()
    )


def test_a_planner_that_was_made_anew_goes_on_as_the_old_one_would() -> None:
    """All that it knows is in the curves."""
    task, old = Made(noise=0.01), planner(Made())
    curves = {x: task.losses(x, 1) for x in old.probes(30)}
    for _ in range(12):
        plan = old.plan(curves, ())
        assert plan == planner(Made()).plan(curves, ())
        assert plan is not None
        curves |= {x: task.losses(x, plan.until) for x in plan.rates}


def test_lanes_save_time() -> None:
    task = Made(horizon=100)
    _, alone = search(task)
    curves, together = search(task, lanes=8)
    assert together < alone
    assert regret(task, answer(curves, task.horizon)) < 0.05


def test_a_good_hint_saves_trainings_and_a_wrong_one_misleads_nobody() -> None:
    task = Made(best=-2.0, wall=-0.5, horizon=40)
    plain, good, wrong = (search(task, hint=hint)[0] for hint in (None, -2.0, -4.5))
    assert cost(good, 40) <= cost(plain, 40)
    assert regret(task, answer(wrong, 40)) < 0.06
    assert cost(wrong, 40) < cost(plain, 40) + 1.5


def test_no_more_rates_are_begun_than_allowed() -> None:
    for most in (1, 3, 6):
        curves, _ = search(Made(), rates=most)
        assert len(curves) <= most
        assert any(curve.steps == 40 for curve in curves.values())


def test_few_rates_do_not_lie_at_the_ends() -> None:
    for most in (1, 2, 3):
        probes = planner(Made()).probes(most)
        assert len(probes) == most
        assert all(LOW + 0.7 < x < HIGH - 0.7 for x in probes)


def test_rates_in_training_and_closed_ones_are_left_alone() -> None:
    task, plans = Made(), planner(Made())
    curves = {x: task.losses(x, 1) for x in plans.probes(30)}
    first = plans.plan(curves, ())
    assert first is not None
    second = plans.plan(curves, first.rates)
    assert second is None or not set(second.rates) & set(first.rates)
    third = plans.plan(curves, (), first.rates)
    assert third is None or not set(third.rates) & set(first.rates)


def test_when_all_has_diverged_it_looks_colder() -> None:
    plans = planner(Made())
    curves = {x: LossCurve.of([2.3], diverged=True) for x in (-3.0, -2.0, -1.0, 0.0)}
    plan = plans.plan(curves, ())
    assert plan is not None
    assert all(x < -3.0 for x in plan.rates)


def test_a_loss_that_never_moves_ends_the_search() -> None:
    plans = planner(Made())
    curves = {x: LossCurve.of([2.3] * (2)) for x in plans.probes(30)}
    for _ in range(500):
        if plans.settled(curves):
            break
        plan = plans.plan(curves, ())
        if plan is None:
            break
        curves |= {x: LossCurve.of([2.3] * (plan.until + 1)) for x in plan.rates}
    else:
        pytest.fail("it goes on for ever")


@given(
    best=st.floats(-4.5, 0.0),
    gap=st.floats(0.2, 3.0),
    width=st.floats(0.3, 2.0),
    late=st.sampled_from([0.0, 0.5]),
    horizon=st.sampled_from([1, 2, 5, 30]),
    lanes=st.sampled_from([1, 4, 16]),
)
@settings(max_examples=tries(25), deadline=None)
def test_every_search_ends_with_a_whole_training(
    best: float, gap: float, width: float, late: float, horizon: int, lanes: int
) -> None:
    task = Made(best, best + gap, horizon, width, late, noise=0.01)
    curves, _ = search(task, lanes=lanes)
    assert any(c.steps >= horizon and not c.diverged for c in curves.values())
    assert cost(curves, horizon) <= 14


def test_the_grid_is_of_round_rates_and_finer_in_a_narrow_range() -> None:
    grid = grid_of(-3.0, 1.0)
    assert (grid[0], grid[-1]) == (-3.0, 1.0)
    assert np.diff(grid) == pytest.approx(STEP)
    narrow = grid_of(-2.0, -1.7)
    assert (narrow[0], narrow[-1]) == (-2.0, -1.7)
    assert len(narrow) > 8


def test_the_model_expects_regret_least_near_the_best_of_what_was_trained() -> None:
    task = Made(best=-2.0, wall=-0.5, horizon=40)
    model = CurveModel(library(), task.initial, marks(task.horizon, 1), grid_of(LOW, HIGH))
    model.observe({x: task.losses(x, 40) for x in (-3.0, -2.5, -2.0, -1.5, -1.0)})
    forecast = model.forecast(np.random.default_rng(0))
    assert abs(forecast.best + 2.0) <= 0.3
    assert forecast.regret_at(-4.5) > 0.3 > forecast.regret_at(-2.0)
    assert forecast.regret_at(0.5) > 0.6


def test_the_weights_of_surfaces_sum_to_one_and_change_with_what_is_seen() -> None:
    task = Made()
    model = CurveModel(library(), task.initial, marks(task.horizon, 1), grid_of(LOW, HIGH))
    before = model.posterior()
    assert before.sum() == pytest.approx(1)
    model.observe({x: task.losses(x, 8) for x in (-3.0, -2.0, -1.0)})
    after = model.posterior()
    assert after.sum() == pytest.approx(1)
    assert np.abs(after - before).sum() > 0.1


def observed(at_once: float) -> CurveModel:
    """Five rates about the best one, half trained; each came down by so much more at once."""
    task = Made(best=-2.0, wall=-0.5, horizon=40)
    grid = grid_of(LOW, HIGH)
    model = CurveModel(library(), task.initial + at_once, marks(task.horizon, 1), grid)
    curves = {}
    for x in (-2.8, -2.4, -2.0, -1.6, -1.2):
        first, *later = task.losses(x, 20).losses
        curves[x] = LossCurve.of([first + at_once, *later])
    model.observe(curves)
    return model


def test_what_any_rate_gains_at_once_hides_no_difference() -> None:
    plain, deep = observed(0.0), observed(20.0)
    assert plain.posterior().sum((1, 2))[0] > 0.9, "each surface is taken as it is"
    assert deep.posterior().sum((1, 2))[-1] > 0.5, "nine tenths were gained at once"
    random = np.random.default_rng
    first, second = plain.forecast(random(0)), deep.forecast(random(0))
    assert abs(first.best - second.best) <= STEP + 1e-9
    assert np.abs(first.regret - second.regret).max() < 0.2
    # A share of a much longer way down.
    at = [model._place(-1.2) for model in (first, second)]
    small = [np.median(1 - f.progress[:, x]) for f, x in zip((first, second), at, strict=True)]
    assert small[1] < small[0] / 4
    assert np.median(second.noise) < np.median(first.noise) / 4


def test_nothing_is_gained_at_once_where_a_rate_beside_the_best_has_not_moved() -> None:
    model = observed(0.0)
    idle = Made(best=2.0, wall=3.0).losses(-2.9, 20)
    model.observe({**model._curves, -2.9: idle})
    assert model.posterior().sum((1, 2)).tolist() == pytest.approx([1.0, 0.0, 0.0])


def test_rates_within_the_noise_of_seeds_promise_nothing() -> None:
    forecast = observed(0.0).forecast(np.random.default_rng(0))
    assert (forecast.excess <= forecast.regret).all()
    assert 0 < forecast.excess_at(-2.0) < forecast.regret_at(-2.0)
