"""What trains the trials of one group, a batch at a time: one alone, or several as lanes.

Lanes are trials of the same task and seed, at the same step: they see the same batches, and the
same dropout, and differ in their rates. All lanes' losses come from one forward pass through the
task's own model under ``torch.func.vmap``, all gradients from one backward pass of their sum. A
lane's gradient does not depend on the others, so whatever happens to it, NaN included, the others
compute what they would compute alone.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch.func import functional_call, vmap

from worker.lanes.forms import LaneForms
from worker.lanes.loss_scale import LossScale, factors, unscale
from worker.lanes.randomness import random_state, set_random_state
from worker.lanes.stack import CannotStack, Stack
from worker.lanes.stack_optimizers import Grads, clip_lanes, set_rates
from worker.lanes.trial import TrialTraining

Forward = Callable[[Any], Any]
#: The scalar loss of one batch: of a model (or what stands for it), inputs and targets.
Loss = Callable[[Forward, Any, Any], torch.Tensor]


class Lanes(ABC):
    """Some trials at the same step, in training.

    Which row of a tensor is whose is known here alone: others ask ``by_trial``, and name trials,
    never rows, where some are to leave.
    """

    def __init__(self, trials: Sequence[TrialTraining], loss: Loss, clip: float | None) -> None:
        """``clip``: the largest norm of a trial's gradient, None: any."""
        self._trials = tuple(trials)
        self._loss, self._clip = loss, clip

    @property
    def trials(self) -> tuple[TrialTraining, ...]:
        """Those in training, in the order of the rows."""
        return self._trials

    def by_trial(self, rows: torch.Tensor) -> Iterator[tuple[TrialTraining, torch.Tensor]]:
        """Each trial with its own of some values, shape (lanes, ...)."""
        return zip(self._trials, rows.unbind(0), strict=True)

    def rows(self, value: Callable[[TrialTraining], torch.Tensor]) -> torch.Tensor:
        """A value of each trial, as one tensor of shape (lanes, ...)."""
        return torch.stack([value(trial) for trial in self._trials])

    @abstractmethod
    def gradients(self, inputs: Any, targets: Any) -> tuple[torch.Tensor, Grads]:
        """The losses, shape (lanes,), and for each trained parameter, with a first dimension of
        lanes, the gradient of its own (scaled) loss, or None."""

    @abstractmethod
    def step(self, inputs: Any, targets: Any, progress: float) -> torch.Tensor:
        """Train every lane on one batch; returns their losses before it, shape (lanes,).

        ``progress`` is the share of the training that is done, for the schedules.
        """

    @abstractmethod
    def losses(self, inputs: Any, targets: Any) -> torch.Tensor:
        """The losses on one batch, in evaluation mode: shape (lanes,)."""

    def keep(self, chosen: Collection[TrialTraining]) -> None:
        """Let all trials leave but these. What stays is in the order that it was in."""
        wanted = {id(trial) for trial in chosen}
        self._trials = tuple(trial for trial in self._trials if id(trial) in wanted)

    def drop_diverged(self, totals: torch.Tensor) -> bool:
        """Let the trials leave whose sum of losses is not finite; whether there were any."""
        finite = torch.isfinite(totals).cpu()  # one wait for the device, for all of them
        good = [trial for trial, fine in self.by_trial(finite) if fine]
        some = len(good) < len(self.trials)
        self.keep(good)
        return some

    def take(self, trials: Collection[TrialTraining]) -> bool:
        """Go on with these, named in any order, if all of them are here: the others leave."""
        here = {id(trial) for trial in self._trials}
        if not all(id(trial) in here for trial in trials):
            return False
        self.keep(trials)
        return True

    def train(self, on: bool) -> None:
        """Switch all models to training, or to evaluation."""
        for trial in self.trials:
            trial.model.train(on)


class OneLane(Lanes):
    """One trial, by its own model and torch.optim optimizer."""

    def gradients(self, inputs: Any, targets: Any) -> tuple[torch.Tensor, Grads]:
        return self._backward(inputs, targets).view(1), _as_lane(self.trials[0].model)

    def _backward(self, inputs: Any, targets: Any) -> torch.Tensor:
        (trial,) = self.trials
        loss = self._loss(trial.model, inputs, targets)
        trial.optimizer.zero_grad(set_to_none=True)
        scaled = loss if trial.scale is None else loss * trial.scale.factor
        scaled.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def step(self, inputs: Any, targets: Any, progress: float) -> torch.Tensor:
        (trial,) = self.trials
        set_rates(trial.optimizer, trial.rates(progress))
        loss = self._backward(inputs, targets)
        if trial.scale is None or not unscale([trial.scale], _as_lane(trial.model)):
            if self._clip is not None:
                torch.nn.utils.clip_grad_norm_(trial.model.parameters(), self._clip)
            trial.optimizer.step()
        return loss.view(1)

    def losses(self, inputs: Any, targets: Any) -> torch.Tensor:
        return self._loss(self.trials[0].model, inputs, targets).view(1)


class FusedLanes(Lanes):
    """Trials whose stacked weights take one forward and one backward pass together.

    Raises, here and in ``step``, whatever torch raises for what cannot be computed in lanes.
    """

    def __init__(self, trials: Sequence[TrialTraining], loss: Loss, clip: float | None) -> None:
        super().__init__(trials, loss, clip)
        self._widest = 1  # samples that all lanes have trained on at once
        # A model of our own is called: torch lends it the stacked tensors, and does not give back
        # all it had before where a module has two names.
        self._model = copy.deepcopy(trials[0].model)
        self._restack()

    def _restack(self) -> None:
        self._stack = Stack(self.trials)
        for name, parameter in self._stack.shared.items():
            self._model.get_parameter(name).data = parameter
        self._forms = LaneForms(len(self.trials))

    def train(self, on: bool) -> None:
        super().train(on)
        self._model.train(on)

    def keep(self, chosen: Collection[TrialTraining]) -> None:
        before = len(self.trials)
        super().keep(chosen)
        if 0 < len(self.trials) < before:
            self._restack()

    def gradients(self, inputs: Any, targets: Any) -> tuple[torch.Tensor, Grads]:
        stack = self._stack
        losses = self._forward(stack.parameters, stack.buffers, inputs, targets)
        scales = self._scales()
        scaled = losses * factors(scales, losses.device) if scales else losses
        grads = torch.autograd.grad(scaled.sum(), stack.leaves, allow_unused=True)
        return losses.detach(), grads

    def _scales(self) -> list[LossScale]:
        return [trial.scale for trial in self.trials if trial.scale is not None]

    def step(self, inputs: Any, targets: Any, progress: float) -> torch.Tensor:
        self._widest = max(self._widest, len(self.trials) * len(targets))
        losses, grads = self.gradients(inputs, targets)
        scales = self._scales()
        skipped = unscale(scales, grads) if scales else []
        if self._clip is not None:
            clip_lanes(grads, self._clip)
        rates = [trial.rates(progress) for trial in self.trials]
        self._stack.optimizer.step(grads, rates, skipped)
        return losses

    def losses(self, inputs: Any, targets: Any) -> torch.Tensor:
        # Held-out data come in larger batches: as many lanes at once as training has room for.
        size = max(1, self._widest // len(targets))
        several = size < len(self.trials)
        state = random_state() if several else None
        found = []
        for at in range(0, len(self.trials), size):
            if state is not None:  # a model that draws at random draws the same for all
                set_random_state(state)
            rows = slice(at, at + size)
            parameters = {name: of[rows] for name, of in self._stack.parameters.items()}
            buffers = {name: of[rows] for name, of in self._stack.buffers.items()}
            found.append(self._forward(parameters, buffers, inputs, targets))
        return torch.cat(found)

    def _forward(
        self,
        parameters: dict[str, torch.Tensor],
        buffers: dict[str, torch.Tensor],
        inputs: Any,
        targets: Any,
    ) -> torch.Tensor:
        def one(own: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> torch.Tensor:
            def forward(x: Any) -> Any:
                given = {**own, **state}
                output = functional_call(self._model, given, (x,))
                for name, tensor in state.items():  # torch notes there what it found afterwards
                    if given[name] is not tensor:
                        raise CannotStack(f"buffer {name} is replaced, not changed in place")
                return output

            return self._loss(forward, inputs, targets)

        with self._forms:
            return vmap(one, randomness="same")(parameters, buffers)


def _as_lane(model: torch.nn.Module) -> list[torch.Tensor | None]:
    """The gradients of a model, as of a stack of one lane."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p.grad.unsqueeze(0) if p.grad is not None else None for p in trained]
