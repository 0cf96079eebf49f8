"""The state of all generators of random numbers, and how they are seeded."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

_SEED_STRIDE = 1_000_003  # more than any number of epochs: those of two seeds do not meet
_SEEDS = 2**32  # as many as NumPy takes


def random_state() -> dict[str, Any]:
    """Where all generators stand, as tensors and plain values."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Go on from there."""
    torch.set_rng_state(state["torch"])
    for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def seed_for(seed: int, epoch: int) -> None:
    """Seed all generators for an epoch, counted from 1; 0 is for the initial weights."""
    mixed = (seed * _SEED_STRIDE + epoch) % _SEEDS
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        torch.manual_seed(mixed)
    else:  # the same; for a GPU that is not there, torch formats its stack with each call
        torch.default_generator.manual_seed(mixed)
    np.random.seed(mixed)
    random.seed(mixed)
