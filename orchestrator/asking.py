"""How trials are asked of an Optuna study: searching ones, and replicates of the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from justright.spec import StudySpec
from orchestrator import ledger
from orchestrator.policy import Proposal, originals

FINALISTS = 3  # rates that are trained again with other seeds when replicates are asked for


class Asking:
    """Asks one study for trials, each with its seed."""

    def __init__(self, study: optuna.Study, storage: BaseStorage, spec: StudySpec) -> None:
        self._study, self._storage, self._spec = study, storage, spec

    def asked(self) -> list[FrozenTrial]:
        """All trials so far that have a rate."""
        return [t for t in self._study.get_trials(deepcopy=False) if "lr" in t.params]

    def fix(self, params: dict[str, Any], attributes: dict[str, Any]) -> None:
        """Say what the next trial is. One that a kill has left behind is that very one."""
        if not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.enqueue_trial(params, user_attrs=attributes)

    def ask(self, space: dict[str, BaseDistribution]) -> Proposal:
        """The next trial, as RUNNING: the one that was fixed, else what the sampler proposes."""
        trial = self._study.ask(space)
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

    def replicate(self, space: dict[str, BaseDistribution]) -> Proposal | None:
        """The next replicate that is missing."""
        for original, seed in self.missing_replicates(self.asked())[:1]:
            self.fix(original.params, {ledger.SEED: seed, ledger.REPLICATE_OF: original.number})
            return self.ask(space)
        return None

    def missing_replicates(self, trials: Sequence[FrozenTrial]) -> list[tuple[FrozenTrial, int]]:
        """The best rates with other seeds, one seed after the other, as far as not asked yet."""
        complete = [t for t in originals(trials) if t.state == TrialState.COMPLETE]
        finalists = sorted(complete, key=lambda t: t.value or 0.0)[:FINALISTS]
        asked = {
            (t.user_attrs[ledger.REPLICATE_OF], t.user_attrs[ledger.SEED])
            for t in trials
            if ledger.REPLICATE_OF in t.user_attrs
        }
        seeds = (self._spec.seed + number for number in range(1, self._spec.replicates))
        wanted = [(original, seed) for seed in seeds for original in finalists]
        return [
            (original, seed) for original, seed in wanted if (original.number, seed) not in asked
        ]
