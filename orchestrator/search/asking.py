"""How trials are asked of an Optuna study: searching ones, and replicates of the best."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from orchestrator.search.policy import Proposal, SearchContext, originals
from orchestrator.search.unit import Unit
from orchestrator.storage import ledger

_SEPARATE = 3.0  # standard errors
FINALISTS = 3  # rates that are trained again with other seeds when replicates are asked for


class Asking:
    """Asks one study for trials, each with its seed."""

    def __init__(self, context: SearchContext) -> None:
        self._study, self._storage, self._spec = context.study, context.storage, context.spec
        self._waits = self._any_waits()  #: A trial was fixed, and not asked yet.

    def asked(self) -> list[FrozenTrial]:
        """All trials so far that have a rate."""
        return [t for t in self._study.get_trials(deepcopy=False) if "lr" in t.params]

    def fix(self, params: dict[str, Any], attributes: dict[str, Any]) -> None:
        """Say what the next trial is. One that a kill has left behind is that very one."""
        if not self._waits:
            self._study.enqueue_trial(params, user_attrs=attributes)
            self._waits = True

    def ask(self, space: dict[str, BaseDistribution]) -> Proposal:
        """The next trial, as RUNNING: the one that was fixed, else what the sampler proposes."""
        trial = self._next(space)
        seed = trial.user_attrs.get(ledger.SEED)
        if seed is None:
            seed = self._spec.seed
            self._storage.set_trial_user_attr(trial._trial_id, ledger.SEED, seed)
        others = {name: value for name, value in trial.params.items() if name != "lr"}
        return Proposal(
            trial._trial_id,
            trial.number,
            trial.params["lr"],
            seed,
            others,
            trial.user_attrs.get(ledger.REPLICATE_OF),
            trial.user_attrs.get(ledger.UNTIL),
        )

    def _any_waits(self) -> bool:
        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _next(self, space: dict[str, BaseDistribution]) -> Trial:
        """The next trial of the study. Optuna's own ``ask`` first looks through all trials for one
        that waits: here that is known."""
        if self._waits:
            found = self._study.ask(space)
            self._waits = self._any_waits()
            return found
        self._study._thread_local.cached_all_trials = None  # what a sampler reads
        # Through the study's own storage: on a database that is a cache, which has to know of it.
        number = self._study._storage.create_new_trial(self._study._study_id)
        trial = Trial(self._study, number)
        for name, distribution in space.items():
            trial._suggest(name, distribution)
        return trial

    def replicate(self, space: dict[str, BaseDistribution]) -> Proposal | None:
        """The next replicate that is missing."""
        for original, seed in self.missing_replicates(self.asked())[:1]:
            self.fix(original.params, {ledger.SEED: seed, ledger.REPLICATE_OF: original.number})
            return self.ask(space)
        return None

    def replicates(self, space: dict[str, BaseDistribution], most: int) -> tuple[Proposal, ...]:
        """The next replicates that are missing, at most so many."""
        found: list[Proposal] = []
        while len(found) < most and (proposal := self.replicate(space)) is not None:
            found.append(proposal)
        return tuple(found)

    def missing_replicates(self, trials: Sequence[FrozenTrial]) -> list[tuple[FrozenTrial, int]]:
        """The best rates with other seeds, one seed after the other, as far as not asked yet.

        A rate that the seeds so far tell from the best one gets no more of them.
        """
        complete = [t for t in originals(trials) if t.state == TrialState.COMPLETE]
        finalists = sorted(complete, key=lambda t: t.value or 0.0)[:FINALISTS]
        losses = {t.number: [t.value or 0.0] for t in finalists}
        asked = set()
        for trial in trials:
            of = trial.user_attrs.get(ledger.REPLICATE_OF)
            if of is not None:
                asked.add((of, trial.user_attrs[ledger.SEED]))
                if of in losses and trial.state == TrialState.COMPLETE:
                    losses[of].append(trial.value or 0.0)
        best = min(losses.values(), key=_mean, default=[])
        open_ = [t for t in finalists if not _apart(losses[t.number], best)]
        seeds = (self._spec.seed + number for number in range(1, self._spec.replicates))
        return [(t, seed) for seed in seeds for t in open_ if (t.number, seed) not in asked]


def _mean(losses: Sequence[float]) -> float:
    unit = Unit.of(losses)
    return unit.restore(statistics.fmean(unit.shrink(x) for x in losses))


def _apart(losses: Sequence[float], best: Sequence[float]) -> bool:
    """Whether the difference of the means is beyond their noise: three standard errors."""
    if losses is best or min(len(losses), len(best)) < 3:
        return False
    unit = Unit.of([*losses, *best])
    losses, best = [unit.shrink(x) for x in losses], [unit.shrink(x) for x in best]
    error = math.hypot(*(statistics.stdev(x) / math.sqrt(len(x)) for x in (losses, best)))
    return statistics.fmean(losses) - statistics.fmean(best) > _SEPARATE * error
