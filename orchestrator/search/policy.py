"""What to train next, what to pause, what to stop: the search behind a small interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from justright.messages import Inspection
from justright.spec import StudySpec
from orchestrator.storage import ledger

PLATEAU_SHARE = 0.01  #: Of all that training gains: within it a rate counts as equally good.


@dataclass(frozen=True)
class Counts:
    """How far the asking has come, without a look at every trial."""

    searching: int  #: Trials that search, not those that repeat.
    unfinished: int  #: ... of which so many have not ended.


@dataclass(frozen=True)
class SearchContext:
    """What every policy is made from. A policy made anew from it decides as the last one would."""

    study: optuna.Study  #: Where trials are asked, and what it knows of them.
    storage: BaseStorage  #: The same, for what Optuna's study does not write.
    spec: StudySpec  #: What the user asked for.
    inspection: Inspection  #: What a worker saw of the task.
    lr_range: tuple[float, float]  #: The rates to search, lowest and highest.
    hint: float | None = None  #: The best rate of a study of a similar task.
    counts: Callable[[], Counts] | None = None  #: As the trial book has them; None: count.


@dataclass(frozen=True)
class Proposal:
    """A trial to start. It is in the study already, as RUNNING."""

    trial_id: int
    number: int
    lr: float
    seed: int
    params: dict[str, Any] = field(default_factory=dict)
    replicate_of: int | None = None
    until: int | None = None


@dataclass(frozen=True)
class Suggestion:
    """What one job shall train, all to the same step. An empty one: nothing at present."""

    until: int | None = None  #: The step to train to; None: the horizon.
    start: tuple[Proposal, ...] = ()  #: New trials.
    resume: tuple[int, ...] = ()  #: Paused trials that go on, by number.


@dataclass(frozen=True)
class Estimate:
    """What a search knows of its answer beyond the trials that have come to their end."""

    plateau: tuple[float, float]  #: The rates that are safe: as good, for all that is known.
    uncertain: tuple[float, float]  #: The rates among which the best one may be.
    deviation: float  #: Half of a 95 % interval of one training's loss about the mean over seeds.


class Policy(ABC):
    """Decides for one study.

    Everything that a policy knows is in the study, so it can be made anew at any time: its calls
    may be repeated, and only ``suggest`` writes (it asks for new trials).
    """

    @property
    @abstractmethod
    def total(self) -> int:
        """How many trials it will ask for, as far as it knows."""

    def done_share(self) -> float:
        """The share of the expected work that is done, as the search forecasts it, from 0 to 1.

        0 where a search forecasts nothing.
        """
        return 0.0

    @abstractmethod
    def suggest(self, lanes: int | None, workers: int) -> Suggestion:
        """What the next job shall train.

        ``lanes``: the most trials of a job; None: as many as pay. Those ``workers`` that are free
        share what is left.
        """

    @abstractmethod
    def stop_reason(self) -> str | None:
        """Why the search is over, asked while nothing is in training; None: it goes on."""

    @abstractmethod
    def should_stop(self, trial: FrozenTrial) -> str | None:
        """Why this trial should stop after its latest report, or None: it goes on."""

    @abstractmethod
    def restrict_range(self, lr_range: tuple[float, float]) -> None:
        """From now on, search in this range only."""

    @abstractmethod
    def recommend(self) -> dict[str, Any] | None:
        """What it would answer if it stopped now: the rate as ``lr``, and what else it searches.
        None: nothing is known."""

    def estimate(self, lr: float, loss: float, params: Mapping[str, Any]) -> Estimate | None:
        """What to expect about an answer; None: no more than what its trials tell."""
        return None


PolicyFactory = Callable[[SearchContext], Policy]


def originals(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that search, without those that repeat."""
    return [trial for trial in trials if ledger.REPLICATE_OF not in trial.user_attrs]
