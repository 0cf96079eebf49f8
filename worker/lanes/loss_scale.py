"""Loss scaling for half precision, lane by lane (Micikevicius et al. 2018, as torch's GradScaler).

Gradients in float16 underflow, so the loss is multiplied by a factor before the backward pass and
the gradients are divided by it. A step whose gradients overflow is left out, and the factor halved;
it doubles after a long row of good ones. Each trial has its own: a hot rate overflows for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# As in torch's GradScaler:
_FIRST_FACTOR = 65536.0
_GROWTH = 2  # by which a factor grows, or shrinks
_GROWTH_INTERVAL = 2000  # good steps in a row after which it grows


@dataclass
class LossScale:
    """The factor of one trial."""

    factor: float = _FIRST_FACTOR
    good: int = 0  #: Steps since it was last changed.

    def update(self, finite: bool) -> None:
        """After a step whose gradients were finite, or were not."""
        if not finite:
            self.factor, self.good = self.factor / _GROWTH, 0
            return
        self.good += 1
        if self.good == _GROWTH_INTERVAL:
            self.factor, self.good = self.factor * _GROWTH, 0


def factors(scales: Sequence[LossScale], device: torch.device) -> torch.Tensor:
    """Of all lanes, shape (lanes,)."""
    return torch.tensor([scale.factor for scale in scales], device=device)


def unscale(scales: Sequence[LossScale], grads: Sequence[torch.Tensor | None]) -> list[int]:
    """Divide each lane's gradients by its factor, in place; the lanes that must leave out a step.

    ``grads``: with a first dimension of lanes.
    """
    found = [grad for grad in grads if grad is not None]
    fine = torch.stack([grad.reshape(len(grad), -1).isfinite().all(dim=1) for grad in found]).all(
        dim=0
    )
    inverse = 1 / factors(scales, found[0].device)
    for grad in found:
        grad.mul_(inverse.view(-1, *[1] * (grad.ndim - 1)))
    finite: list[bool] = fine.tolist()
    for scale, good in zip(scales, finite, strict=True):
        scale.update(good)
    return [lane for lane, good in enumerate(finite) if not good]
