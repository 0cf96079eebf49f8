"""The default search as a policy: trials train a few steps at a time, pause, and go on later.

Who goes on is the planner's decision (``planner.py``); here it is read from, and written to, the
study. A trial pauses at its ``until`` step and waits there; at the end of the study, those that
never went on are pruned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial

from justright.lifecycle import TrialState
from justright.marks import after
from justright.spec import WIDEST_LR
from orchestrator.search.asking import FINALISTS, Asking
from orchestrator.search.freeze_thaw.planner import Plan, Planner
from orchestrator.search.loss_curve import LossCurve
from orchestrator.search.policy import (
    PLATEAU_SHARE,
    Estimate,
    Policy,
    Proposal,
    SearchContext,
    Suggestion,
    originals,
)
from orchestrator.search.space import Distributions
from orchestrator.storage import ledger

_REPORTED = 0.5  # share of the first rates that must have reported before any goes on
_FEW = 16  # rates that a search begins, about
_SURE = 0.9  # share of like tasks' noise in the interval: on other tasks it holds 95 % or more
_SAFE = 0.94  # chance of being as good that the plateau asks for: it holds in nine of ten
_CHANCE = 0.12  # ... and that the rates have, at least, among which the best one may be


class FreezeThawPolicy(Policy):
    """Searches the rate of a task whose trials can pause."""

    def __init__(
        self,
        context: SearchContext,
        *,
        fixed: Mapping[str, Any] | None = None,
        beside: Distributions | None = None,
    ) -> None:
        """``beside``: what is searched beside the rate, by others, and here ``fixed``. Trials of
        theirs are not looked at.
        """
        self._asking = Asking(context)
        self._spec, self._inspection = context.spec, context.inspection
        self._hint = context.hint
        self._fixed, self._beside = dict(fixed or {}), dict(beside or {})
        self.restrict_range(context.lr_range)

    def restrict_range(self, lr_range: tuple[float, float]) -> None:
        low, high = lr_range if self._spec.lr else WIDEST_LR
        self.distribution = FloatDistribution(low, high, log=True)
        assert self._inspection.initial_loss is not None
        self._planner = Planner(
            self._inspection.initial_loss,
            self._inspection.marks,
            (math.log10(lr_range[0]), math.log10(lr_range[1])),
            (math.log10(low), math.log10(high)),
            self._spec.seed,
            None if self._hint is None else math.log10(self._hint),
            self._spec.budget,
        )

    # -- what the study says ------------------------------------------------------------------

    def _by_rate(self) -> dict[float, FrozenTrial]:
        """The trials that search, by their decades on the planner's grid."""
        found: dict[float, FrozenTrial] = {}
        for trial in originals(self._asking.asked()):
            if ledger.BESIDE in trial.user_attrs:
                continue
            found[self._planner.nearest(math.log10(trial.params["lr"]))] = trial
        return found

    def _curves(self, trials: dict[float, FrozenTrial]) -> dict[float, LossCurve]:
        return {
            x: self._curve(trial)
            for x, trial in trials.items()
            if trial.intermediate_values or ledger.DIVERGED in trial.user_attrs
        }

    def _curve(self, trial: FrozenTrial) -> LossCurve:
        return LossCurve(
            trial.params["lr"],
            trial.intermediate_values,
            self._inspection.initial_loss,
            diverged=ledger.DIVERGED in trial.user_attrs,
            died=after(self._inspection.marks, trial.last_step or 0),
        )

    def _busy(self, trials: dict[float, FrozenTrial]) -> set[float]:
        """Rates that are in training, or about to be."""
        return {x for x, t in trials.items() if not t.state.is_finished() and not _paused(t)}

    def _closed(self, trials: dict[float, FrozenTrial]) -> set[float]:
        """Rates that cannot be trained on: failed, or stopped from outside."""
        ended = {x for x, t in trials.items() if t.state.is_finished()}
        told = optuna.trial.TrialState.COMPLETE
        return {x for x in ended if trials[x].state != told and not _diverged(trials[x])}

    # -- decisions ----------------------------------------------------------------------------

    @property
    def total(self) -> int:
        asked = self._asking.asked()
        missing = len(self._asking.missing_replicates(asked)) if self._settled() else 0
        return max(len(asked) + missing, min(self._spec.trials, _FEW))

    def done_share(self) -> float:
        """Steps trained, of those that the planner expects to need, replicates included."""
        asked = self._asking.asked()
        repeated = sum(t.last_step or 0 for t in asked if ledger.REPLICATE_OF in t.user_attrs)
        horizon = self._planner.horizon
        if self._settled():
            missing = self._asking.missing_replicates(asked)
            replicates = repeated + len(missing) * horizon
        else:
            finalists = min(FINALISTS, self._spec.trials)
            replicates = (self._spec.replicates - 1) * finalists * horizon
        spent, expected = self._planner.outlook(self._curves(self._by_rate()))
        return (spent + repeated) / max(1.0, expected + replicates)

    def suggest(self, lanes: int | None, workers: int) -> Suggestion:
        lanes = lanes or self._inspection.plan.lanes
        trials = self._by_rate()
        curves, busy = self._curves(trials), self._busy(trials)
        if self._planner.settled(curves):
            return self._replicates(lanes)
        start = self._planner.probes(self._spec.trials)
        missing = [x for x in start if x not in trials]
        if missing and len(trials) < len(start):
            share = math.ceil(len(missing) / workers)
            return self._as_suggestion(
                Plan(self._planner.first, tuple(missing[: min(lanes, share)])), trials
            )
        if len(busy) > (1 - _REPORTED) * len(trials):
            return Suggestion()
        plan = self._planner.plan(
            curves,
            busy,
            self._closed(trials),
            lanes=lanes,
            capacity=lanes * (workers + len(_jobs(trials))),
            new=self._spec.trials - len(trials),
        )
        if plan is not None:
            return self._as_suggestion(plan, trials)
        return Suggestion() if busy else self._replicates(lanes)

    def _as_suggestion(self, plan: Plan, trials: dict[float, FrozenTrial]) -> Suggestion:
        resume = tuple(trials[x].number for x in plan.rates if x in trials)
        start = tuple(self._start(x, plan.until) for x in plan.rates if x not in trials)
        return Suggestion(plan.until, start, resume)

    def _start(self, decades: float, until: int) -> Proposal:
        rate = self._rate_at(decades)
        self._asking.fix({"lr": rate, **self._fixed}, {ledger.UNTIL: until})
        return self._asking.ask(self._space)

    def _rate_at(self, decades: float) -> float:
        """A short number, unless the range is so narrow that it would be another place's rate."""
        space = self.distribution
        for digits in (6, 17):
            rate = min(max(float(f"{10**decades:.{digits}g}"), space.low), space.high)
            if self._planner.nearest(math.log10(rate)) == decades:
                return rate
        return rate

    @property
    def _space(self) -> Distributions:
        return {"lr": self.distribution, **self._beside}

    def _replicates(self, lanes: int) -> Suggestion:
        return Suggestion(start=self._asking.replicates(self._space, lanes))

    def _settled(self) -> bool:
        return self._planner.settled(self._curves(self._by_rate()))

    def stop_reason(self) -> str | None:
        over = self.over
        missing = over and self._asking.missing_replicates(self._asking.asked())
        return None if missing else over

    @property
    def over(self) -> str | None:
        """Why no further rate is trained, asked while none is in training; None: it goes on."""
        if self._settled():
            return "converged"
        trials = self._by_rate()
        if len(trials) < len(self._planner.probes(self._spec.trials)) or self._busy(trials):
            return None
        curves, closed = self._curves(trials), self._closed(trials)
        new = self._spec.trials - len(trials)
        if self._planner.plan(curves, (), closed, new=new) is not None:
            return None
        return "trials" if self._planner.wanted(curves, (), closed, new=new) is None else "budget"

    def should_stop(self, trial: FrozenTrial) -> str | None:
        return None  # rungs are short: what is not promising stays frozen

    def estimate(self, lr: float, loss: float, params: Mapping[str, Any]) -> Estimate | None:
        curves = self._curves(self._by_rate())
        if not curves:
            return None
        forecast, place = self._planner.forecast(curves), math.log10(lr)
        safe = forecast.band(place, PLATEAU_SHARE, _SAFE, or_noise=True)
        uncertain = forecast.band(place, PLATEAU_SHARE, _CHANCE)
        spread = forecast.deviation(np.random.default_rng(self._spec.seed), _SURE)
        assert self._inspection.initial_loss is not None
        gained = max(self._inspection.initial_loss - loss, 0.0)
        tried = [x for x, curve in curves.items() if not curve.diverged]
        coldest, hottest = min(tried, default=place), max(tried, default=place)

        def rates(band: tuple[float, float]) -> tuple[float, float]:
            low, high = max(band[0], coldest), min(band[1], hottest)
            return min(lr, 10**low), max(lr, 10**high)

        return Estimate(rates(safe), rates(uncertain), spread * gained)

    def recommend(self) -> dict[str, Any] | None:
        rate = self.best_rate
        return None if rate is None else {"lr": rate, **self._fixed}

    @property
    def best_rate(self) -> float | None:
        """The rate with the lowest expected regret; None: nothing is known."""
        curves = self._curves(self._by_rate())
        return float(10 ** self._planner.forecast(curves).best) if curves else None


def _diverged(trial: FrozenTrial) -> bool:
    return ledger.DIVERGED in trial.user_attrs


def _paused(trial: FrozenTrial) -> bool:
    """Whether it waits for a promotion, not for its study to go on."""
    until = trial.user_attrs.get(ledger.UNTIL)
    waits = trial.user_attrs.get(ledger.STATE) == TrialState.PAUSED
    return waits and until is not None and (trial.last_step or 0) >= until


def _jobs(trials: dict[float, FrozenTrial]) -> set[str]:
    """The jobs that are queued or running."""
    at_work = (TrialState.QUEUED, TrialState.RUNNING)
    return {
        t.user_attrs.get(ledger.JOB, "")
        for t in trials.values()
        if not t.state.is_finished() and t.user_attrs.get(ledger.STATE) in at_work
    } - {""}
