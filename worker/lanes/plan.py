"""How many trials of a task are best trained at once, and whether fused: found by trying."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import torch

from justright.errors import TaskError
from justright.lane_plan import LanePlan
from justright.messages import TrialWork
from worker.lanes.lanes import Lanes
from worker.lanes.randomness import seed_for
from worker.lanes.trial import TrialTraining, for_a_look

log = logging.getLogger(__name__)

MOST = 64  # lanes: more gain little, and a search learns nothing until they have reported

# -- what counts as faster
_PAYS = 1.05  # speedup from which on fusing is worth it, over the noise of measuring
_FEWER_LANES_SHARE = 0.95  # of the best speed: fewer lanes that reach it are preferred
_PEAK_FROM = 8  # lanes from which on a speed that falls is taken for the end of the gain ...
_FALLS = 2  # ... when it has fallen as many times in a row

# -- what measuring may cost
_MEASURING_SHARE = 0.02  # of a full training ...
_MEASURING_LEAST, _MEASURING_MOST = 1.0, 30.0  # ... within these seconds
_TIMED = 0.05  # seconds over which a step is timed at least ...
_TIMED_STEPS = 3  # ... and steps
_GPU_MEMORY, _HOST_MEMORY = 0.8, 0.4  # of what is free that twice as many lanes may take

# -- what counts as the same
_CHECKED = 3  # steps in which lanes must compute what trials alone compute
_CHECKING_STEPS = 8 * _CHECKED  # steps of one trial that the check costs, about
_ROUNDING, _ROUNDING_HALF = 1e-3, 0.05  # shares that it may change, in full and half precision
_NOTHING = 1e-5  # a norm below which two values are the same

_KIB = 1024  # bytes
_HEADLINE = 200  # characters


class Trainer(Protocol):
    """What is needed of that which trains a task: it begins trials, and puts them in lanes."""

    @property
    def device(self) -> torch.device: ...

    @property
    def precision(self) -> str: ...

    @property
    def training_batches(self) -> Iterable[tuple[Any, Any]]: ...

    @property
    def steps(self) -> int:
        """Batches of a full training."""
        ...

    @property
    def alive(self) -> Callable[[], None]:
        """Called again and again while something goes on."""
        ...

    @property
    def own_state(self) -> Mapping[str, bool]:
        """State that the model keeps beside its ``state_dict``, by name."""
        ...

    def start(self, work: TrialWork) -> TrialTraining: ...

    def lanes(self, trials: Sequence[TrialTraining]) -> Lanes: ...


def plan_lanes(
    trainer: Trainer, seed: int, wanted: int | None = None, most: int = MOST
) -> LanePlan:
    """The fastest way to train trials of this task on this device.

    ``wanted``: trials in a job, where that is given; else up to ``most`` are tried. What cannot be
    fused is trained one by one; the plan says why.
    """
    count = min(wanted or MOST, most)
    alone = LanePlan(lanes=wanted or 1)
    if trainer.own_state:
        names = ", ".join(name.lstrip(".") for name in trainer.own_state)
        reason = f"cannot be fused: the model keeps state of its own, in {names}"
        return alone.model_copy(update={"reason": reason})
    if count < 2:
        return alone
    try:
        speeds = _Measuring(trainer, seed).speeds(count)
    except Exception as error:  # whatever torch, or the user's code, raises within vmap
        log.info("the task cannot be fused", exc_info=True)
        return alone.model_copy(update={"reason": f"cannot be fused: {_headline(error)}"})
    finally:
        if trainer.device.type == "cuda":
            torch.cuda.empty_cache()
    best = max(speeds.values(), default=0.0)
    if best < _PAYS:
        found = f"fused they have {best:.2f} times the speed" if speeds else "there is no room"
        return alone.model_copy(update={"reason": f"one by one is fastest: {found}"})
    good = max(_PAYS, _FEWER_LANES_SHARE * best)
    stack = min(lanes for lanes, speed in speeds.items() if speed >= good)
    fuse_from = min(lanes for lanes, speed in speeds.items() if speed >= _PAYS)
    return LanePlan(lanes=wanted or stack, stack=stack, fuse_from=fuse_from, speedup=round(best, 2))


class _Measuring:
    """Trials of a task that are trained for a few steps, and thrown away."""

    def __init__(self, trainer: Trainer, seed: int) -> None:
        self._trainer, self._seed = trainer, seed
        self._device = trainer.device
        self._batch = next(self._batches())
        self._spent = 0.0  # seconds in steps: building models is paid once in any case

    def speeds(self, count: int) -> dict[int, float]:
        """How many times faster stacks are than trials one by one, by their number of lanes.

        Raises:
            Exception: they cannot be fused.
        """
        began = time.perf_counter()
        step = self._time(self._lanes(1))
        budget = _MEASURING_SHARE * step * self._trainer.steps
        budget = min(max(budget, _MEASURING_LEAST), _MEASURING_MOST)
        if _CHECKING_STEPS * step > budget:
            raise TaskError(f"a step takes {step:.2g} s, with little to gain beside what it does")
        self._check()
        speeds: dict[int, float] = {}
        falls = 0
        for lanes in _sizes(count):
            took = self._time_stack(lanes)
            if took is None:
                break
            speeds[lanes] = lanes * step / took
            log.info("%d lanes fused: %.2f times as fast as one by one", lanes, speeds[lanes])
            falls = falls + 1 if lanes > _PEAK_FROM and speeds[lanes] < max(speeds.values()) else 0
            late = self._spent > budget or time.perf_counter() - began > _MEASURING_MOST
            if falls >= _FALLS or late:
                break
        return speeds

    def _time_stack(self, lanes: int) -> float | None:
        """Seconds of one step of a stack; None: there is no memory for it, or for a larger one."""
        before = _used(self._device)
        try:
            took = self._time(self._lanes(lanes))
        except torch.OutOfMemoryError:
            log.info("no memory for %d lanes", lanes)
            return None
        return took if 2 * (_used(self._device) - before) <= _free(self._device) else None

    def _lanes(self, count: int) -> Lanes:
        return self._trainer.lanes([self._start(number) for number in range(count)])

    def _start(self, number: int, seed: int | None = None) -> TrialTraining:
        self._trainer.alive()
        seed = self._seed if seed is None else seed
        return self._trainer.start(for_a_look(seed, number))

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        seed_for(self._seed, 1)
        return iter(self._trainer.training_batches)

    def _time(self, lanes: Lanes) -> float:
        """Seconds of one step: the shortest, since others use this machine as well."""
        lanes.train(True)
        wait = torch.cuda.synchronize if self._device.type == "cuda" else _no_wait
        lanes.step(*self._batch, 0.0)
        shortest, spent, steps = math.inf, 0.0, 0
        while spent < _TIMED or steps < _TIMED_STEPS:
            wait()
            began = time.perf_counter()
            lanes.step(*self._batch, 0.0)
            wait()
            took = time.perf_counter() - began
            shortest, spent, steps = min(shortest, took), spent + took, steps + 1
            self._spent += took
            self._trainer.alive()
        return shortest

    def _check(self) -> None:
        """Whether lanes compute what trials alone compute.

        Raises:
            TaskError: they do not, as where a model keeps a state that torch does not know of.
        """
        wrong, drew = self._compare(quiet=False)
        if wrong and drew:
            # Random numbers are drawn in the order of memory, which may differ for lanes, and on
            # a GPU does. Then what is left without dropout must be the same.
            wrong, _ = self._compare(quiet=True)
        if wrong:
            raise TaskError(f"{wrong} would not be that of a trial alone")

    def _compare(self, quiet: bool) -> tuple[str, bool]:
        """What differs between two lanes, of other weights than each other, and two trials alone;
        "" if nothing does. And whether random numbers were drawn in training."""
        alone = [self._look([self._start(n, self._seed + n)], quiet) for n in range(2)]
        before = self._random()
        fused = self._look([self._start(n, self._seed + n) for n in range(2)], quiet)
        drew = not torch.equal(before, self._random())
        share = _ROUNDING if self._exact else _ROUNDING_HALF
        for lane, own in enumerate(alone):
            for name, expected in own[0].items():
                if not _close(fused[lane].get(name), expected, share):
                    return name, drew
        return "", drew

    @property
    def _exact(self) -> bool:
        """Whether rounding is small."""
        return self._device.type == "cpu" and self._trainer.precision == "float32"

    def _look(self, trials: list[TrialTraining], quiet: bool) -> list[dict[str, torch.Tensor]]:
        """Train and evaluate: what came of it for each trial, by name."""
        for trial in trials if quiet else ():
            _quieten(trial.model)
        lanes = self._trainer.lanes(trials)
        lanes.train(True)
        rows = [lanes.step(*batch, 0.0) for batch in islice(self._batches(), _CHECKED)]
        losses, grads = lanes.gradients(*self._batch)
        rows.append(losses)
        lanes.train(False)
        with torch.no_grad():
            rows.append(lanes.losses(*self._batch))
        seen: list[dict[str, torch.Tensor]] = []
        for lane, trial in enumerate(trials):
            parts = [grad[lane].flatten() for grad in grads if grad is not None]
            own = {
                "the loss": torch.stack([row[lane] for row in rows]),
                "the gradient": torch.cat(parts),
            }
            states = trial.model.state_dict().items()
            own |= {f"{name} of the model": value.clone() for name, value in states}
            seen.append(own)
        if trials[-1].work.number == 1:  # it goes on alone: its own model must have it all
            last = self._trainer.lanes(trials[-1:])
            last.train(True)
            seen[-1]["the loss of a lane that is left"] = last.step(*self._batch, 0.0)
        return seen

    def _random(self) -> torch.Tensor:
        if self._device.type == "cuda":
            return torch.cuda.get_rng_state(self._device)
        return torch.get_rng_state()


def _quieten(model: torch.nn.Module) -> None:
    """Switch dropout off."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0


def _no_wait() -> None:
    """A CPU has done what it was told when the call returns."""


def _sizes(count: int) -> list[int]:
    """2, 4, 8 ... up to a number, and that."""
    doubled = [2**power for power in range(1, count.bit_length()) if 2**power < count]
    return [*doubled, count]


def _close(found: torch.Tensor | None, expected: torch.Tensor, share: float) -> bool:
    """Whether the two differ by a small share of their norm only."""
    if found is None or found.shape != expected.shape:
        return False
    ours, theirs = (torch.nan_to_num(x.detach().double()) for x in (found, expected))
    return bool((ours - theirs).norm() <= share * theirs.norm() + _NOTHING)


def _used(device: torch.device) -> float:
    """Bytes that this process has needed so far, at most."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    import resource

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * _KIB


def _free(device: torch.device) -> float:
    """Bytes that lanes may still take."""
    if device.type == "cuda":
        return _GPU_MEMORY * torch.cuda.mem_get_info(device)[0]
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:  # macOS
        return math.inf
    return _HOST_MEMORY * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _headline(error: Exception) -> str:
    """The first sentence of an error, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0][:_HEADLINE]
