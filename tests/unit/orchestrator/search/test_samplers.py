"""Samplers and pruners by name, on real studies, asked as the orchestrator asks them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import TrialState, create_trial

from justright.messages import Inspection
from justright.search_space import SCHEDULES
from justright.spec import PrunerName, SamplerName, StudySpec, TaskRef
from orchestrator.search.optuna.bisection import BisectionSampler
from orchestrator.search.optuna.policy import OptunaPolicy
from orchestrator.search.optuna.samplers import EndlessGrid, LearnsFromAll, start_rates
from orchestrator.search.policy import SearchContext
from orchestrator.search.space import search_space
from orchestrator.storage import ledger
from tests.helpers.twin import HORIZON, bowl

optuna.logging.set_verbosity(optuna.logging.ERROR)

SAMPLERS = get_args(SamplerName)
PRUNERS = [name for name in get_args(PrunerName) if name != "none"]
RANGE = (1e-6, 10.0)


class Search:
    """A study in memory, asked and told as the orchestrator does."""

    def __init__(
        self, lr: tuple[float, float] = RANGE, schedules: bool = False, **spec: Any
    ) -> None:
        task = TaskRef(target="/t.py:T")
        self.spec = StudySpec(**{"name": "s", "task": task, "pruner": "none", **spec})
        self.range, self.schedules = lr, schedules
        self.study = optuna.create_study()
        self.restart()

    def restart(self) -> None:
        """Everything that an orchestrator keeps in memory is made anew."""
        look = Inspection(study="s", job="j", epochs=HORIZON, search_schedule=self.schedules)
        storage = self.study._storage
        self.policy = OptunaPolicy(SearchContext(self.study, storage, self.spec, look, self.range))

    def ask(self) -> int:
        proposal = next(iter(self.policy.suggest(1, 1).start), None)
        assert proposal is not None
        return proposal.number

    def _trial(self, number: int) -> optuna.trial.FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def train(self, number: int) -> None:
        """Train on the bowl of the twin workers, where rates above 1 diverge."""
        lr = self.study.get_trials(deepcopy=False)[number].params["lr"]
        trial = optuna.Trial(self.study, number)
        losses: list[float] = []
        for step in range(1, HORIZON + 1):
            loss = bowl(lr, step)
            if loss is None:
                trial.set_user_attr(ledger.DIVERGED, "not finite")
                self.study.tell(number, state=TrialState.PRUNED)
                return
            losses.append(loss)
            trial.report(loss, step)
            if step < HORIZON and self.policy.should_stop(self._trial(number)):
                self.study.tell(number, state=TrialState.PRUNED)
                return
        self.study.tell(number, min(losses))

    def run(self, count: int, restarts: bool = False) -> list[float]:
        for _ in range(count):
            self.train(self.ask())
            if restarts:
                self.restart()
        return self.rates

    @property
    def rates(self) -> list[float]:
        return [trial.params["lr"] for trial in self.study.get_trials(deepcopy=False)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_are_within_the_range_and_reproducible(sampler: str) -> None:
    low, high = 3e-4, 0.7
    rates = Search((low, high), sampler=sampler, trials=13, seed=3).run(13)
    assert all(low <= rate <= high for rate in rates)
    assert rates == Search((low, high), sampler=sampler, trials=13, seed=3).run(13)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid"])
def test_another_seed_searches_differently(sampler: str) -> None:
    first, second = (Search(sampler=sampler, trials=6, seed=seed).run(6) for seed in (0, 1))
    assert first[1:] != second[1:]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_start_is_spread_evenly_over_the_decades(sampler: str) -> None:
    shares: list[float] = []
    for seed in range(6):
        rates = Search(sampler=sampler, trials=24, seed=seed).run(8)
        shares += [math.log(rate / RANGE[0]) / math.log(RANGE[1] / RANGE[0]) for rate in rates[1:]]
    # Kolmogorov and Smirnov's distance from a uniform spread; 0.21 is its 1 % point for 6 × 7.
    # On a linear scale nearly all rates would lie in the last decade: a distance of 0.8.
    shares.sort()
    assert max(abs(share - i / len(shares)) for i, share in enumerate(shares)) < 0.21


@pytest.mark.parametrize("together", [True, False], ids=["all at once", "one by one"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nothing_is_repeated_after_a_restart(sampler: str, together: bool) -> None:
    search = Search((1e-4, 0.9), sampler=sampler, trials=14)
    if together:
        for _ in range(14):
            search.ask()
            search.restart()
    else:
        search.run(14, restarts=True)
    apart = [math.log(b / a) for a, b in pairwise(sorted(search.rates))]
    assert min(apart) > 1e-6


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_schedule_is_searched_beside_the_rate(sampler: str) -> None:
    search = Search(sampler=sampler, trials=14, schedules=True)
    search.run(14)
    seen = {trial.params["schedule"] for trial in search.study.trials}
    assert seen <= set(SCHEDULES)
    assert len(seen) >= 3


@given(st.sampled_from(SAMPLERS), st.integers(1, 60), st.floats(-9, 1), st.floats(0.01, 6))
def test_start_rates(sampler: Any, trials: int, cold: float, decades: float) -> None:
    low, high = 10**cold, 10 ** (cold + decades)
    spec = StudySpec(name="s", task=TaskRef(target="/t.py:T"), sampler=sampler, trials=trials)
    rates = start_rates(spec, (low, high))
    assert len(rates) <= trials
    assert all(low <= rate <= high for rate in rates)
    assert (rates[:1] == [0.01]) == (low <= 0.01 <= high)
    if sampler == "auto" and trials >= 12:
        edges = sorted([low, *rates, high])
        assert max(math.log10(b / a) for a, b in pairwise(edges)) <= decades / 4 + 1e-6


def hot_ones(sampler: BaseSampler, train: Callable[[optuna.Trial, float], TrialState]) -> int:
    """Of 8 trials after 10 random ones, how many are above 0.01, where nothing trains."""
    study = optuna.create_study(sampler=sampler)
    hot = 0
    for index in range(18):
        trial = study.ask({"lr": FloatDistribution(1e-4, 1.0, log=True)})
        lr = trial.params["lr"]
        state = train(trial, lr)
        study.tell(trial, 1 + lr if state == TrialState.COMPLETE else None, state=state)
        hot += index >= 10 and lr > 0.01
    return hot


def stopped_when_hot(trial: optuna.Trial, lr: float) -> TrialState:
    """Cold ones complete; of the hot ones half are pruned and half diverge."""
    if lr <= 0.01:
        return TrialState.COMPLETE
    trial.report(5.0 + lr, 1)
    if trial.number % 2:
        trial.set_user_attr(ledger.DIVERGED, "not finite")
    return TrialState.PRUNED


def diverges_late_when_hot(trial: optuna.Trial, lr: float) -> TrialState:
    """Cold ones are pruned soon, hot ones go farther and then diverge."""
    for step in range(1, 6 if lr > 0.01 else 2):
        trial.report(1.0 + lr, step)
    if lr > 0.01:
        trial.set_user_attr(ledger.DIVERGED, "not finite")
    return TrialState.PRUNED


def test_tpe_does_not_take_the_diverged_for_the_best_as_stock_optuna_does() -> None:
    stock, ours = 0, 0
    for seed in range(5):
        stock += hot_ones(TPESampler(seed=seed), diverges_late_when_hot)
        inner = TPESampler(seed=seed)
        ours += hot_ones(LearnsFromAll(inner, uses_pruned=True), diverges_late_when_hot)
    assert 2 * ours < stock


def test_a_trial_that_was_fixed_and_not_asked_before_a_kill_is_asked_once() -> None:
    search = Search(sampler="auto", trials=6)
    search.policy._asking.fix({"lr": search.policy._starts[0]}, {})
    search.restart()
    rates = search.run(4)
    assert len(set(rates)) == 4, rates


def test_a_diverged_trial_is_worth_less_than_all_others_yet_is_no_outlier() -> None:
    search = Search(sampler="random", trials=10)
    for rate in (0.03, 5.0, 1e-4):
        search.study.enqueue_trial({"lr": rate})
    search.restart()
    search.run(4)
    told = [trial.value or 0.0 for trial in search.study.trials]
    lesson = LearnsFromAll(GPSampler(), uses_pruned=False)._lesson(search.study)
    values = [trial.value or 0.0 for trial in lesson.get_trials(deepcopy=False)]
    assert told.pop(1) == bowl(5.0, 1) == 50.0  # its last finite loss, as Optuna keeps it
    assert max(told) < values.pop(1) < 2 * max(told)
    assert values == told


def test_of_thousands_of_trials_a_sampler_learns_from_the_best_and_the_latest() -> None:
    study = optuna.create_study()
    space = search_space((1e-6, 10.0))
    for number in range(1000):
        loss = float((number * 7919) % 1000)  # each once, in no order
        study.add_trial(create_trial(params={"lr": 0.1}, distributions=space, value=loss))
    taught = LearnsFromAll(TPESampler(), uses_pruned=True)._lesson(study).get_trials()
    losses = sorted(trial.value or 0.0 for trial in taught)
    assert losses[:75] == [float(n) for n in range(75)], "a good one is not learned from"
    assert len(taught) <= 200
    assert {trial.number for trial in taught} >= set(range(875, 1000))


# A pruner does not see the sampler, but in "auto", whose own pruner reads what the sampler wrote.
PAIRS = [(pruner, "tpe") for pruner in PRUNERS] + [("auto", sampler) for sampler in SAMPLERS]


@pytest.mark.parametrize(("pruner", "sampler"), dict.fromkeys(PAIRS))
def test_pruners_and_samplers_work_together(pruner: str, sampler: str) -> None:
    search = Search(sampler=sampler, pruner=pruner, trials=16)
    search.run(16)
    trials = search.study.trials
    stopped = [t for t in trials if t.state == TrialState.PRUNED and t.last_step is not None]
    stopped = [trial for trial in stopped if ledger.DIVERGED not in trial.user_attrs]
    assert stopped
    assert all(trial.last_step in range(1, HORIZON) for trial in stopped)
    could = min(bowl(trial.params["lr"], HORIZON) or math.inf for trial in trials)
    assert search.study.best_value <= 1.5 * could


def test_without_a_pruner_nothing_is_stopped() -> None:
    (search := Search((1e-6, 1.0), sampler="random", trials=12)).run(12)
    assert {trial.state for trial in search.study.trials} == {TrialState.COMPLETE}


def test_a_grid_is_visited_once_evenly_and_ends_included() -> None:
    search = Search((1e-3, 1e3), sampler="grid", trials=14)
    rates = sorted(search.run(14))
    rates.remove(0.01)  # the known-good one; 13 are left, half a decade apart
    assert rates == pytest.approx([10 ** (-3 + i / 2) for i in range(13)])


def test_an_endless_grid_goes_on_where_stock_optuna_stops() -> None:
    study = optuna.create_study(sampler=EndlessGrid({"lr": [0.1, 1.0]}, seed=0))
    rates = []
    for _ in range(5):
        trial = study.ask({"lr": FloatDistribution(0.1, 1.0, log=True)})
        rates.append(trial.params["lr"])
        study.tell(trial, 1.0)
    assert set(rates[:2]) == set(rates) == {0.1, 1.0}


def test_auto_zooms_in_on_a_rate_alone_and_uses_tpe_with_more() -> None:
    assert isinstance(Search().study.sampler, BisectionSampler)
    assert isinstance(Search(schedules=True).study.sampler, LearnsFromAll)
