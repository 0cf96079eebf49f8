"""The innermost loop: lanes are trained batch by batch to a step."""

from __future__ import annotations

from collections.abc import Callable

import torch

from justright.errors import TaskError
from worker.lanes.lanes import Lanes
from worker.lanes.randomness import random_state
from worker.training.data import Batches
from worker.training.horizon import length
from worker.training.passes import Pass, Passes
from worker.training.samples import samples

_CHECK_EVERY = 64  # batches between looks at the loss: each look waits for the device
_NO_BATCHES = "train_data() gave no batch at all: a pass over it was empty."
_MORE_BATCHES = (
    "train_data() gave more batches than its length says, {steps}. An IterableDataset in a "
    "DataLoader with workers gives all of it once for each worker: share it out by "
    "torch.utils.data.get_worker_info(), or use num_workers=0."
)


class Stepping:
    """Trains lanes to a step, over as many passes as it takes."""

    def __init__(
        self, data: Callable[[int], Batches], whole: Callable[[int], int], device: torch.device
    ) -> None:
        """``data``: the training data in batches of a size. ``whole``: the steps of a full training
        with them."""
        self._data, self._length, self._device = data, whole, device
        self._passes = Passes()

    def close(self) -> None:
        """Let an open pass over the data go."""
        self._passes.close()

    def to(self, lanes: Lanes, until: int, interrupted: Callable[[], bool]) -> bool:
        """Train to a step of their own; False if ``interrupted`` said so after a batch.

        Adds up each trial's losses; the sum is nan or inf as soon as a loss is, and such a trial
        leaves at the next look, or at the end.
        """
        lanes.train(True)
        lead = lanes.trials[0]  # all stand at the same batch of the same pass
        while lanes.trials and lead.step < until:
            if not self._train_pass(lanes, interrupted, until):
                return False
            lead = lanes.trials[0] if lanes.trials else lead
        return True

    def _train_pass(self, lanes: Lanes, interrupted: Callable[[], bool], until: int) -> bool:
        """The same within one pass over the data, or to its end."""
        lead = lanes.trials[0]
        train, whole = self._data(lead.batch_size), self._length(lead.batch_size)
        count = length(train)
        batches = self._passes.take(train, lead)
        for trial in lanes.trials:
            trial.random = {}
        totals = self._totals(lanes)
        seen = lead.seen
        for index, (inputs, targets) in batches:
            losses = lanes.step(inputs, targets, lead.step / whole)
            number = samples(inputs, targets) or 1
            totals = totals + losses * number
            seen += number
            step = lead.step + 1
            last = step == until
            for trial, total in lanes.by_trial(totals):
                trial.batch, trial.seen, trial.total, trial.step = index + 1, seen, total, step
            if last or index % _CHECK_EVERY == _CHECK_EVERY - 1:
                some = lanes.drop_diverged(totals)
                if not lanes.trials:
                    return True
                totals = self._totals(lanes) if some else totals
                lead = lanes.trials[0]
            if index + 1 == count and next(batches, None) is not None:
                raise TaskError(_MORE_BATCHES.format(steps=count))
            if last and index + 1 != count:
                self._rest(lanes, batches)
                return True
            if index + 1 == count:
                break
            if interrupted():
                return False
        self._end_pass(lanes, count)
        return True

    def _rest(self, lanes: Lanes, batches: Pass) -> None:
        """They stop in the middle of a pass. It is kept open for whoever goes on from there."""
        state = random_state()
        for trial in lanes.trials:
            trial.random = state
        self._passes.keep(batches, lanes.trials[0])

    def _end_pass(self, lanes: Lanes, count: int | None) -> None:
        """They stand at the beginning of the next pass.

        Where a pass has given fewer batches than its length says, it counts as whole all the same.
        """
        if not lanes.trials[0].batch:
            raise TaskError(_NO_BATCHES)
        for trial in lanes.trials:
            trial.step += count - trial.batch if count is not None else 0
            trial.epoch, trial.batch = trial.epoch + 1, 0

    def _totals(self, lanes: Lanes) -> torch.Tensor:
        """The sums of the losses of this epoch so far, shape (lanes,)."""
        zero = torch.zeros((), device=self._device)
        return lanes.rows(lambda trial: zero if trial.total is None else trial.total)
