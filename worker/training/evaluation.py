"""The losses on held-out data, and what loss counts as diverged."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from worker.lanes.lanes import Lanes
from worker.training.data import Batches


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
        total = total + lanes.losses(inputs, targets) * len(targets)
        seen += len(targets)
        alive()
    return total.cpu().double() / max(1, seen)


def divergence(loss: float, epoch: int, initial: float | None, factor: float) -> str:
    """Why a loss after an epoch counts as diverged; "" where it does not.

    ``initial``: the loss of the untrained model, None: not known; a loss of more than ``factor``
    times that is no training any more.
    """
    if not math.isfinite(loss):
        return f"the loss was {loss} in epoch {epoch}"
    if initial is not None and loss > factor * abs(initial):
        return f"the loss was {loss:.3g} in epoch {epoch}, untrained it is {initial:.3g}"
    return ""
