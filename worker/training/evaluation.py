"""The losses on held-out data, and what loss counts as diverged."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from worker.lanes.lanes import Lanes
from worker.training.data import Batches, samples


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


def divergence(loss: float, epoch: int, initial: float | None, reference: float) -> str:
    """Why a loss after an epoch counts as diverged; "" where it does not.

    ``initial``: the loss of the untrained model, None: not known. A loss that lies by more than the
    ``reference`` above that is no training any more; 0: nothing tells what would be far.
    """
    if not math.isfinite(loss):
        return f"the loss was {loss} in epoch {epoch}"
    if initial is not None and reference > 0 and loss - initial > reference:
        return f"the loss was {loss:.3g} in epoch {epoch}, untrained it is {initial:.3g}"
    return ""
