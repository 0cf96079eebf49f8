"""The losses on held-out data, and what loss counts as diverged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

from justright.errors import TaskError
from worker.lanes.lanes import Lanes
from worker.training.data import Batch, Batches
from worker.training.horizon import Horizon, looking_samples
from worker.training.samples import samples

_LONGEST = 3  # trainings that a stream of held-out data may be long ...
_ALWAYS = 1000  # ... or this many batches, if that is more


class Ending:
    """Held-out batches of which nobody knows how many there are: they must come to an end."""

    def __init__(self, batches: Batches, steps: int) -> None:
        """``steps``: of a full training."""
        self._batches, self._steps = batches, steps

    def of_size(self, batch_size: int) -> Ending:
        return Ending(self._batches.of_size(batch_size), self._steps)

    def part(self, count: int) -> Batches:
        return self._batches.part(count)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        most = max(_ALWAYS, _LONGEST * self._steps)
        for number, batch in enumerate(self._batches):
            if number >= most:
                raise TaskError(
                    f"validation_data() has no length, and after {most} batches no end, where a "
                    f"full training takes {self._steps}. Expected a stream that ends: let it stop, "
                    "for example with itertools.islice, or return a Dataset with a length."
                )
            yield batch


class HeldOut:
    """The data on which losses are taken: all of them, or a part for looks on the way."""

    def __init__(
        self, data: Batches, horizon: Horizon, batch_size: int, device: torch.device
    ) -> None:
        self._data, self._horizon, self._device = data, horizon, device
        self.looks_at = looking_samples(horizon, batch_size, data)
        """How many samples a look takes, about; None: all."""
        self._part = None if self.looks_at is None else data.part(self.looks_at)
        self._offset = 0.0  # what all have more of untrained loss than the part

    def without_part(self) -> HeldOut:
        """The same, with all data at each look, whatever that costs."""
        self._part = self.looks_at = None
        return self

    def losses(self, lanes: Lanes, mark: int, alive: Callable[[], None]) -> torch.Tensor:
        """The losses at a mark, shape (lanes,).

        Those of the part are moved by as much as the whole lies above it untrained: else a loss of
        the one could not be compared with one of the other.
        """
        if self._part is None or self._horizon.whole(mark):
            return mean_losses(lanes, self._data, self._device, alive)
        return mean_losses(lanes, self._part, self._device, alive) + self._offset

    def untrained(self, lanes: Lanes, alive: Callable[[], None]) -> float:
        """The loss of a model that was not trained, on all of the data. To be asked first."""
        loss = float(mean_losses(lanes, self._data, self._device, alive))
        if self._part is not None:
            offset = loss - float(mean_losses(lanes, self._part, self._device, alive))
            self._offset = offset if math.isfinite(offset) else 0.0
        return loss


@torch.no_grad()  # not inference_mode: a tensor that the task keeps must serve training, too
def mean_losses(
    lanes: Lanes, batches: Batches, device: torch.device, alive: Callable[[], None]
) -> torch.Tensor:
    """The mean loss of each trial over some data, shape (lanes,), on the CPU.

    ``alive`` is called after each batch.
    """
    lanes.train(False)
    total = torch.zeros(len(lanes.trials), device=device)
    seen = 0
    for inputs, targets in batches:
        count = samples(inputs, targets) or 1
        total = total + lanes.losses(inputs, targets) * count
        seen += count
        alive()
    return total.cpu().double() / max(1, seen)


def divergence(loss: float, when: str, initial: float | None, reference: float) -> str:
    """Why a loss counts as diverged; "" where it does not.

    ``when``: "in epoch 3". ``initial``: the loss of the untrained model, None: not known. A loss
    that lies by more than the ``reference`` above that is no training any more; 0: nothing tells
    what would be far.
    """
    if not math.isfinite(loss):
        return f"the loss was {loss} {when}"
    if initial is not None and reference > 0 and loss - initial > reference:
        return f"the loss was {loss:.3g} {when}, untrained it is {initial:.3g}"
    return ""
