"""Settings that a Task has and nothing reads: noticed before anything is trained."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from types import CodeType
from typing import Any

from justright.errors import TaskError
from justright.task import Task

_ALIKE = 0.8  # of 1: how near a name must be to be taken for a mistyped one

#: What other tools call it, and what there is here.
_ELSEWHERE = {
    "scheduler": "schedule",
    "lrscheduler": "schedule",
    "lrschedule": "schedule",
    "optim": "optimizer",
    "opt": "optimizer",
    "numepochs": "epochs",
    "maxepochs": "epochs",
    "nepochs": "epochs",
    "numtrainepochs": "epochs",
    "bs": "batch_size",
    "trainbatchsize": "batch_size",
    "perdevicetrainbatchsize": "batch_size",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "gradclip": "clip_grad_norm",
    "gradientclip": "clip_grad_norm",
    "gradientclipval": "clip_grad_norm",
    "maxgradnorm": "clip_grad_norm",
    "clipgrad": "clip_grad_norm",
    "clipnorm": "clip_grad_norm",
    "amp": "precision",
    "fp16": "precision",
    "bf16": "precision",
    "dtype": "precision",
    "warmupratio": "warmup",
    "warmupsteps": "warmup, a share of the training",
    "criterion": "the method loss(output, target)",
    "lossfn": "the method loss(output, target)",
    "lossfunction": "the method loss(output, target)",
    "lr": "no setting: the rate is what is searched, --lr LOW:HIGH is its range",
    "learningrate": "no setting: the rate is what is searched, --lr LOW:HIGH is its range",
    "metric": "no setting: what loss() returns is what is compared, and minimized",
    "direction": "no setting: what loss() returns is minimized",
    "mode": "no setting: what loss() returns is minimized",
    "maximize": "no setting: what loss() returns is minimized",
    "earlystopping": "no setting: the search decides which trials train on",
    "patience": "no setting: the search decides which trials train on",
    "maxsteps": "steps",
    "numsteps": "steps",
    "nsteps": "steps",
    "trainsteps": "steps",
    "maxiters": "steps",
    "iterations": "steps",
    "evalsteps": "evaluate_every",
    "evalevery": "evaluate_every",
    "evalinterval": "evaluate_every",
    "valcheckinterval": "evaluate_every",
    "seed": "the option --seed",
    "device": "chosen by the worker: --gpus",
    "trials": "the option --trials",
    "gradientaccumulationsteps": "no setting: batch_size is what counts",
    "accumulategradbatches": "no setting: batch_size is what counts",
}


def check_settings(task: Task) -> list[str]:
    """What its user should hear of settings that nothing reads, in sentences.

    Raises:
        TaskError: one looks like a setting that is written otherwise.
    """
    wrong, unread = [], []
    for name in _of_user(type(task)):
        meant = _meant(name)
        if meant:
            value = getattr(type(task), name)
            wrong.append(f"{name} = {value!r} (did you mean {meant}?)")
        elif not _is_plain(getattr(type(task), name)):
            continue
        else:
            unread.append(name)
    kind = type(task).__name__
    if wrong:
        raise TaskError(
            f"{kind} sets what no Task has, and no method of it reads: {'; '.join(wrong)}. "
            f"The settings are {', '.join(Task._settings())}. What is your own, begin with _."
        )
    if unread:
        return [f"no method of {kind} reads {', '.join(sorted(unread))}: it has no effect"]
    return []


def _of_user(kind: type[Task]) -> Iterator[str]:
    """Attributes that the user's classes set, that are no settings, and that nothing of theirs
    reads."""
    classes = [one for one in kind.__mro__ if issubclass(one, Task) and one is not Task]
    read = {name for one in classes for value in vars(one).values() for name in _names_in(value)}
    known = set(dir(Task)) | read
    seen = {name for one in classes for name in vars(one)} - known
    for name in sorted(seen):
        value = inspect.getattr_static(kind, name)
        routine = inspect.isroutine(value) or isinstance(value, (staticmethod, classmethod, type))
        if not name.startswith("_") and not routine and not isinstance(value, property):
            yield name


def _names_in(value: Any) -> set[str]:
    """Attributes that a function reads, and texts in it, by which getattr may read others."""
    function = getattr(value, "__func__", getattr(value, "fget", value))
    code = getattr(function, "__code__", None)
    return _names_of(code) if isinstance(code, CodeType) else set()


def _names_of(code: CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names_of(constant)
        elif isinstance(constant, str):
            found.add(constant)
    return found


def _meant(name: str) -> str:
    bare = name.replace("_", "").lower()
    if bare in _ELSEWHERE:
        return _ELSEWHERE[bare]
    known = {one.replace("_", ""): one for one in [*Task._settings(), *_METHODS]}
    near = difflib.get_close_matches(bare, known, n=1, cutoff=_ALIKE)
    return known[near[0]] if near else ""


_METHODS = ("model", "train_data", "validation_data", "loss")


def _is_plain(value: Any) -> bool:
    """Whether it looks like a setting: a number, a text, a choice."""
    return value is None or isinstance(value, (bool, int, float, str))
