"""Trains the trials of a Task: the loop, and the explicit state that it needs.

Randomness is seeded from (seed, epoch) at the beginning of each epoch, so an epoch gives the same
losses whatever was trained before it in this process. Between two batches all that an interrupted
epoch needs is in ``TrialTraining``: it goes on to the same losses, in any process.
"""

from __future__ import annotations

import copy
import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from justright.errors import TaskError
from justright.messages import TrialWork
from justright.task import Task
from worker.lanes.lanes import FusedLanes, Lanes, OneLane
from worker.lanes.loss_scale import LossScale
from worker.lanes.randomness import seed_for, set_random_state
from worker.lanes.stack import set_free
from worker.lanes.trial import TrialTraining, for_a_look
from worker.training.data import Batches, as_batches, samples, validation_batch
from worker.training.device import be_deterministic, half_type
from worker.training.evaluation import divergence, mean_losses
from worker.training.inspecting import Details, inspect, look_closer
from worker.training.optimizers import hyperparameters, make_optimizer
from worker.user_code.guard import guarded, user_code

_CHECK_EVERY = 64  # batches between looks at the loss: each look waits for the device
_MORE_BATCHES = (
    "train_data() gave more batches than its length says, {steps}. An IterableDataset in a "
    "DataLoader with workers gives all of it once for each worker: share it out by "
    "torch.utils.data.get_worker_info(), or use num_workers=0."
)
_MOST_THREADS = torch.get_num_threads()
# Operations of a forward pass below which a second CPU thread costs more than it gives.
_WORTH_A_THREAD = 100e6


@dataclass
class EpochResult:
    """What one epoch of one trial gave. ``loss`` is None where it was not finite."""

    trial: TrialTraining  #: Whose it is.
    epoch: int
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
    ) -> None:
        """``threads``: of the CPU, at most."""
        self.task, self.device = task, device
        self.epochs = epochs or task.epochs
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise TaskError(f"epochs = {self.epochs!r}, expected a positive whole number.")
        self._half = half_type(task.precision)
        be_deterministic(bool(task.deterministic))
        self._train = self._batches(task.train_data, "train_data", shuffle=True)
        self._sizes = {task.batch_size: self._train}  #: The training data, by batch size.
        self._validation: Batches | None = None
        held_out = user_code(task.validation_data)
        if held_out is not None:
            self._validation = self._batches(lambda: held_out, "validation_data", shuffle=False)
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
        return self.epochs * len(self._train)

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

    # -- one epoch ----------------------------------------------------------------------------

    def train_together(
        self, trials: Sequence[TrialTraining], interrupted: Callable[[], bool]
    ) -> list[EpochResult] | None:
        """One epoch of these trials, side by side in the stack that they were in before, if any."""
        return self.train_lanes(self._lanes_of(trials), interrupted)

    def train_epoch(self, trial: TrialTraining) -> EpochResult:
        """One epoch of one trial alone, which nothing interrupts."""
        results = self.train_lanes(self.lanes([trial]))
        assert results is not None
        return results[0]

    def train_lanes(
        self, lanes: Lanes, interrupted: Callable[[], bool] = lambda: False
    ) -> list[EpochResult] | None:
        """One pass over the training data, or the rest of one, then the validation losses.

        ``interrupted`` is asked after each batch but the last; once it says so, None is returned,
        and the trials stand between two batches. Each result says whose it is; those that diverged
        on the way have left.
        """
        began = time.perf_counter()
        trials = lanes.trials
        with guarded():
            whole = self._train_batches(lanes, interrupted)
        if not whole:
            spent = (time.perf_counter() - began) / len(trials)
            for trial in trials:
                trial.seconds += spent
            return None
        losses: dict[int, float] = {}
        if self._validation is not None and lanes.trials:
            with guarded():
                found = self.validate(lanes)
            losses = {id(trial): float(loss) for trial, loss in lanes.by_trial(found)}
        share = (time.perf_counter() - began) / len(trials)
        return [self._end_epoch(trial, losses.get(id(trial)), share) for trial in trials]

    def _train_batches(self, lanes: Lanes, interrupted: Callable[[], bool]) -> bool:
        """Train on every batch that is left of the epoch; False if interrupted.

        Adds up each trial's losses; the sum is nan or inf as soon as a loss is, and such a trial
        leaves at the next look, or at the end.
        """
        lanes.train(True)
        lead = lanes.trials[0]  # all stand at the same batch of the same epoch
        epoch, seen = lead.epoch, lead.seen
        train = self._train_in(lead.batch_size)
        steps = len(train)
        batches = _rest_of_epoch(train, lead)
        for trial in lanes.trials:
            trial.random = {}
        totals = self._totals(lanes)
        for index, (inputs, targets) in batches:
            if index >= steps:
                raise TaskError(_MORE_BATCHES.format(steps=steps))
            losses = lanes.step(inputs, targets, (epoch * steps + index) / (self.epochs * steps))
            count = samples(inputs, targets) or 1
            totals = totals + losses * count
            seen += count
            last = index + 1 == steps
            for trial, total in lanes.by_trial(totals):
                trial.batch, trial.seen, trial.total = index + 1, seen, total
            if last or index % _CHECK_EVERY == _CHECK_EVERY - 1:
                some = lanes.drop_diverged(totals)
                if not lanes.trials:
                    break
                totals = self._totals(lanes) if some else totals
            if not last and interrupted():
                return False
        return True

    def _totals(self, lanes: Lanes) -> torch.Tensor:
        """The sums of the losses of this epoch so far, shape (lanes,)."""
        zero = torch.zeros((), device=self.device)
        return lanes.rows(lambda trial: zero if trial.total is None else trial.total)

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

    def validate(self, lanes: Lanes) -> torch.Tensor:
        """The mean validation losses (over the training data where there is no other), shape
        (lanes,)."""
        return mean_losses(lanes, self._validation or self._train, self.device, self.alive)

    def _end_epoch(
        self, trial: TrialTraining, validation_loss: float | None, share: float
    ) -> EpochResult:
        """What a trial's epoch gave; the trial then stands at the beginning of the next.

        ``validation_loss``: None: there is none, so that the training loss counts.
        """
        assert trial.total is not None
        train_loss = float(trial.total) / max(1, trial.seen)
        loss = train_loss if validation_loss is None else validation_loss
        seconds = trial.seconds + share
        trial.epoch, trial.batch, trial.seen, trial.total = trial.epoch + 1, 0, 0, None
        trial.seconds = 0.0
        initial = self.initial_loss
        gained = 0.0 if initial is None else max(0.0, initial - trial.lowest)
        reference = self.task.divergence_factor * max(self.scale, gained)
        diverged = divergence(loss, trial.epoch, initial, reference)
        trial.lowest = min(trial.lowest, loss) if math.isfinite(loss) else trial.lowest
        return EpochResult(
            trial=trial,
            epoch=trial.epoch,
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
        trial = self.start(for_a_look(seed))
        found = user_code(
            lambda: self.validate(self.lanes([trial])), "the loss of the model on validation_data()"
        )
        loss = float(found)
        self.initial_loss = loss if math.isfinite(loss) else None
        look_closer(self, seed)

    @property
    def search_schedule(self) -> bool:
        """Whether the task leaves its schedule to the study."""
        return self.task.schedule == "search"


def _rest_of_epoch(train: Batches, trial: TrialTraining) -> Iterator[tuple[int, Any]]:
    """The batches that the trial has not seen in its epoch, with their numbers.

    They come in the order of the epoch's seed, and randomness stands where it stood after those
    that the trial has seen.
    """
    seed_for(trial.work.seed, trial.epoch + 1)
    batches = enumerate(train)
    for _ in islice(batches, trial.batch):
        pass
    if trial.random:
        set_random_state(trial.random)
    return batches


def _had(part: torch.Tensor, before: Mapping[int, weakref.ref[torch.Tensor]]) -> bool:
    """Whether an earlier model has that very parameter or buffer."""
    known = before.get(id(part))
    return known is not None and known() is part
