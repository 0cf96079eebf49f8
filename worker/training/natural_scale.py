"""How much a loss moves when the task learns something: what "far above" is measured against.

It must not change when a constant is added to the loss, nor when the untrained loss is 0 or below.
So it is a difference: how much one step down the gradient can gain on one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

_SHORTEST, _LONGEST = 1e-3, 4.0  # steps that are tried, in lengths of the weights
_RATIO = 2.0  # of one step to the next


def natural_scale(
    parameters: Sequence[torch.nn.Parameter], loss_of: Callable[[], torch.Tensor]
) -> float:
    """The most that the loss falls by along its gradient; 0 where it falls nowhere.

    ``loss_of`` computes the loss of one batch, with the same random numbers each time. The
    parameters are moved, and are not put back.
    """
    loss = loss_of()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    moved = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    untrained = float(loss.detach())
    slope = math.sqrt(sum(float(g.double().square().sum()) for _, g in moved))
    if not math.isfinite(untrained) or not math.isfinite(slope) or slope == 0:
        return 0.0
    length = math.sqrt(sum(float(p.detach().double().square().sum()) for p, _ in moved))
    length = length or math.sqrt(sum(p.numel() for p, _ in moved))
    gained, share, done = 0.0, _SHORTEST, 0.0
    with torch.no_grad():
        while share <= _LONGEST:
            step = share * length / slope
            for parameter, gradient in moved:
                parameter.sub_((step - done) * gradient)
            done = step
            found = float(loss_of())
            if not found <= untrained:  # up again, or not finite
                break
            gained, share = max(gained, untrained - found), share * _RATIO
    return gained
