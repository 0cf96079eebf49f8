"""Passes over the training data: the batches of a trial, from wherever it stands."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from worker.lanes.randomness import seed_for, set_random_state
from worker.lanes.trial import TrialTraining
from worker.training.data import Batch, Batches

Pass = Iterator[tuple[int, Batch]]  #: Batches with their numbers within the pass.


class Passes:
    """Gives trials the batches that they have not seen.

    A pass gives the same batches in the same order whatever was trained before it in this process:
    randomness is seeded from (seed, pass) at its beginning. A trial that stands in the middle of
    one goes on as if nothing had been between. The last pass is kept open for that: to begin it
    anew, all batches before that place must be loaded again.
    """

    def __init__(self) -> None:
        self._open: tuple[tuple[int, ...], Pass] | None = None

    def take(self, data: Batches, trial: TrialTraining) -> Pass:
        """The batches that are left of a trial's pass; randomness stands as its trial left it."""
        known, self._open = self._open, None
        if known is not None and known[0] == _place(trial):
            batches = known[1]
        else:
            seed_for(trial.work.seed, trial.epoch + 1)
            batches = enumerate(data)
            for _ in islice(batches, trial.batch):
                pass
        if trial.random:
            set_random_state(trial.random)
        return batches

    def keep(self, batches: Pass, trial: TrialTraining) -> None:
        """Keep a pass open for whoever goes on from where this trial stands."""
        self._open = (_place(trial), batches)

    def close(self) -> None:
        """Let it go, and with it the processes that load its data."""
        self._open = None


def _place(trial: TrialTraining) -> tuple[int, ...]:
    return trial.work.seed, trial.batch_size, trial.epoch, trial.batch
