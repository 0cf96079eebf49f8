"""Optuna's samplers and pruners as a policy: every trial trains on until it ends or is stopped."""

from __future__ import annotations

import math
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
from orchestrator.search.policy import (
    Counts,
    Policy,
    Proposal,
    SearchContext,
    Suggestion,
    originals,
)
from orchestrator.search.space import beside_the_rate, search_space
from orchestrator.storage import ledger

_ROUNDS = 4  # in which a sampler that learns proposes its trials, at least


class OptunaPolicy(Policy):
    """An Optuna sampler and pruner."""

    def __init__(self, context: SearchContext) -> None:
        self._study, self._asking = context.study, Asking(context)
        self._counted = context.counts
        self._spec, self._inspection = spec, inspection = context.spec, context.inspection
        self._study.pruner = make_pruner(spec, inspection)
        self._beside = beside_the_rate(spec, inspection.search_schedule)
        self.restrict_range(context.lr_range)

    def restrict_range(self, lr_range: tuple[float, float]) -> None:
        self._starts = start_rates(self._spec, lr_range)
        self._space = search_space(lr_range, self._beside)
        asked = len(self._asking.asked())
        self._study.sampler = make_sampler(self._spec, self._space, asked)

    def _counts(self) -> Counts:
        """Before the present proposals, which nobody has noted yet."""
        if self._counted is not None:
            return self._counted()
        searched = originals(self._asking.asked())
        return Counts(len(searched), sum(not trial.state.is_finished() for trial in searched))

    @property
    def total(self) -> int:
        if self._searching(self._counts()):
            finalists = min(FINALISTS, self._spec.trials)
            return self._spec.trials + (self._spec.replicates - 1) * finalists
        trials = self._asking.asked()
        return len(trials) + len(self._asking.missing_replicates(trials))

    def done_share(self) -> float:
        counts = self._counts()
        ended = counts.searching - counts.unfinished
        if not self._searching(counts):
            trials = self._asking.asked()
            ended = sum(trial.state.is_finished() for trial in trials)
        return ended / max(1, self.total)

    @property
    def exhausted(self) -> bool:
        """Whether it has nothing more to propose, whatever else ends."""
        if self._searching(self._counts()):
            return False
        return not self._asking.missing_replicates(self._asking.asked())

    def at_once(self, lanes: int, workers: int) -> int:
        """How many trials to start in the next job, at least 1, where ``lanes`` would be fastest.

        ``workers`` that are free share what is left.
        """
        counts = self._counts()
        asked, running = counts.searching, counts.unfinished
        left = self._spec.trials - asked
        if not left:
            left = len(self._asking.missing_replicates(self._asking.asked()))
        lanes = max(1, min(lanes, math.ceil(left / max(1, workers))))
        if self._spec.sampler in LEARNS_NOTHING or asked >= self._spec.trials:
            return lanes
        blind = len(self._starts) if self._spec.sampler == "auto" else TPE_STARTUP
        # After the blind start, what runs already counts: it will teach the next ones.
        learning = math.ceil(self._spec.trials / _ROUNDS) - running
        return max(1, min(lanes, blind - asked if asked < blind else learning))

    def suggest(self, lanes: int | None, workers: int) -> Suggestion:
        count = lanes or self.at_once(self._inspection.plan.lanes, workers)
        counts = self._counts()
        new: list[Proposal] = []
        while len(new) < count:
            asked = counts.searching + len(new)
            if asked >= self._spec.trials:
                break
            if asked < len(self._starts):
                self._asking.fix({"lr": self._starts[asked]}, {})
            new.append(self._asking.ask(self._space))
        if not new and not self._searching(counts):
            new += self._asking.replicates(self._space, count)
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

    def _searching(self, counts: Counts) -> bool:
        """Whether there are rates to ask for, or to wait for."""
        return counts.unfinished > 0 or counts.searching < self._spec.trials

    def should_stop(self, trial: FrozenTrial) -> str | None:
        if ledger.REPLICATE_OF in trial.user_attrs or trial.last_step is None:
            return None
        if not self._study.pruner.prune(self._study, trial):
            return None
        name = type(self._study.pruner).__name__.removesuffix("Pruner")
        return f"{name} at step {trial.last_step}"
