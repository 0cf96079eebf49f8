"""What a study would answer now, and what it answers at its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import optuna

from justright.lifecycle import TrialState
from justright.messages import Answer
from orchestrator.answers.advice import with_words
from orchestrator.answers.answer import make_answer
from orchestrator.answers.importance import importance
from orchestrator.search.policy import Policy, originals
from orchestrator.search.space import beside_the_rate
from orchestrator.studies.study_record import StudyRecord
from orchestrator.studies.trials import Trials

T = TypeVar("T")

_ASK_EVERY = 2.0  # seconds between what a snapshot asks of the search


class CurrentAnswer:
    """Makes the answer of one study from its trials, and from what its search expects."""

    def __init__(
        self,
        study: optuna.Study,
        record: StudyRecord,
        trials: Trials,
        clock: Callable[[], float],
    ) -> None:
        self._study, self._record, self._trials, self._clock = study, record, trials, clock
        self._said: dict[str, tuple[Any, float, Any]] = {}

    @property
    def horizon(self) -> int | None:
        """Steps of a full training: told by the task, else the longest that was seen."""
        told = self._record.inspection.horizon if self._record.inspection else None
        return told or max((record.step for record in self._trials), default=0) or None

    def make(self, policy: Policy | None, seconds: float) -> Answer:
        """The answer as of now. ``seconds``: how long the study was at work."""
        record = self._record
        results = [trial.result() for trial in self._trials]
        answer = make_answer(
            record.name,
            record.state,
            record.reason,
            results,
            horizon=self.horizon,
            epoch_steps=record.inspection.epoch_steps if record.inspection else 1.0,
            initial_loss=record.inspection.initial_loss if record.inspection else None,
            seconds=seconds,
            seed=record.spec.seed,
            target=record.spec.target,
            unit_of_time="epoch" if record.counts_epochs else "step",
        )
        answer = self._with_expectations(answer, policy)
        return with_words(
            answer.model_copy(
                update={
                    "importance": self._importance(),
                    "warnings": (*record.warnings, *self._failed()),
                    "metric": record.metric,
                }
            ),
            record.spec,
            results,
            record.range,
        )

    def done_share(self, policy: Policy | None) -> float:
        """The share of the expected work that is done, as the search thinks; 0: there is none."""
        return 0.0 if policy is None else self._lately("share", policy.done_share)

    def _failed(self) -> tuple[str, ...]:
        """That trials have failed beside others, and what the last one has failed of."""
        failures = [t.failure for t in self._trials if t.state == TrialState.FAILED and t.failure]
        if not failures or len(failures) == len(self._trials):
            return ()
        why = failures[-1].message.strip().partition("\n")[0]
        return (f"{len(failures)} of {len(self._trials)} trials failed, the last one: {why}",)

    def _importance(self) -> dict[str, float]:
        """How much each of several parameters mattered. For the final answer: it takes a second."""
        record = self._record
        if record.inspection is None or record.active:
            return {}
        beside = beside_the_rate(record.spec, record.inspection.search_schedule)
        if not beside:
            return {}
        trials = originals(self._study.get_trials(deepcopy=False))
        rate = next((t.distributions["lr"] for t in trials if "lr" in t.distributions), None)
        if rate is None:
            return {}
        untrained = record.inspection.initial_loss
        return importance(trials, {"lr": rate, **beside}, record.spec.seed, untrained)

    def _with_expectations(self, answer: Answer, policy: Policy | None) -> Answer:
        """What the search knows beyond the trials that have come to their end."""
        if policy is None:
            return answer
        if answer.best_lr is None:
            # No training has come to its end yet, but what has been seen speaks for a rate.
            promising = any(r.best is not None and not r.diverged for r in self._trials)
            found = (self._lately("rate", policy.recommend) if promising else None) or {}
            others = {name: value for name, value in found.items() if name != "lr"}
            bands = self._bands(policy, found) if found and not self._record.active else {}
            return answer.model_copy(update={"best_lr": found.get("lr"), "params": others, **bands})
        if answer.loss is None:
            return answer
        ask = partial(policy.estimate, answer.best_lr, answer.loss, answer.params)
        expected = self._lately("estimate", ask, answer.best_lr)
        if expected is None:
            return answer
        changes: dict[str, Any] = {
            "plateau": expected.plateau,
            "uncertain": expected.uncertain,
        }
        if answer.loss_interval is None:
            half = expected.deviation
            changes["loss_interval"] = (answer.loss - half, answer.loss + half)
        return answer.model_copy(update=changes)

    def _bands(self, policy: Policy, found: dict[str, Any]) -> dict[str, Any]:
        """How sure a rate is that no training has come to the end with."""
        lowest = min(r.best for r in self._trials if r.best is not None and not r.diverged)
        others = {name: value for name, value in found.items() if name != "lr"}
        expected = policy.estimate(found["lr"], lowest, others)
        if expected is None:
            return {}
        return {"plateau": expected.plateau, "uncertain": expected.uncertain}

    def _lately(self, what: str, ask: Callable[[], T], about: Any = None) -> T:
        """What the search said a moment ago: a snapshot must cost less than a decision. For the
        final answer it is asked anew."""
        known, since, found = self._said.get(what, (None, -math.inf, None))
        if not self._record.active or known != about or self._clock() - since >= _ASK_EVERY:
            found = ask()
            self._said[what] = (about, self._clock(), found)
        return cast(T, found)
