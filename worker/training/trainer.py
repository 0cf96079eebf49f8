"""Trains the trials of a Task: the loop, and the explicit state that it needs.

Randomness is seeded from (seed, pass) at the beginning of each pass over the data, so it gives the
same losses whatever was trained before it in this process. Between two batches all that a training
needs is in ``TrialTraining``: it goes on to the same losses, in any process. That a loss is taken
somewhere on the way changes nothing either.
"""

from __future__ import annotations

import copy
import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from justright.errors import TaskError
from justright.messages import TrialWork
from justright.task import Task
from worker.lanes.lanes import FusedLanes, Lanes, OneLane
from worker.lanes.loss_scale import LossScale
from worker.lanes.randomness import seed_for
from worker.lanes.stack import set_free
from worker.lanes.trial import TrialTraining, for_a_look
from worker.training.data import Batches, as_batches
from worker.training.device import be_deterministic, half_type
from worker.training.evaluation import Ending, HeldOut, divergence
from worker.training.horizon import Horizon, horizon_of, length
from worker.training.inspecting import Details, inspect, look_closer
from worker.training.optimizers import hyperparameters, make_optimizer
from worker.training.samples import validation_batch
from worker.training.stepping import Stepping
from worker.user_code.guard import guarded, user_code

_MOST_THREADS = torch.get_num_threads()
# Operations of a forward pass below which a second CPU thread costs more than it gives.
_WORTH_A_THREAD = 100e6
_OF_A_STREAM = 1024  # samples of training data without an end on which the untrained loss is taken


@dataclass
class Taken:
    """The losses of one trial at a mark. ``loss`` is None where it was not finite."""

    trial: TrialTraining  #: Whose they are.
    step: int  #: The mark.
    loss: float | None
    train_loss: float | None
    diverged: str  #: Why the trial counts as diverged, or "".
    seconds: float


class TaskTrainer:
    """A loaded Task with its data on the device."""

    def __init__(
        self,
        task: Task,
        device: torch.device,
        epochs: int | None = None,
        threads: int = _MOST_THREADS,
        steps: int | None = None,
    ) -> None:
        """``epochs`` or ``steps``: the horizon; None: the task's own. ``threads``: of the CPU, at
        most."""
        self.task, self.device = task, device
        self._half = half_type(task.precision)
        be_deterministic(bool(task.deterministic))
        self._train = self._batches(task.train_data, "train_data", shuffle=True)
        self._sizes = {task.batch_size: self._train}  #: The training data, by batch size.
        self.horizon: Horizon = user_code(lambda: horizon_of(task, self._train, epochs, steps))
        self._stepping = Stepping(self._train_in, self._length, device)
        held_out = user_code(task.validation_data)
        self.held_out: HeldOut | None = None
        if held_out is not None:
            data = self._batches(lambda: held_out, "validation_data", shuffle=False)
            data = Ending(data, self.horizon.steps) if length(data) is None else data
            self.held_out = HeldOut(data, self.horizon, task.batch_size, device)
        self.initial_loss: float | None = None
        self.scale = 0.0  #: How far one step can bring the loss down; 0: not known.
        self.own_state: dict[str, bool] = {}  #: State beside state_dict; whether it is carried.
        self.shares_model = False  #: ``model()`` returns parts that it returned before.
        self._handed_out: dict[int, weakref.ref[torch.Tensor]] = {}
        self.warnings: list[str] = []  #: What the user should hear of, in sentences.
        self.alive: Callable[[], None] = lambda: None  #: Called for each batch of validation.
        self._stack: Lanes | None = None  #: That of the last epoch, where trials were fused.
        self._threads = threads
        self._work = self._count() if device.type == "cpu" and threads > 1 else math.inf
        self._use_threads(1)

    def _use_threads(self, lanes: int) -> None:
        """As many as so many lanes are work for. Counted, not timed: the choice changes the last
        digits of a sum, so it must be the same each time."""
        if self.device.type == "cpu":
            torch.set_num_threads(1 if lanes * self._work < _WORTH_A_THREAD else self._threads)

    def _count(self) -> float:
        """Operations of a forward pass of one batch."""
        trial = self.start(for_a_look(seed=0))
        inputs, _ = self.first_batch()
        try:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                trial.model(inputs)
        except Exception:
            return math.inf  # the same fault is told by ``inspect``, in the user's words
        return float(counter.get_total_flops())

    def first_batch(self) -> tuple[Any, Any]:
        """A batch to try the task with."""
        return user_code(lambda: next(iter(self._train)), "the first batch of train_data()")

    def _batches(self, data: Callable[[], Any], what: str, shuffle: bool) -> Batches:
        size = self.task.batch_size
        if not isinstance(size, int) or size < 1:
            raise TaskError(f"batch_size = {size!r}, expected a positive whole number.")
        found = user_code(data)
        if not shuffle:
            size = max(size, validation_batch(found))
        return user_code(
            lambda: as_batches(
                found, batch_size=size, device=self.device, shuffle=shuffle, what=what
            ),
            f"moving what {what}() returned to {self.device}",
        )

    def _train_in(self, size: int) -> Batches:
        """The training data in batches of a size."""
        if size not in self._sizes:
            self._sizes[size] = self._train.of_size(size)
        return self._sizes[size]

    @property
    def training_batches(self) -> Batches:
        """The training data."""
        return self._train

    @property
    def precision(self) -> str:
        """What the task asks for: float32, bf16 or fp16."""
        return self.task.precision

    @property
    def steps(self) -> int:
        """Batches of a full training."""
        return self.horizon.steps

    @property
    def epochs(self) -> int | None:
        """Passes over the training data of a full training; None: it is counted in steps."""
        return self.horizon.epochs

    def _length(self, size: int) -> int:
        """Batches of that size of a full training: of as many samples, whatever their size."""
        if size == self.task.batch_size:
            return self.steps
        own, epoch = length(self._train_in(size)), self.horizon.epoch
        if own is None or epoch is None:
            return max(1, round(self.steps * self.task.batch_size / size))
        return max(1, round(self.steps / epoch * own))

    def next_mark(self, trial: TrialTraining, marks: Sequence[int] = ()) -> int:
        """The next of these steps that the trial comes to; without any, the end of its epoch."""
        if not marks:
            lap = self.horizon.epoch or self.horizon.lap or self.steps
            return min(self.steps, (trial.mark // lap + 1) * lap)
        return next((mark for mark in marks if mark > trial.mark), self.steps)

    # -- one trial ----------------------------------------------------------------------------

    def start(self, work: TrialWork) -> TrialTraining:
        """A trial at its beginning: initial weights from its seed alone."""
        seed_for(work.seed, 0)
        with guarded():
            model = self.task.model()
        if not isinstance(model, torch.nn.Module):
            raise TaskError(
                f"model() returned a {type(model).__name__}, expected a torch.nn.Module."
            )
        model = self._own_copy(model)
        with guarded(f"moving the model to {self.device}"):
            model.to(self.device)
        chosen = hyperparameters(self.task, work)
        optimizer = make_optimizer(self.task, model, work.lr, chosen)
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        scale = LossScale() if self._half is torch.float16 else None
        factor, size = chosen.factor(), chosen.batch_size
        own = tuple(name for name, carried in self.own_state.items() if carried)
        return TrialTraining(work, model, optimizer, rates, factor, size, scale, own)

    def _own_copy(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model, or a copy where an earlier trial has parts of it: a task may keep them.

        The first look trains nothing, so that they are still as they were made.
        """
        parts = [*model.parameters(), *model.buffers()]
        self.shares_model = self.shares_model or any(_had(part, self._handed_out) for part in parts)
        if self.shares_model:
            return copy.deepcopy(model)
        alive = {key: ref for key, ref in self._handed_out.items() if ref() is not None}
        self._handed_out = alive | {id(part): weakref.ref(part) for part in parts}
        return model

    def lanes(self, trials: Sequence[TrialTraining]) -> Lanes:
        """These trials, all at the same step, of the same seed and batch size, to be trained side
        by side."""
        self._use_threads(len(trials))
        kind = OneLane if len(trials) == 1 else FusedLanes
        return kind(trials, self.loss, self.task.clip_grad_norm)

    def _lanes_of(self, trials: Sequence[TrialTraining]) -> Lanes:
        """The stack of these trials: the last one, if all of them were in it."""
        if len(trials) == 1:
            for trial in self._stack.trials if self._stack is not None else ():
                set_free(trial)
            self._stack = None
            return self.lanes(trials)
        with guarded():
            if self._stack is not None and not self._stack.take(trials):
                self._stack = None  # frees its memory first
            if self._stack is None:
                self._stack = self.lanes(trials)
        return self._stack

    def drop_stack(self) -> None:
        """Let the last stack go, and with it its memory."""
        self._stack = None
        self._stepping.close()

    # -- to a mark ----------------------------------------------------------------------------

    def train_together(
        self, trials: Sequence[TrialTraining], mark: int, interrupted: Callable[[], bool]
    ) -> list[Taken] | None:
        """Train these to a mark, side by side in the stack that they were in before, if any."""
        return self.train_lanes(self._lanes_of(trials), interrupted, mark)

    def train_epoch(self, trial: TrialTraining) -> Taken:
        """One epoch of one trial alone, which nothing interrupts."""
        results = self.train_lanes(self.lanes([trial]))
        assert results is not None
        return results[0]

    def train_lanes(
        self,
        lanes: Lanes,
        interrupted: Callable[[], bool] = lambda: False,
        mark: int | None = None,
    ) -> list[Taken] | None:
        """Train to a mark, then take the losses.

        ``mark``: a step of the study; None: the end of the epoch. ``interrupted`` is asked after
        each batch but the last; once it says so, None is returned, and the trials stand between two
        batches. Each result says whose it is; those that diverged on the way have left.
        """
        began = time.perf_counter()
        trials = lanes.trials
        mark = self.next_mark(trials[0]) if mark is None else mark
        until = self.horizon.own(mark, self._length(trials[0].batch_size))
        with guarded():
            whole = self._stepping.to(lanes, until, interrupted)
        if not whole:
            spent = (time.perf_counter() - began) / len(trials)
            for trial in trials:
                trial.seconds += spent
            return None
        losses: dict[int, float] = {}
        if self.held_out is not None and lanes.trials:
            with guarded():
                found = self.held_out.losses(lanes, mark, self.alive)
            losses = {id(trial): float(loss) for trial, loss in lanes.by_trial(found)}
        share = (time.perf_counter() - began) / len(trials)
        return [self._take(trial, mark, losses.get(id(trial)), share) for trial in trials]

    def loss(self, model: Callable[[Any], Any], inputs: Any, targets: Any) -> torch.Tensor:
        """The task's own loss of one batch, in the precision that the task asks for."""
        if self._half is None:
            loss = self.task.loss(model(inputs), targets)
        else:  # without its cache of weights, which would outlive a stack
            with torch.autocast(self.device.type, self._half, cache_enabled=False):
                loss = self.task.loss(model(inputs), targets)
        if not isinstance(loss, torch.Tensor) or loss.ndim != 0:
            found = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise TaskError(f"loss() returned {found}, expected a scalar tensor: a batch's mean.")
        return loss

    def _take(
        self, trial: TrialTraining, mark: int, validation_loss: float | None, share: float
    ) -> Taken:
        """The losses of a trial that has come to a mark.

        ``validation_loss``: None: there is none, so that the training loss counts. In large batches
        two marks may be the same step of the trial's own: then nothing was trained in between.
        """
        loss, train_loss = trial.lowest, math.nan
        if trial.total is not None:
            loss = train_loss = float(trial.total) / max(1, trial.seen)
        if validation_loss is not None:
            loss = validation_loss
        seconds = trial.seconds + share
        trial.mark, trial.seen, trial.total, trial.seconds = mark, 0, None, 0.0
        initial = self.initial_loss
        gained = 0.0 if initial is None else max(0.0, initial - trial.lowest)
        reference = self.task.divergence_factor * max(self.scale, gained)
        diverged = divergence(loss, self.horizon.when(mark), initial, reference)
        trial.lowest = min(trial.lowest, loss) if math.isfinite(loss) else trial.lowest
        return Taken(
            trial=trial,
            step=mark,
            loss=loss if math.isfinite(loss) else None,
            train_loss=train_loss if math.isfinite(train_loss) else None,
            diverged=diverged,
            seconds=seconds,
        )

    # -- a look at the task ---------------------------------------------------------------------

    def inspect(self, seed: int, searched: Sequence[str] = ()) -> Details:
        """Try the task on one batch of each kind, so that what does not fit shows at once."""
        return inspect(self, seed, searched)

    def measure_initial_loss(self, seed: int) -> None:
        """Set ``initial_loss``, the validation loss before training; None where not finite."""
        lanes = self.lanes([self.start(for_a_look(seed))])
        what = "the loss of the model on validation_data()"
        train = self._train if length(self._train) is not None else self._train.part(_OF_A_STREAM)
        data = self.held_out or HeldOut(train, self.horizon, 1, self.device).without_part()
        loss = user_code(lambda: data.untrained(lanes, self.alive), what)
        self.initial_loss = loss if math.isfinite(loss) else None
        look_closer(self, seed)

    @property
    def search_schedule(self) -> bool:
        """Whether the task leaves its schedule to the study."""
        return self.task.schedule == "search"


def _had(part: torch.Tensor, before: Mapping[int, weakref.ref[torch.Tensor]]) -> bool:
    """Whether an earlier model has that very parameter or buffer."""
    known = before.get(id(part))
    return known is not None and known() is part


def count_steps(trainer: TaskTrainer, trial: TrialTraining) -> None:
    """Complete a state of the first edition, which counted epochs only."""
    epoch = trainer.horizon.epoch
    if trial.step < 0 and epoch is not None:
        trial.step, trial.mark = trial.epoch * epoch + trial.batch, trial.epoch * epoch
