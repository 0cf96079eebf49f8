"""State that a model keeps outside of its ``state_dict``: counters, and buffers that are not saved.

A checkpoint that lacks it would go on otherwise than the training that it was made of.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch

#: What torch itself keeps in each module, beside the user's attributes.
_TORCHS = frozenset(vars(torch.nn.Module())) | {"training"}
_PLAIN = (bool, int, float, str, type(None))

State = dict[str, Any]


def own_state(model: torch.nn.Module) -> State:
    """Each attribute that may be state, by the path of its module and its name; by value."""
    return {f"{path}.{name}": copy.deepcopy(value) for path, name, value in _attributes(model)}


def restore(model: torch.nn.Module, state: State) -> None:
    """Put the attributes back. One that is not there any more is made."""
    modules = dict(model.named_modules())
    for key, value in state.items():
        path, _, name = key.rpartition(".")
        if path in modules:
            there = getattr(modules[path], name, None)
            if isinstance(there, torch.Tensor) and isinstance(value, torch.Tensor):
                value = value.to(there.device)
            setattr(modules[path], name, _as_before(value, there))


def changed(before: State, after: State) -> dict[str, bool]:
    """Attributes that differ, each with whether a checkpoint can carry it."""
    names = [name for name in after if name not in before or not _same(before[name], after[name])]
    return {name: _carried(after[name]) for name in sorted(names)}


def to_save(state: State, names: tuple[str, ...]) -> State:
    """Those attributes, as a checkpoint holds them."""
    return {name: _as_saved(state[name]) for name in names if name in state}


def _attributes(model: torch.nn.Module) -> Iterator[tuple[str, str, Any]]:
    saved = set(model.state_dict())
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in _TORCHS and not isinstance(value, torch.nn.Module) and _is_data(value):
                yield path, name, value
        for name, buffer in module._buffers.items():
            if buffer is not None and ".".join(filter(None, (path, name))) not in saved:
                yield path, name, buffer


def _is_data(value: Any) -> bool:
    """Whether it can be compared and copied; functions and the like are not looked at."""
    if isinstance(value, (*_PLAIN, torch.Tensor, torch.Generator)):
        return True
    if isinstance(value, (list, tuple, set, deque)):
        return all(_is_data(item) for item in value)
    return isinstance(value, dict) and all(_is_data(item) for item in value.values())


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and bool((one == other).all() or _both_nan(one, other))
    if isinstance(one, torch.Generator) and isinstance(other, torch.Generator):
        return bool((one.get_state() == other.get_state()).all())
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple, deque)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _both_nan(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(torch.equal(torch.nan_to_num(one.float()), torch.nan_to_num(other.float())))


def _carried(value: Any) -> bool:
    """Whether a checkpoint, which holds tensors and plain values only, can carry it."""
    if isinstance(value, (*_PLAIN, torch.Tensor)):
        return True
    if isinstance(value, (list, tuple, deque)):
        return all(_carried(item) for item in value)
    return isinstance(value, dict) and all(_carried(item) for item in value.values())


def _as_saved(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, (list, tuple, deque)):
        return [_as_saved(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_saved(item) for key, item in value.items()}
    return value


def _as_before(value: Any, there: Any) -> Any:
    """A checkpoint has lists only: as the kind of sequence that the attribute was."""
    if isinstance(value, list) and isinstance(there, deque):
        return deque(value, there.maxlen)
    return tuple(value) if isinstance(value, list) and isinstance(there, tuple) else value
