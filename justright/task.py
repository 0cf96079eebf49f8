"""Task: where the user's training plugs in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from justright.errors import TaskError, UsageError

if TYPE_CHECKING:
    import torch

    from justright.search_space import ScheduleName

OptimizerName = Literal["sgd", "adam", "adamw"]
Precision = Literal["float32", "bf16", "fp16"]
OptimizerFactory = Callable[[Iterable["torch.nn.Parameter"], float], "torch.optim.Optimizer"]


def _is_method(attribute: Any) -> bool:
    kinds = (staticmethod, classmethod, property)
    return inspect.isroutine(attribute) or isinstance(attribute, kinds)


class Task:
    """A training whose learning rate is to be found. Subclass it and fill in the methods.

    Of the settings, ``schedule``, ``warmup``, ``weight_decay``, ``momentum`` and ``batch_size`` can
    be searched beside the rate: ``--search NAME``.

    The worker owns the loop: device, schedule, seeds, reports, stopping. All trials of a study see
    the same initial weights and the same batches in the same order, so that learning rates are
    compared on equal terms.

    Class attributes are the settings; ``Task(name=value)``, or ``--set name=value`` on the command
    line, overrides any of them for one study.
    """

    #: The horizon: how many passes over the training data a full training makes.
    epochs: int = 10
    #: The horizon in optimizer steps (batches) instead. Needed where the training data have no
    #: length. None: ``epochs`` counts.
    steps: int | None = None
    #: Optimizer steps between two evaluations on all of the validation data; None: at the end of
    #: each epoch. In between the search looks at a fixed part of them, where it needs to.
    evaluate_every: int | None = None
    #: Samples in a batch. Ignored where ``train_data`` returns a DataLoader.
    batch_size: int = 64
    #: "sgd" (momentum 0.9), "adam", "adamw", a callable (parameters, lr) -> Optimizer, or a method
    #: ``optimizer(self, parameters, lr)``.
    optimizer: OptimizerName | OptimizerFactory = "sgd"
    #: How the rate moves over the training, as a factor of it that changes every batch. "linear"
    #: and "cosine" fall to 0; "step" divides by 10 at 50 % and 75 %; "onecycle" rises for 30 % and
    #: falls to 0; "search" lets the study try them all.
    schedule: ScheduleName | Literal["search"] = "constant"
    #: The share of the training, from 0 to below 1, in which the rate rises linearly from 0, before
    #: the schedule. "onecycle" has its own.
    warmup: float = 0.0
    #: The optimizer's weight decay; None: its own. Parameter groups that your own optimizer exempts
    #: with 0 stay exempt.
    weight_decay: float | None = None
    #: The optimizer's momentum, of adam and adamw the first beta; None: its own.
    momentum: float | None = None
    #: The largest norm that a gradient may have, all parameters together; larger ones are scaled
    #: down to it. None: any.
    clip_grad_norm: float | None = None
    #: "float32" computes in the model's own type; "bf16" and "fp16" in half precision where torch's
    #: autocast holds it for safe, fp16 with loss scaling.
    precision: Precision = "float32"
    #: Only algorithms that give the same bits each time; torch raises where it has none.
    deterministic: bool = False
    #: A loss that lies above the untrained one by this many times what training gains means:
    #: diverged. What it gains is measured: in one step down the gradient, and in the trial so far.
    divergence_factor: float = 100.0

    def __init__(self, **arguments: Any) -> None:
        self._configure(arguments)

    def _configure(self, arguments: Mapping[str, Any]) -> None:
        for name, value in arguments.items():
            if name not in self._settings():
                raise UsageError(
                    f"{type(self).__name__} has no setting {name!r}. It has: "
                    f"{', '.join(self._settings())}. Add a class attribute to make one."
                )
            setattr(self, name, value)

    @classmethod
    def _settings(cls) -> list[str]:
        return sorted(
            name
            for name in dir(cls)
            if not name.startswith("_")
            and (name == "optimizer" or not _is_method(inspect.getattr_static(cls, name)))
        )

    def model(self) -> torch.nn.Module:
        """A new, untrained model. Called once a trial, with torch's seed set."""
        raise NotImplementedError(f"{type(self).__name__} must define model()")

    def train_data(self) -> Any:
        """Training data: a pair of tensors (inputs, targets) of equal first dimension, a Dataset
        of (input, target) pairs, or a DataLoader of such batches. An IterableDataset may be without
        a length, where ``steps`` is set."""
        raise NotImplementedError(f"{type(self).__name__} must define train_data()")

    def validation_data(self) -> Any:
        """Validation data, in the same forms. None: the training loss is what is compared."""
        return None

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """The mean loss of a batch, a scalar. Default: cross-entropy of logits and classes."""
        import torch.nn.functional as functional

        if output.ndim == 2 and output.shape[1] == 1:
            raise TaskError(
                "the model has one output, over which the default loss, cross-entropy, is always "
                "0. For a regression define loss(), for example as "
                "torch.nn.functional.mse_loss(output.squeeze(1), target)."
            )
        return functional.cross_entropy(output, target)
