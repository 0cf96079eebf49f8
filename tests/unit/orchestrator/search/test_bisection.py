"""The default search: where it looks next, and whom it gives up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from justright.messages import Inspection
from justright.spec import StudySpec, TaskRef
from orchestrator.search.optuna.bisection import AROUND_BEST, RESOLUTION, BisectionSampler
from orchestrator.search.optuna.policy import OptunaPolicy
from orchestrator.search.optuna.pruners import HOPE, HopelessPruner
from orchestrator.search.policy import SearchContext
from orchestrator.storage import ledger
from tests.helpers.examples import tries

optuna.logging.set_verbosity(optuna.logging.ERROR)

LOW, HIGH = 1e-4, 1.0
HORIZON = 20


def told(decades: float, loss: float | None, state: TrialState) -> FrozenTrial:
    """A trial at 10 ** decades: complete with its loss, or diverged, or still in training."""
    return create_trial(
        params={"lr": 10**decades},
        distributions={"lr": FloatDistribution(LOW, HIGH, log=True)},
        state=state,
        value=loss if state == TrialState.COMPLETE else None,
        user_attrs={ledger.DIVERGED: "not finite"} if state == TrialState.PRUNED else {},
    )


def complete(losses: dict[float, float]) -> list[FrozenTrial]:
    return [told(decades, loss, TrialState.COMPLETE) for decades, loss in losses.items()]


def propose(trials: Sequence[FrozenTrial], count: int = 1, seed: int = 0) -> list[float]:
    """The decades of the next proposals, all made before any of them has ended."""
    study = optuna.create_study(sampler=BisectionSampler(seed))
    study.add_trials(trials)
    space: dict[str, BaseDistribution] = {"lr": FloatDistribution(LOW, HIGH, log=True)}
    return [math.log10(study.ask(space).params["lr"]) for _ in range(count)]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({-3.0: 5.0, -2.0: 1.0, -0.5: 4.0}, -1.25),  # the gap to the hotter one is wider
        ({-3.5: 5.0, -1.0: 1.0, -0.5: 4.0}, -2.25),  # to the colder one
        ({-3.0: 5.0, -2.0: 1.0, -1.0: 4.0}, -1.5),  # equal ones: the hotter
        ({-2.0: 1.0, -0.5: 4.0}, -3.0),  # the end of the range bounds a gap as well
        ({-4.0: 1.0, -2.0: 4.0}, -3.0),  # the best is that end
        ({0.0: 1.0, -2.0: 4.0}, -1.0),
        ({-2.0: 1.0, -2.05: 2.0, -1.95: 2.5, -3.0: 9.0}, -2.525),  # too fine: beside the next best
    ],
)
def test_the_wider_gap_beside_the_best_is_halved(
    losses: dict[float, float], expected: float
) -> None:
    assert propose(complete(losses)) == [pytest.approx(expected)]


def test_rates_that_are_in_training_or_diverged_bound_gaps() -> None:
    trials = [
        *complete({-2.0: 1.0, -3.0: 2.0}),
        told(-1.4, None, TrialState.RUNNING),
        told(-1.2, None, TrialState.PRUNED),
    ]
    assert propose(trials, 2) == [pytest.approx(-2.5), pytest.approx(-1.7)]


def test_when_all_gaps_are_fine_it_stays_near_the_best() -> None:
    steps = range(-400, 1, 5)
    losses = {step / 100: 1 + (step / 100 + 2) ** 2 for step in steps}
    assert steps.step / 100 < RESOLUTION
    found = propose(complete(losses), 30)
    assert all(abs(decades + 2) <= AROUND_BEST for decades in found)
    assert min(found) < -2 < max(found)


def test_before_anything_is_complete_it_keeps_colder_than_what_diverged() -> None:
    diverged = [told(-1.0, None, TrialState.PRUNED), told(-2.5, None, TrialState.PRUNED)]
    found = propose(diverged, 50)
    assert all(-4 <= decades <= -2.5 for decades in found)
    assert max(found) - min(found) > 1


decades = st.floats(-4, 0)
history = st.lists(
    st.builds(told, decades, st.floats(0, 10), st.sampled_from(TrialState)).filter(
        lambda trial: trial.state != TrialState.WAITING and LOW <= trial.params["lr"] <= HIGH
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=tries(60))
@given(history, st.integers(0, 100))
def test_many_proposals_at_once_are_all_different_and_in_range(
    trials: list[FrozenTrial], seed: int
) -> None:
    found = propose(trials, 25, seed)
    assert all(math.log10(LOW) - 1e-9 <= decades <= math.log10(HIGH) + 1e-9 for decades in found)
    assert len({round(decades, 9) for decades in found}) == 25


@given(st.floats(1e-9, 1e-3), st.integers(0, 9))
def test_a_rate_is_never_outside_of_the_range(low: float, seed: int) -> None:
    """Not even by the last bit, which an objective's own range would refuse."""
    study = optuna.create_study(sampler=BisectionSampler(seed))
    space: dict[str, BaseDistribution] = {"lr": FloatDistribution(low, low * 1.5, log=True)}
    cold = study.ask({"lr": FloatDistribution(low, low, log=True)})  # the cold end itself
    cold.set_user_attr(ledger.DIVERGED, "not finite")
    study.tell(cold, state=TrialState.PRUNED)
    for _ in range(5):
        assert low <= study.ask(space).params["lr"] <= low * 1.5


def best_found(centre: float, width: float, cliff: float, at_once: int) -> float:
    """The loss that 30 trials find, over 1 at the bottom of a bowl with a cliff on its right."""
    spec = StudySpec(name="s", task=TaskRef(target="/t.py:T"), trials=30)
    study = optuna.create_study()
    inspection = Inspection(study="s", job="j", epochs=HORIZON)
    policy = OptunaPolicy(SearchContext(study, study._storage, spec, inspection, spec.lr_range))
    open_trials: list[int] = []
    best = math.inf
    while True:
        while (
            len(open_trials) < at_once
            and (proposal := next(iter(policy.suggest(1, 1).start), None)) is not None
        ):
            open_trials.append(proposal.number)
        if not open_trials:
            return best
        number = open_trials.pop(0)
        frozen = study.get_trials(deepcopy=False)[number]
        distance = math.log10(frozen.params["lr"]) - centre
        trial = optuna.Trial(study, number)
        if distance > cliff:
            trial.report(100.0, 1)
            trial.set_user_attr(ledger.DIVERGED, "not finite")
            study.tell(number, state=TrialState.PRUNED)
            continue
        loss = 1 + (distance / width) ** 2
        state = TrialState.COMPLETE
        for step in range(1, HORIZON + 1):
            trial.report(loss + 3 * math.exp(-step / 4), step)
            if policy.should_stop(study.get_trials(deepcopy=False)[number]):
                state = TrialState.PRUNED
                break
        study.tell(number, loss if state == TrialState.COMPLETE else None, state=state)
        if state == TrialState.COMPLETE:
            best = min(best, loss)


@settings(deadline=None, max_examples=tries(25))
@given(
    centre=st.floats(-5, 0.2),
    width=st.floats(0.4, 2),
    cliff=st.floats(0.15, 2),
    at_once=st.sampled_from([1, 4]),
)
def test_the_bottom_of_a_bowl_is_found(
    centre: float, width: float, cliff: float, at_once: int
) -> None:
    assert best_found(centre, width, cliff, at_once) <= 1.05


def curve(losses: Sequence[float], state: TrialState, value: float | None = None) -> FrozenTrial:
    """A trial with these losses, from step 1 on. ``value``: what it returned, not the lowest."""
    return create_trial(
        params={"lr": 0.1},
        distributions={"lr": FloatDistribution(LOW, HIGH, log=True)},
        state=state,
        value=(min(losses) if value is None else value) if state == TrialState.COMPLETE else None,
        intermediate_values=dict(enumerate(losses, start=1)),
    )


def given_up(done: Sequence[Sequence[float]], losses: Sequence[float], horizon: int | None) -> bool:
    study = optuna.create_study()
    study.add_trials([curve(other, TrialState.COMPLETE) for other in done])
    study.add_trial(curve(losses, TrialState.RUNNING))
    return HopelessPruner(horizon).prune(study, study.trials[-1])


LEADER = [2.0 - 0.05 * step for step in range(1, HORIZON + 1)]  # 1.95 down to 1.0


@pytest.mark.parametrize("horizon", [HORIZON, None])
@pytest.mark.parametrize("step", [2, 10, 15])
def test_a_trial_is_given_up_beyond_the_leaders_hope(step: int, horizon: int | None) -> None:
    bound = 1.0 + HOPE * (LEADER[step - 1] - 1.0)
    fallen = [9.0] * (step - 1)
    assert given_up([LEADER, [3.0] * HORIZON], [*fallen, bound + 1e-6], horizon)
    assert not given_up([LEADER, [3.0] * HORIZON], [*fallen, bound - 1e-6], horizon)
    assert not given_up([LEADER], [bound - 1e-6, *fallen], horizon)  # its best counts


@pytest.mark.parametrize("step", [1, 16, HORIZON, HORIZON + 1])
def test_nobody_is_given_up_too_soon_or_near_the_end(step: int) -> None:
    assert not given_up([LEADER], [9.0] * step, HORIZON)


def test_nobody_is_given_up_without_a_leader_or_a_report() -> None:
    assert not given_up([], [9.0] * 10, HORIZON)
    assert not given_up([LEADER], [], HORIZON)


@pytest.mark.parametrize(("returned", "gives_up"), [(1.0, True), (2.5, True), (3.5, False)])
def test_nobody_is_given_up_below_what_the_leader_has_returned(
    returned: float, gives_up: bool
) -> None:
    """An objective that overfits returns its last loss, after lower ones."""
    study = optuna.create_study()
    study.add_trial(curve([2.0] * 2 + [1.0] * (HORIZON - 2), TrialState.COMPLETE, returned))
    study.add_trial(curve([3.4] * 8, TrialState.RUNNING))
    assert HopelessPruner(HORIZON).prune(study, study.trials[-1]) is gives_up


curves = st.lists(st.floats(0, 10), min_size=HORIZON, max_size=HORIZON)


@given(st.lists(curves, min_size=1, max_size=3), curves, st.integers(1, HORIZON))
def test_a_trial_that_would_win_within_the_hope_is_never_given_up(
    done: list[list[float]], losses: list[float], step: int
) -> None:
    leader = min(done, key=min)
    further = min(leader[:step]) - min(leader)
    given = given_up(done, losses[:step], HORIZON)
    would_win = min(losses[:step]) - HOPE * further < min(leader)
    assert not (given and would_win)
    study = optuna.create_study()
    study.add_trials([curve(other, TrialState.COMPLETE) for other in done])
    assert not HopelessPruner(HORIZON).prune(study, study.best_trial)
