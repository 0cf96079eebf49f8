"""A look at a task before any trial: what does not fit shows at once, and what is odd is said."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from justright.errors import TaskError
from worker.lanes.own_state import changed, own_state
from worker.lanes.randomness import seed_for
from worker.lanes.trial import LOOKING_RATE, TrialTraining, for_a_look
from worker.training.data import each_tensor, lonely_batch
from worker.training.natural_scale import natural_scale
from worker.training.optimizers import hyperparameters, in_force, make_optimizer
from worker.training.samples import samples
from worker.training.settings import check_settings
from worker.user_code.guard import user_code

if TYPE_CHECKING:
    from worker.training.trainer import TaskTrainer

Details = dict[str, bool | int | float | str]

_LOOKING, _USUAL = (LOOKING_RATE, LOOKING_RATE / 2), (1e-3, 1e-2)  # that an optimizer is tried with
_TOO_FEW = "Expected more than 1 value per channel"  # as torch's BatchNorm says it


def inspect(trainer: TaskTrainer, seed: int, searched: Sequence[str] = ()) -> Details:
    """Try the task on one batch of each kind.

    ``searched``: settings that trials will have other values of. Returns what people like to know
    about it, the settings in force included. Sets the trainer's ``initial_loss`` and ``warnings``.

    Raises:
        TaskError: it cannot be trained, or not as it is meant.
    """
    trainer.warnings = check_settings(trainer.task)
    _check_rate(trainer, seed)
    trial = trainer.start(for_a_look(seed))
    trial.model.train()
    inputs, targets = trainer.first_batch()
    given = f"inputs of {_shape(inputs)} and targets of {_shape(targets)}"
    output = user_code(
        lambda: trial.model(inputs), f"model() on a batch of train_data() with {given}"
    )
    loss = user_code(
        lambda: trainer.loss(trial.model, inputs, targets),
        f"loss(output, target) on an output of {_shape(output)}, {given},",
    )
    if not loss.requires_grad:
        raise TaskError("the loss does not depend on any parameter that can be trained.")
    user_code(lambda: loss.backward(), "the backward pass")  # type: ignore[no-untyped-call]
    user_code(trial.optimizer.step, "the optimizer's step")
    _check_last_batch(trainer, trial, inputs)
    trainer.measure_initial_loss(seed)
    _warn_of_batches(trainer, inputs, targets)
    _warn_of_state(trainer)
    settings = in_force(hyperparameters(trainer.task, trial.work), trial.optimizer)
    settings["optimizer"] = type(trial.optimizer).__name__
    _check_searched(trainer, searched, settings)
    return (
        settings
        | {
            "device": trainer.device.type,
            "parameters": sum(p.numel() for p in trial.model.parameters()),
        }
        | _of_data(trainer)
    )


def _of_data(trainer: TaskTrainer) -> Details:
    """Batches of an epoch, and the samples of held-out data that are looked at within one."""
    found: Details = {}
    if trainer.horizon.epoch is not None:
        found["batches"] = trainer.horizon.epoch
    if trainer.held_out is not None and trainer.held_out.looks_at is not None:
        found["looks_at"] = trainer.held_out.looks_at
    return found


def look_closer(trainer: TaskTrainer, seed: int) -> None:
    """Train a throwaway model for a step: how far its loss moves, and what state it has of its own.

    Sets the trainer's ``scale`` and ``own_state``.
    """
    trial = trainer.start(for_a_look(seed))
    trial.model.train()
    seed_for(seed, 1)
    inputs, targets = trainer.first_batch()

    def loss_of() -> torch.Tensor:
        seed_for(seed, 1)
        return trainer.loss(trial.model, inputs, targets)

    before = own_state(trial.model)
    with contextlib.suppress(Exception):  # its faults are told where it is tried, or trained
        parameters = [p for p in trial.model.parameters() if p.requires_grad]
        trainer.scale = natural_scale(parameters, loss_of)
    trainer.own_state = changed(before, own_state(trial.model))


def _check_rate(trainer: TaskTrainer, seed: int) -> None:
    """An optimizer that is given two rates must have two.

    Raises:
        TaskError: its rate is the same whatever it is given.
    """
    trial = trainer.start(for_a_look(seed))
    chosen = hyperparameters(trainer.task, trial.work)
    found: list[list[float]] = []
    # The rates of a look first; one that bounds its rate from below has two of the usual ones.
    for pair in (_LOOKING, _USUAL):
        made = [make_optimizer(trainer.task, trial.model, lr, chosen) for lr in pair]
        found = [[float(group["lr"]) for group in one.param_groups] for one in made]
        if found[0] != found[1]:
            return
    rates = ", ".join(f"{rate:g}" for rate in sorted(set(found[0])))
    raise TaskError(
        f"the optimizer's rate is {rates} whatever rate it is given (tried {_USUAL[0]:g} and "
        f"{_USUAL[1]:g}), so that none would be better than another. Pass it on: "
        "optimizer(parameters, lr) -> torch.optim.Adam(parameters, lr=lr)."
    )


def _check_last_batch(trainer: TaskTrainer, trial: TrialTraining, inputs: Any) -> None:
    """
    Raises:
        TaskError: the last batch has one sample, with which the model cannot train.
    """
    if not lonely_batch(trainer.training_batches):
        return
    one = each_tensor(inputs, lambda tensor: tensor[:1] if tensor.ndim else tensor)
    try:
        with torch.no_grad():
            trial.model(one)
    except ValueError as error:
        if _TOO_FEW in str(error):
            raise TaskError(
                "the last batch of train_data() has 1 sample, and BatchNorm needs 2 of them to "
                "train. Give its DataLoader drop_last=True, or another batch_size."
            ) from None
    except Exception:
        return  # sliced like this it means nothing to the model


def _warn_of_batches(trainer: TaskTrainer, inputs: Any, targets: Any) -> None:
    if samples(inputs, targets) is None:
        trainer.warnings.append(
            "neither targets nor inputs tell how many samples a batch has, so that each batch "
            "counts the same in a mean, also one that is smaller"
        )


def _warn_of_state(trainer: TaskTrainer) -> None:
    """State of the model's own: what is carried is no news, what is not must be said."""
    lost = [name.lstrip(".") for name, carried in trainer.own_state.items() if not carried]
    if lost:
        trainer.warnings.append(
            f"the model keeps state in {', '.join(lost)}, which no checkpoint can hold: its trials "
            "do not pause, and one whose worker is lost begins anew. Register buffers instead"
        )
    if trainer.shares_model:
        trainer.warnings.append(
            "model() returns parts that it returned before, so each trial trains a copy of them as "
            "they were at first; replicates differ in the order of data only. Make a new module "
            "in model()"
        )


def _check_searched(
    trainer: TaskTrainer, searched: Sequence[str], settings: Mapping[str, Any]
) -> None:
    """
    Raises:
        TaskError: the task has no such setting.
    """
    for name in searched:
        if name not in settings:
            raise TaskError(
                f"{name} is to be searched, but the optimizer, {settings['optimizer']}, has "
                f"none. Leave out --search {name}."
            )
    if "batch_size" in searched:
        trainer.training_batches.of_size(1)


def _shape(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"shape {tuple(value.shape)} ({str(value.dtype).removeprefix('torch.')})"
    return f"type {type(value).__name__}"
