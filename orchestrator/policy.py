"""What to train next, what to stop: the search behind a small interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from justright.messages import Inspection
from justright.spec import StudySpec
from orchestrator import ledger
from orchestrator.sampling import make_pruner, make_sampler, search_space, start_rates

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

    @abstractmethod
    def propose(self) -> Proposal | None:
        """The next trial to start; None: nothing more, or nothing until others have ended."""

    @abstractmethod
    def judge(self, trial: FrozenTrial) -> str | None:
        """Why this trial should stop after its latest report, or None: it goes on."""

    @abstractmethod
    def narrow(self, lr_range: tuple[float, float]) -> None:
        """From now on, search in this range only."""


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
        study.pruner = make_pruner(spec, inspection.epochs)
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
        finalists = min(_FINALISTS, self._spec.trials)
        return self._spec.trials + (self._spec.replicates - 1) * finalists

    def propose(self) -> Proposal | None:
        asked = self._asked()
        if len(asked) < self._spec.trials:
            if len(asked) < len(self._starts):
                self._study.enqueue_trial({"lr": self._starts[len(asked)]})
            trial = self._study.ask(self._space)
            return self._proposal(trial, self._spec.seed, None)
        if any(not trial.state.is_finished() for trial in asked[: self._spec.trials]):
            return None
        return self._propose_replicate(asked)

    def _propose_replicate(self, asked: list[FrozenTrial]) -> Proposal | None:
        """The best rates again with other seeds, one seed after the other."""
        complete = [t for t in asked[: self._spec.trials] if t.state == TrialState.COMPLETE]
        finalists = sorted(complete, key=lambda t: t.value or 0.0)[:_FINALISTS]
        done = len(asked) - self._spec.trials
        if done >= len(finalists) * (self._spec.replicates - 1):
            return None
        original = finalists[done % len(finalists)]
        self._study.enqueue_trial(original.params)
        trial = self._study.ask(self._space)
        seed = self._spec.seed + 1 + done // len(finalists)
        return self._proposal(trial, seed, original.number)

    def _proposal(self, trial: optuna.Trial, seed: int, replicate_of: int | None) -> Proposal:
        others = {name: value for name, value in trial.params.items() if name != "lr"}
        trial_id = trial._trial_id
        self._storage.set_trial_user_attr(trial_id, ledger.SEED, seed)
        if replicate_of is not None:
            self._storage.set_trial_user_attr(trial_id, ledger.REPLICATE_OF, replicate_of)
        return Proposal(trial_id, trial.number, trial.params["lr"], seed, others, replicate_of)

    def judge(self, trial: FrozenTrial) -> str | None:
        if ledger.REPLICATE_OF in trial.user_attrs or trial.last_step is None:
            return None
        if not self._study.pruner.prune(self._study, trial):
            return None
        name = type(self._study.pruner).__name__.removesuffix("Pruner")
        return f"{name} at step {trial.last_step}"
