"""Lane-steps per second: many rates trained in one stack, against one model after another.

    python -m benchmarks.lanes [--json] [--only TEXT] [--lanes 1,4,16,64] [--rounds N]

The peer is a plain loop of one model and its torch.optim optimizer, over the same batches. All ways
take turns within each round, so that a machine that is slow for a while is slow for all; a ratio is
the median over the rounds. On a CPU one thread is used. "eta" is the share that is reached of what
this machine can do: of its matrix products or of its memory bandwidth, whichever is larger. Both
are measured here; what a training step needs of them is counted on the plain loop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from justright.lane_plan import LanePlan
from justright.messages import TrialWork
from justright.processes import keep_freed_memory
from justright.spec import TaskRef
from justright.task import Task
from worker.lanes.plan import plan_lanes
from worker.training.trainer import TaskTrainer
from worker.user_code.loading import load

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CASES = (
    ("digits.py:Digits", "sgd"),
    ("digits.py:Digits", "adamw"),
    ("digits.py:DigitsCNN", "sgd"),
    ("digits.py:DigitsCNN", "adamw"),
    ("digits.py:DigitsTransformer", "adamw"),
    ("diabetes.py:Diabetes", "adam"),
)
RATE = 1e-3
SECONDS = 0.4  # of each way in each round

Run = Callable[[], int]  #: Trains one batch in every lane; returns how many lanes that are.


@dataclass(frozen=True)
class Peak:
    """What this machine can do, measured on one thread or device."""

    flops: float  #: Per second, in single-precision matrix products.
    bytes: float  #: Per second, read and written.


@dataclass(frozen=True)
class Need:
    """What one training step of one model takes."""

    flops: float
    bytes: float  #: What its operations read and write.


@dataclass
class Row:
    """One way to train one task, and what it reached."""

    task: str
    optimizer: str
    lanes: int | str
    way: str
    lane_steps_per_second: float
    ratio: float
    eta: float
    bound: str  #: What eta is a share of.


def peak(device: torch.device) -> Peak:
    """Measure it."""
    size = 1024 if device.type == "cpu" else 4096
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    flops = 2 * size**3 / _shortest(lambda: a @ b, device)
    x = torch.randn(2**26, device=device)
    y = torch.empty_like(x)
    return Peak(flops, 2 * 4 * x.numel() / _shortest(lambda: y.copy_(x), device))


def _shortest(call: Callable[[], Any], device: torch.device) -> float:
    call()
    found = []
    for _ in range(10):
        _wait(device)
        began = time.perf_counter()
        call()
        _wait(device)
        found.append(time.perf_counter() - began)
    return min(found)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes that operations read and write; views move none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            for value in tree_leaves((args, kwargs, found)):
                if isinstance(value, torch.Tensor):
                    self.bytes += value.numel() * value.element_size()
        return found


class Case:
    """One task with one optimizer."""

    def __init__(self, name: str, optimizer: str, device: torch.device) -> None:
        task = load(TaskRef(target=f"{EXAMPLES}/{name}", arguments={"optimizer": optimizer}))
        assert isinstance(task, Task)
        self.name, self.optimizer, self.task = name.partition(":")[2], optimizer, task
        self.trainer = TaskTrainer(task, device, threads=1)
        self._batches = self._endless()

    def _endless(self) -> Iterator[tuple[Any, Any]]:
        while True:
            yield from self.trainer.training_batches

    def _start(self, count: int) -> list[Any]:
        works = (TrialWork(number=n, lr=RATE, seed=0, attempt=1) for n in range(count))
        return [self.trainer.start(work) for work in works]

    def plain(self) -> Run:
        """The loop that everybody writes."""
        (trial,) = self._start(1)
        model, optimizer = trial.model, trial.optimizer
        model.train()

        def run() -> int:
            inputs, targets = next(self._batches)
            optimizer.zero_grad()
            loss = self.task.loss(model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return 1

        return run

    def lanes(self, count: int) -> Run:
        """Our own."""
        lanes = self.trainer.lanes(self._start(count))
        lanes.train(True)

        def run() -> int:
            lanes.step(*next(self._batches), 0.0)
            return count

        return run

    def plan(self) -> LanePlan:
        """What ``--lanes auto`` would choose for a large study."""
        return plan_lanes(self.trainer, 0)

    def need(self) -> Need:
        """Counted on one step of the plain loop, after its first."""
        run = self.plain()
        run()
        with FlopCounterMode(display=False) as counter:
            run()
        with _Traffic() as traffic:
            run()
        return Need(float(counter.get_total_flops()), traffic.bytes)


def measure(case: Case, counts: list[int], rounds: int, machine: Peak) -> list[Row]:
    """All ways to train one case, in turn."""
    need, plan = case.need(), case.plan()
    ways: dict[int | str, tuple[str, Run]] = {"plain": ("torch.optim", case.plain())}
    for count in counts:
        ways[count] = ("alone" if count == 1 else "fused", case.lanes(count))
    ways["auto"] = (f"fused, {plan.stack}" if plan.stack > 1 else "alone", case.lanes(plan.stack))
    speeds: dict[int | str, list[float]] = {name: [] for name in ways}
    for run in (run for _, run in ways.values()):
        run()
    for _ in range(rounds):
        for name, (_, run) in ways.items():
            speeds[name].append(_speed(run, case.trainer.device))
    rows = []
    for name, (way, _) in ways.items():
        ratios = (ours / plain for ours, plain in zip(speeds[name], speeds["plain"], strict=True))
        speed = statistics.median(speeds[name])
        shares = {
            "matrix product": speed * need.flops / machine.flops,
            "memory": speed * need.bytes / machine.bytes,
        }
        bound = max(shares, key=lambda of: shares[of])
        ratio = round(statistics.median(ratios), 3)
        eta = round(shares[bound], 3)
        rows.append(Row(case.name, case.optimizer, name, way, round(speed, 1), ratio, eta, bound))
    return rows


def _speed(run: Run, device: torch.device) -> float:
    """Lane-steps per second."""
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS or not done:
        done += run()
        _wait(device)
    return done / (time.perf_counter() - began)


def show(rows: list[Row], machine: Peak, device: torch.device) -> None:
    """A table for people."""
    print(
        f"{device.type}, {torch.get_num_threads()} thread: {machine.flops / 1e9:.0f} GFLOP/s in "
        f"matrix products, {machine.bytes / 1e9:.1f} GB/s of memory"
    )
    print(f"{'task':<18} {'optimizer':<9} {'lanes':>5}  {'way':<12} {'lane-steps/s':>12} "
          f"{'ratio':>6} {'eta':>6}")  # fmt: skip
    for row in rows:
        print(
            f"{row.task:<18} {row.optimizer:<9} {row.lanes!s:>5}  {row.way:<12} "
            f"{row.lane_steps_per_second:>12.0f} {row.ratio:>6.2f} {row.eta:>6.1%} of {row.bound}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", default="", metavar="TEXT", help="only tasks of that name")
    parser.add_argument("--lanes", default="1,4,16,64", metavar="K,...")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    counts = [int(text) for text in arguments.lanes.split(",") if text.strip().isdigit()]
    if not counts or min(counts) < 1 or arguments.rounds < 1:
        parser.error("--lanes: expected numbers such as 1,4,16; --rounds: a positive number")
    keep_freed_memory()
    device = torch.device(arguments.device)
    torch.set_num_threads(1 if device.type == "cpu" else torch.get_num_threads())
    machine = peak(device)
    rows: list[Row] = []
    for name, optimizer in CASES:
        if arguments.only.lower() in f"{name} {optimizer}".lower():
            rows += measure(Case(name, optimizer, device), counts, arguments.rounds, machine)
            sys.stderr.write(f"{name} with {optimizer}: done\n")
    if arguments.json:
        found = [vars(row) for row in rows if row.lanes != "plain"]
        print(json.dumps({"device": device.type, "peak": vars(machine), "rows": found}))
    else:
        show(rows, machine, device)


if __name__ == "__main__":
    main()
