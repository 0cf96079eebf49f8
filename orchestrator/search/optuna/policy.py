"""Optuna's samplers and pruners as a policy: every trial trains on until it ends or is stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from orchestrator.search.asking import FINALISTS, Asking
from orchestrator.search.optuna.pruners import make_pruner
from orchestrator.search.optuna.samplers import (
    LEARNS_NOTHING,
    TPE_STARTUP,
    make_sampler,
    start_rates,
)
from orchestrator.search.policy import Policy, Proposal, SearchContext, Suggestion, originals
from orchestrator.search.space import beside_the_rate, search_space
from orchestrator.storage import ledger

_ROUNDS = 4  # in which a sampler that learns proposes its trials, at least


class OptunaPolicy(Policy):
    """An Optuna sampler and pruner."""

    def __init__(self, context: SearchContext) -> None:
        self._study, self._asking = context.study, Asking(context)
        self._spec, self._inspection = spec, inspection = context.spec, context.inspection
        self._study.pruner = make_pruner(spec, inspection.epochs, inspection.initial_loss)
        self._beside = beside_the_rate(spec, inspection.search_schedule)
        self.restrict_range(context.lr_range)

    def restrict_range(self, lr_range: tuple[float, float]) -> None:
        self._starts = start_rates(self._spec, lr_range)
        self._space = search_space(lr_range, self._beside)
        asked = len(self._asking.asked())
        self._study.sampler = make_sampler(self._spec, self._space, asked)

    @property
    def total(self) -> int:
        trials = self._asking.asked()
        if self._searching(trials):
            finalists = min(FINALISTS, self._spec.trials)
            return self._spec.trials + (self._spec.replicates - 1) * finalists
        return len(trials) + len(self._asking.missing_replicates(trials))

    @property
    def exhausted(self) -> bool:
        """Whether it has nothing more to propose, whatever else ends."""
        trials = self._asking.asked()
        return not self._searching(trials) and not self._asking.missing_replicates(trials)

    def at_once(self, lanes: int, workers: int) -> int:
        """How many trials to start in the next job, at least 1, where ``lanes`` would be fastest.

        ``workers`` that are free share what is left.
        """
        trials = self._asking.asked()
        searched = originals(trials)
        asked, running = len(searched), sum(not t.state.is_finished() for t in searched)
        left = self._spec.trials - asked or len(self._asking.missing_replicates(trials))
        lanes = max(1, min(lanes, math.ceil(left / max(1, workers))))
        if self._spec.sampler in LEARNS_NOTHING or asked >= self._spec.trials:
            return lanes
        blind = len(self._starts) if self._spec.sampler == "auto" else TPE_STARTUP
        # After the blind start, what runs already counts: it will teach the next ones.
        learning = math.ceil(self._spec.trials / _ROUNDS) - running
        return max(1, min(lanes, blind - asked if asked < blind else learning))

    def propose(self) -> Proposal | None:
        """The next trial to start; None: nothing more, or nothing until others have ended."""
        trials = self._asking.asked()
        searched = originals(trials)
        if len(searched) < self._spec.trials:
            if len(searched) < len(self._starts):
                self._asking.fix({"lr": self._starts[len(searched)]}, {})
            return self._asking.ask(self._space)
        return None if self._searching(trials) else self._asking.replicate(self._space)

    def suggest(self, lanes: int | None, workers: int) -> Suggestion:
        count = lanes or self.at_once(self._inspection.plan.lanes, workers)
        new: list[Proposal] = []
        while len(new) < count and (proposal := self.propose()) is not None:
            new.append(proposal)
        return Suggestion(start=tuple(new))

    def stop_reason(self) -> str | None:
        return "trials" if self.exhausted else None

    def recommend(self) -> dict[str, Any] | None:
        trials = originals(self._asking.asked())
        complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
        if complete:
            return dict(min(complete, key=lambda t: t.value or 0.0).params)
        seen = [t for t in trials if t.intermediate_values and ledger.DIVERGED not in t.user_attrs]
        lowest = min(seen, key=lambda t: min(t.intermediate_values.values()), default=None)
        return None if lowest is None else dict(lowest.params)

    def _searching(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether there are rates to ask for, or to wait for."""
        searched = originals(trials)
        unfinished = any(not trial.state.is_finished() for trial in searched)
        return unfinished or len(searched) < self._spec.trials

    def should_stop(self, trial: FrozenTrial) -> str | None:
        if ledger.REPLICATE_OF in trial.user_attrs or trial.last_step is None:
            return None
        if not self._study.pruner.prune(self._study, trial):
            return None
        name = type(self._study.pruner).__name__.removesuffix("Pruner")
        return f"{name} at step {trial.last_step}"
