"""How many samples a batch has, and how many go into one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import Dataset, IterableDataset

_VALIDATION_BATCH = 1024  # samples of held-out data at once, at most ...
_VALIDATION_BYTES = 64 * 2**20  # ... and bytes of their inputs


def samples(inputs: Any, targets: Any) -> int | None:
    """How many samples a batch has, which is how much its mean counts; None: nothing tells.

    By the first tensor within the targets, however they are nested, else within the inputs.
    """
    for part in (targets, inputs):
        plain = isinstance(part, (list, tuple)) and len(part) > 0
        if plain and all(isinstance(item, (int, float, str)) for item in part):
            return len(part)
        for count in _counts(part):
            return count
    return None


def _counts(value: Any) -> Iterator[int]:
    if isinstance(value, PackedSequence):
        yield int(value.batch_sizes[0])
        return
    for tensor in _tensors(value):
        if tensor.ndim:
            yield len(tensor)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def validation_batch(data: Any) -> int:
    """Samples in a batch of held-out data: without gradients there is room for many, of small ones.

    Large images, of which a few fill a GPU, stay at the size that they are trained in.
    """
    if isinstance(data, (tuple, list)) and data and hasattr(data[0], "__getitem__"):
        one: Any = data[0][:1] if len(data[0]) else None
    elif isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        one = data[0] if len(data) else None  # type: ignore[arg-type]
    else:
        return 1
    size = sum(t.numel() * t.element_size() for t in _tensors(one))
    if isinstance(one, np.ndarray):
        size = one.nbytes
    return max(1, min(_VALIDATION_BATCH, _VALIDATION_BYTES // max(1, size)))
