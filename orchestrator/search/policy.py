"""What to train next, what to pause, what to stop: the search behind a small interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial

from orchestrator.storage import ledger


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
class Round:
    """What one job shall train, all to the same step: new trials, and paused ones by number."""

    until: int | None = None  #: None: to the horizon.
    new: tuple[Proposal, ...] = ()
    thaw: tuple[int, ...] = ()


@dataclass(frozen=True)
class Expected:
    """What a search knows of its answer beyond the trials that have come to their end."""

    plateau: tuple[float, float]  #: The rates that may be as good.
    deviation: float  #: Half of a 95 % interval of one training's loss about the mean over seeds.


class Policy(ABC):
    """Decides for one study. Everything it knows is in the study, so it can be made anew."""

    @property
    @abstractmethod
    def total(self) -> int:
        """How many trials it will propose, as far as it knows."""

    @abstractmethod
    def next(self, lanes: int | None, workers: int) -> Round:
        """What the next job shall train; an empty round: nothing at present.

        ``lanes``: the most trials of a job; None: as many as pay. Those ``workers`` that are free
        share what is left.
        """

    @abstractmethod
    def finished(self) -> str | None:
        """Why the search is over, asked while nothing is in training; None: it goes on."""

    @abstractmethod
    def judge(self, trial: FrozenTrial) -> str | None:
        """Why this trial should stop after its latest report, or None: it goes on."""

    @abstractmethod
    def narrow(self, lr_range: tuple[float, float]) -> None:
        """From now on, search in this range only."""

    @abstractmethod
    def recommend(self) -> dict[str, Any] | None:
        """What it would answer if it stopped now: the rate as ``lr``, and what else it searches.
        None: nothing is known."""

    def expect(self, lr: float, loss: float, params: Mapping[str, Any]) -> Expected | None:
        """What to expect about an answer; None: no more than what its trials tell."""
        return None


def originals(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that search, without those that repeat."""
    return [trial for trial in trials if ledger.REPLICATE_OF not in trial.user_attrs]
