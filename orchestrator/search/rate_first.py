"""The default search where more than the rate is searched: first the rate, then all together.

The rate is found as always, by freeze and thaw, with the other settings at the task's own values.
Then come trainings of other settings: first some that are spread evenly over them (a Latin
hypercube; McKay et al. 1979), then proposals of Optuna's multivariate TPE. Their rates lie near the
best one, moved as the other settings are known to move it, so TPE learns how far a setting's best
rate is from what is expected, not where it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.search.asking import Asking
from orchestrator.search.freeze_thaw.policy import FreezeThawPolicy
from orchestrator.search.lessons import as_complete
from orchestrator.search.optuna.pruners import make_pruner
from orchestrator.search.policy import (
    Estimate,
    Policy,
    Proposal,
    SearchContext,
    Suggestion,
    originals,
)
from orchestrator.search.space import Distributions, beside_the_rate
from orchestrator.storage import ledger

_SHIFT = "decades"  # from the expected rate: what TPE searches in place of the rate
_SEARCHED = 1.0  # decades around the expected rate that are searched
_SPREAD = 0.3  # ... by the spread start
_AFTER = 0.1  # share of the horizon after its warm-up before which a trial is not given up
_ONECYCLE = 0.3  # the warm-up of that schedule
_RATE_SHARE = 0.5  # of the trials that the search of the rate alone may take
_ROUNDS = 4  # in which TPE proposes its trials, at least


class RateFirstPolicy(Policy):
    """Searches the rate, then the settings beside it."""

    def __init__(self, context: SearchContext) -> None:
        self._study, self._asking = context.study, Asking(context)
        self._spec, self._inspection = spec, inspection = context.spec, context.inspection
        self._beside = beside_the_rate(spec, inspection.search_schedule)
        self._base = base_values(self._beside, inspection.details)
        self._study.pruner = make_pruner(spec, inspection)
        half = math.ceil(_RATE_SHARE * spec.trials)
        alone = spec.model_copy(update={"trials": half, "replicates": 1})
        self._rate = FreezeThawPolicy(
            replace(context, spec=alone), fixed=self._base, beside=self._beside
        )

    def restrict_range(self, lr_range: tuple[float, float]) -> None:
        self._rate.restrict_range(lr_range)

    @property
    def _space(self) -> Distributions:
        return {"lr": self._rate.distribution, **self._beside}

    # -- decisions ------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        trials = self._asking.asked()
        missing = len(self._asking.missing_replicates(trials))
        return max(len(trials) + missing, self._spec.trials)

    def done_share(self) -> float:
        trials = self._asking.asked()
        return sum(trial.state.is_finished() for trial in trials) / max(1, self.total)

    def suggest(self, lanes: int | None, workers: int) -> Suggestion:
        trials = self._asking.asked()
        later = [t for t in originals(trials) if ledger.BESIDE in t.user_attrs]
        if not later:
            found = self._rate.suggest(lanes, workers)
            if found.start or found.resume or not self._rate.over:
                return found
        left = self._spec.trials - len(originals(trials))
        lanes = lanes or self._inspection.plan.lanes
        if left > 0:
            return Suggestion(start=self._proposals(self._at_once(later, left, lanes, workers)))
        if any(not trial.state.is_finished() for trial in later):
            return Suggestion()
        return Suggestion(start=self._asking.replicates(self._space, lanes))

    def _at_once(self, later: list[FrozenTrial], left: int, lanes: int, workers: int) -> int:
        """How many to propose now: of what runs, TPE has not learned yet."""
        lanes = max(1, min(lanes, math.ceil(left / max(1, workers))))
        if len(later) < self._spread:
            return min(lanes, self._spread - len(later))
        running = sum(not trial.state.is_finished() for trial in later)
        learning = math.ceil((left + len(later)) / _ROUNDS) - running
        return max(0 if running else 1, min(lanes, learning))

    @property
    def _spread(self) -> int:
        """Trials before TPE has enough to learn from."""
        return max(4, 2 * (len(self._beside) + 1))

    def _proposals(self, count: int) -> tuple[Proposal, ...]:
        found: list[Proposal] = []
        for _ in range(count):
            params = self._propose()
            self._asking.fix(params, {ledger.BESIDE: True})
            found.append(self._asking.ask(self._space))
        return tuple(found)

    def stop_reason(self) -> str | None:
        trials = self._asking.asked()
        later = any(ledger.BESIDE in trial.user_attrs for trial in trials)
        if len(originals(trials)) < self._spec.trials or not (later or self._rate.over):
            return None
        return None if self._asking.missing_replicates(trials) else "trials"

    def should_stop(self, trial: FrozenTrial) -> str | None:
        if ledger.BESIDE not in trial.user_attrs or ledger.REPLICATE_OF in trial.user_attrs:
            return None
        assert self._inspection.horizon is not None
        if (trial.last_step or 0) < self._warm(trial.params) * self._inspection.horizon:
            return None
        if not self._study.pruner.prune(self._study, trial):
            return None
        return f"hopeless at step {trial.last_step}"

    def _warm(self, params: Mapping[str, Any]) -> float:
        """The share of the training before which its losses speak of its warm-up only."""
        settings = self._settings(params)
        if settings.get("schedule") == "onecycle":
            return _ONECYCLE + _AFTER
        warmup = float(settings.get("warmup", 0.0))
        return warmup + _AFTER if warmup else 0.0

    # -- proposals ------------------------------------------------------------------------------

    def _propose(self) -> dict[str, Any]:
        """The next training of other settings."""
        later = [t for t in self._asking.asked() if ledger.BESIDE in t.user_attrs]
        number = len(originals(later))
        params = self._start(number) if number < self._spread else self._learned(number)
        shift = params.pop(_SHIFT)
        rate = self._expected_rate(params) * 10**shift
        low, high = self._rate.distribution.low, self._rate.distribution.high
        return {"lr": min(max(float(f"{rate:.6g}"), low), high), **params}

    def _start(self, number: int) -> dict[str, Any]:
        """One row of a Latin hypercube."""
        count = self._spread
        random = np.random.default_rng((self._spec.seed, len(self._beside)))
        found: dict[str, Any] = {}
        near = FloatDistribution(-_SPREAD, _SPREAD)
        for name, distribution in {_SHIFT: near, **self._beside}.items():
            shares = (random.permutation(count) + random.random(count)) / count
            found[name] = at_share(distribution, float(shares[number]))
        return found

    def _learned(self, number: int) -> dict[str, Any]:
        """What TPE proposes. Made anew each time, of what the study knows."""
        sampler = optuna.samplers.TPESampler(
            seed=(self._spec.seed * 7919 + number) % 2**31, multivariate=True, n_startup_trials=0
        )
        space = {_SHIFT: FloatDistribution(-_SEARCHED, _SEARCHED), **self._beside}
        lesson = optuna.create_study(sampler=sampler)
        for trial in as_complete(self._asking.asked()):
            shift = math.log10(trial.params["lr"] / self._expected_rate(trial.params))
            if abs(shift) <= _SEARCHED:
                others = {name: trial.params[name] for name in self._beside}
                lesson.add_trial(
                    create_trial(
                        params={_SHIFT: shift, **others},
                        distributions=space,
                        value=trial.value,
                        state=trial.state,
                    )
                )
        return lesson.ask(space).params

    def _expected_rate(self, params: Mapping[str, Any]) -> float:
        space = self._rate.distribution
        rate = self._rate.best_rate or math.sqrt(space.low * space.high)
        return rate * moved(self._settings(self._base), self._settings(params))

    def _settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """All settings of a trial, searched or not."""
        return {**self._inspection.details, **{n: params[n] for n in self._beside}}

    # -- answers --------------------------------------------------------------------------------

    def recommend(self) -> dict[str, Any] | None:
        complete = [
            trial
            for trial in originals(self._asking.asked())
            if trial.state == TrialState.COMPLETE and trial.value is not None
        ]
        if not complete:
            return self._rate.recommend()
        return dict(min(complete, key=lambda trial: trial.value or 0.0).params)

    def estimate(self, lr: float, loss: float, params: Mapping[str, Any]) -> Estimate | None:
        """What is known of the rate with the task's own settings, moved to the answer's."""
        best = self._rate.best_rate
        if best is None:
            return None
        others = {name: params[name] for name in self._beside if name in params}
        if others == self._base:
            return self._rate.estimate(lr, loss, params)
        known = self._rate.estimate(best, loss, self._base)
        if known is None:
            return None
        shift = lr / best
        (low, high), (coldest, hottest) = known.plateau, known.uncertain
        return replace(
            known,
            plateau=(low * shift, high * shift),
            uncertain=(coldest * shift, hottest * shift),
        )


def base_values(beside: Distributions, details: Mapping[str, Any]) -> dict[str, Any]:
    """The task's own settings, or the nearest that may be searched."""
    found: dict[str, Any] = {}
    for name, distribution in beside.items():
        own = details.get(name)
        if isinstance(distribution, CategoricalDistribution):
            choices = distribution.choices
            found[name] = own if own in choices else _nearest(choices, own)
        else:
            assert isinstance(distribution, FloatDistribution)
            low, high = distribution.low, distribution.high
            found[name] = min(max(float(low if own is None else own), low), high)
    return found


def _nearest(choices: tuple[Any, ...], own: Any) -> Any:
    numbers = [choice for choice in choices if isinstance(choice, (int, float))]
    if not numbers or not isinstance(own, (int, float)):
        return choices[0]
    return min(numbers, key=lambda choice: abs(choice - own))


def at_share(distribution: BaseDistribution, share: float) -> Any:
    """The value at a share of what is searched, from 0 to below 1."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(share * len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution)
    low, high = distribution.low, distribution.high
    if distribution.log:
        return min(low * (high / low) ** share, high)
    return low + (high - low) * share


def moved(base: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """By what factor the best rate is expected to move from some settings to others.

    Of SGD with the batch size (Goyal et al. 2017) and with 1 - momentum, which makes each
    gradient's steps sum up to the same; of Adam and its kin with the square root of the batch size
    (Malladi et al. 2022).
    """
    size = float(other.get("batch_size", 1)) / float(base.get("batch_size", 1))
    optimizer = str(base.get("optimizer", ""))
    if optimizer == "SGD":
        rest = (1 - float(other.get("momentum", 0.0))) / (1 - float(base.get("momentum", 0.0)))
        return size * rest
    return math.sqrt(size)
