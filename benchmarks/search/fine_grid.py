"""The truth about a task's learning rate: a full training at every rate of a fine grid.

    python -m benchmarks.search.fine_grid examples/digits.py:Digits --check 10

prints the best rate and, with ``--check N``, how far the answers of N studies (seeds 0 to N-1)
are from it: the loss of a full training at ``best_lr`` over the lowest loss of the grid.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from justright.client.targets import resolve
from justright.messages import TrialWork
from justright.spec import DEFAULT_LR, TaskRef
from justright.task import Task
from worker.training.trainer import TaskTrainer
from worker.user_code.loading import load


@dataclass(frozen=True)
class Curve:
    """One full training. ``best`` is its lowest loss, inf where it diverged."""

    lr: float
    losses: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.losses) if math.isfinite(sum(self.losses)) else math.inf


def train(trainer: TaskTrainer, lr: float, seed: int = 0) -> Curve:
    """Train to the horizon, or until the loss diverges."""
    trial = trainer.start(TrialWork(number=0, lr=lr, seed=seed, attempt=1))
    losses: list[float] = []
    while trial.mark < trainer.steps:
        result = trainer.train_epoch(trial)
        assert result is not None  # nothing interrupts it
        losses.append(math.inf if result.diverged or result.loss is None else result.loss)
        if result.diverged:
            break
    return Curve(lr, tuple(losses))


def open_trainer(target: str) -> TaskTrainer:
    """A task on the CPU, one thread: what small models are fastest with."""
    torch.set_num_threads(1)
    task = load(TaskRef(target=resolve(target, Path.cwd())))
    assert isinstance(task, Task)
    trainer = TaskTrainer(task, torch.device("cpu"))
    trainer.measure_initial_loss(0)
    return trainer


def grid(per_decade: int, low: float, high: float) -> list[float]:
    """Rates from low to high, evenly on the log scale."""
    count = round(per_decade * math.log10(high / low))
    return [low * (high / low) ** (i / count) for i in range(count + 1)]


def answer_of(target: str, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """One ``justright tune`` in a process and a state folder of its own."""
    with tempfile.TemporaryDirectory() as state:
        done = subprocess.run(
            [sys.executable, "-m", "justright", "tune", target, "--seed", str(seed), "--json",
             "--trials", "30", *options],
            env={**os.environ, "JUSTRIGHT_STATE": state},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
        )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("task")
    parser.add_argument("--per-decade", type=int, default=12)
    parser.add_argument("--check", type=int, default=0, metavar="N")
    parser.add_argument("--json", action="store_true")
    arguments, options = parser.parse_known_args()
    trainer = open_trainer(arguments.task)
    curves = [train(trainer, lr) for lr in grid(arguments.per_decade, *DEFAULT_LR)]
    best = min(curves, key=lambda curve: curve.best)
    rows = []
    for seed in range(arguments.check):
        answer = answer_of(arguments.task, seed, options)
        ratio = train(trainer, answer["best_lr"]).best / best.best
        rows.append({"seed": seed, "ratio": ratio, **answer})
        if not arguments.json:
            print(
                f"seed {seed}: lr {answer['best_lr']:.4g}, loss / best of grid {ratio:.4f}, "
                f"{answer['full_trainings']} full trainings, {answer['seconds']} s", flush=True,
            )  # fmt: skip
    if arguments.json:
        print(json.dumps({"best_lr": best.lr, "loss": best.best, "studies": rows}))
    else:
        print(f"grid of {len(curves)}: best lr {best.lr:.4g}, loss {best.best:.4g}")


if __name__ == "__main__":
    main()
