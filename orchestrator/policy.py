"""What to train next, what to stop: the search behind a small interface."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from justright.messages import Inspection
from justright.spec import StudySpec
from orchestrator import ledger
from orchestrator.sampling import (
    LEARNS_NOTHING,
    TPE_STARTUP,
    make_pruner,
    make_sampler,
    search_space,
    start_rates,
)

_ROUNDS = 4  # in which a sampler that learns proposes its trials, at least
_FINALISTS = 3  # rates that are trained again with other seeds when replicates are asked for


@dataclass(frozen=True)
class Proposal:
    """A trial to start. It is in the study already, as RUNNING."""

    trial_id: int
    number: int
    lr: float
    seed: int
    params: dict[str, Any] = field(default_factory=dict)
    replicate_of: int | None = None


class Policy(ABC):
    """Decides for one study. Everything it knows is in the study, so it can be made anew."""

    @property
    @abstractmethod
    def total(self) -> int:
        """How many trials it will propose, as far as it knows."""

    @property
    @abstractmethod
    def exhausted(self) -> bool:
        """Whether it has nothing more to propose, whatever else ends."""

    @abstractmethod
    def at_once(self, lanes: int, workers: int) -> int:
        """How many trials to start in the next job, at least 1, where ``lanes`` would be fastest.

        ``workers`` that are free share what is left.
        """

    @abstractmethod
    def propose(self) -> Proposal | None:
        """The next trial to start; None: nothing more, or nothing until others have ended."""

    @abstractmethod
    def judge(self, trial: FrozenTrial) -> str | None:
        """Why this trial should stop after its latest report, or None: it goes on."""

    @abstractmethod
    def narrow(self, lr_range: tuple[float, float]) -> None:
        """From now on, search in this range only."""


def _originals(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that search, without those that repeat."""
    return [trial for trial in trials if ledger.REPLICATE_OF not in trial.user_attrs]


class OptunaPolicy(Policy):
    """An Optuna sampler and pruner."""

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        spec: StudySpec,
        inspection: Inspection,
        lr_range: tuple[float, float],
    ) -> None:
        self._study, self._storage = study, storage
        self._spec, self._inspection = spec, inspection
        study.pruner = make_pruner(spec, inspection.epochs, inspection.initial_loss)
        self.narrow(lr_range)

    def narrow(self, lr_range: tuple[float, float]) -> None:
        self._starts = start_rates(self._spec, lr_range)
        self._space = search_space(lr_range, self._inspection.search_schedule)
        asked = len(self._asked())
        self._study.sampler = make_sampler(self._spec, self._space, asked)

    def _asked(self) -> list[FrozenTrial]:
        return [t for t in self._study.get_trials(deepcopy=False) if "lr" in t.params]

    @property
    def total(self) -> int:
        trials = self._asked()
        if self._searching(trials):
            finalists = min(_FINALISTS, self._spec.trials)
            return self._spec.trials + (self._spec.replicates - 1) * finalists
        return len(trials) + len(self._missing_replicates(trials))

    @property
    def exhausted(self) -> bool:
        trials = self._asked()
        return not self._searching(trials) and not self._missing_replicates(trials)

    def at_once(self, lanes: int, workers: int) -> int:
        trials = self._asked()
        originals = _originals(trials)
        asked, running = len(originals), sum(not t.state.is_finished() for t in originals)
        left = self._spec.trials - asked or len(self._missing_replicates(trials))
        lanes = max(1, min(lanes, math.ceil(left / max(1, workers))))
        if self._spec.sampler in LEARNS_NOTHING or asked >= self._spec.trials:
            return lanes
        blind = len(self._starts) if self._spec.sampler == "auto" else TPE_STARTUP
        # After the blind start, what runs already counts: it will teach the next ones.
        learning = math.ceil(self._spec.trials / _ROUNDS) - running
        return max(1, min(lanes, blind - asked if asked < blind else learning))

    def propose(self) -> Proposal | None:
        trials = self._asked()
        originals = _originals(trials)
        if len(originals) < self._spec.trials:
            if len(originals) < len(self._starts):
                self._enqueue({"lr": self._starts[len(originals)]}, {})
            return self._ask()
        if self._searching(trials):
            return None
        for original, seed in self._missing_replicates(trials)[:1]:
            attributes = {ledger.SEED: seed, ledger.REPLICATE_OF: original.number}
            self._enqueue(original.params, attributes)
            return self._ask()
        return None

    def _searching(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether there are rates to ask for, or to wait for."""
        originals = _originals(trials)
        unfinished = any(not trial.state.is_finished() for trial in originals)
        return unfinished or len(originals) < self._spec.trials

    def _missing_replicates(self, trials: Sequence[FrozenTrial]) -> list[tuple[FrozenTrial, int]]:
        """The best rates with other seeds, one seed after the other, as far as not asked yet."""
        complete = [t for t in _originals(trials) if t.state == TrialState.COMPLETE]
        finalists = sorted(complete, key=lambda t: t.value or 0.0)[:_FINALISTS]
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

    def _enqueue(self, params: dict[str, Any], attributes: dict[str, Any]) -> None:
        """Fix what the next trial is. One that a kill has left behind is that very one."""
        if not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.enqueue_trial(params, user_attrs=attributes)

    def _ask(self) -> Proposal:
        trial = self._study.ask(self._space)
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
        )

    def judge(self, trial: FrozenTrial) -> str | None:
        if ledger.REPLICATE_OF in trial.user_attrs or trial.last_step is None:
            return None
        if not self._study.pruner.prune(self._study, trial):
            return None
        name = type(self._study.pruner).__name__.removesuffix("Pruner")
        return f"{name} at step {trial.last_step}"
