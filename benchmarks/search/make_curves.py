"""Makes a corpus of real learning curves, for fitting a search and for judging it.

    python -m benchmarks.search.make_curves FILE.json.gz [--side fit|test] [--only TEXT] [--rates N]

Trains every problem of ``problems.py`` with several optimizers, horizons and schedules at 36 rates
from 1e-5 to 1e2, as lanes, and the best rate with four other seeds. The file is a JSON
list of trainings: problem, optimizer, schedule, warmup, lr, seed, batch_size, num_epochs, num_steps
(the horizon) and loss, the validation loss after so many ``steps``: at shares of the horizon from
1/512 on. Entry 0 is before training; null stands for what is not finite, and a shorter list for a
training that diverged. The same command makes the same corpus, but for the rounding of another
machine.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.search.corpus_optimizers import (
    adafactor,
    adagrad,
    adam,
    adamw,
    bounded,
    lion,
    momentum,
    nadam,
    normalized,
    rmsprop,
    sgd,
)
from benchmarks.search.problems import PROBLEMS
from justright.messages import TrialWork
from justright.processes import keep_freed_memory
from worker.training.trainer import TaskTrainer

LOWEST, HIGHEST, RATES = 1e-5, 1e2, 36
SEED, OTHERS = 42, (43, 44, 45, 46)


@dataclass(frozen=True)
class Setting:
    """How a problem is trained."""

    optimizer: Callable[[Any, float], torch.optim.Optimizer]
    epochs: int
    schedule: str = "constant"
    batch: float = 1.0  #: Times the problem's own batch size.
    warmup: float = 0.0


SETTINGS = (
    Setting(sgd, 40),
    Setting(momentum, 25),
    Setting(momentum, 60, batch=2.0),
    Setting(momentum, 20, "cosine"),
    Setting(adam, 40),
    Setting(adam, 10),
    Setting(adamw, 25, "cosine", batch=0.5),
    Setting(rmsprop, 15),
    Setting(lion, 12, "cosine"),
    Setting(adafactor, 15),
    Setting(bounded, 15),
    Setting(normalized, 15, "linear"),
    Setting(momentum, 2, batch=0.25),
    Setting(adamw, 3, "linear", batch=0.25, warmup=0.1),
    Setting(adam, 1, "cosine", batch=0.125, warmup=0.05),
)
LONG = (Setting(sgd, 120), Setting(momentum, 100), Setting(adam, 80))
#: Of language models and of fine-tuning, whose trainings are short.
SHORT = (
    Setting(adamw, 1),
    Setting(adamw, 1, "cosine", warmup=0.05),
    Setting(adamw, 3, "linear", warmup=0.1),
    Setting(adam, 2, batch=2.0),
    Setting(adam, 6, "cosine"),
    Setting(momentum, 3, "cosine"),
    Setting(sgd, 2),
    Setting(lion, 2, "cosine", warmup=0.05),
    Setting(adafactor, 3, "linear", warmup=0.1),
    Setting(adagrad, 3),
    Setting(nadam, 4, "linear"),
)


def rates(count: int) -> list[float]:
    """Evenly spread on the log scale, ends included."""
    return [LOWEST * (HIGHEST / LOWEST) ** (i / (count - 1)) for i in range(count)]


def places(horizon: int) -> tuple[int, ...]:
    """The steps at which losses are taken: close at first, then a twentieth of all apart."""
    found, step = [], max(1, horizon // 512)
    while step < horizon:
        found.append(step)
        step = max(step + 1, min(round(step * 1.3), step + horizon // 20))
    return (*found, horizon)


def curves(name: str, setting: Setting, count: int) -> list[dict[str, Any]]:
    """All trainings of one problem with one setting."""
    entry = PROBLEMS[name]
    task = entry.task(epochs=setting.epochs, schedule=setting.schedule, warmup=setting.warmup)
    task.optimizer = setting.optimizer
    task.batch_size = max(1, int(task.batch_size * setting.batch))
    trainer = TaskTrainer(task, torch.device("cpu"), threads=1)
    trainer.held_out = trainer.held_out and trainer.held_out.without_part()
    trainer.measure_initial_loss(SEED)
    runs = [(lr, SEED) for lr in rates(count)]
    at = places(trainer.steps)
    found = train_together(trainer, runs, marks=at)
    whole = [i for i, losses in enumerate(found) if len(losses) == len(at) + 1]
    best = min(whole, key=lambda i: _lowest(found[i]), default=0)
    for seed in OTHERS if whole else ():
        runs.append((runs[best][0], seed))
        found += train_together(trainer, runs[-1:], marks=at)
    about = {
        "problem": name,
        "optimizer": setting.optimizer.__name__,
        "schedule": setting.schedule,
        "warmup": setting.warmup,
        "batch_size": task.batch_size,
        "num_epochs": setting.epochs,
        "num_steps": trainer.steps,
        "side": entry.side,
    }
    return [
        about | {"lr": lr, "seed": seed, "steps": (0, *at)[: len(losses)], "loss": losses}
        for (lr, seed), losses in zip(runs, found, strict=True)
    ]


def _lowest(losses: Sequence[float | None]) -> float:
    return min((loss for loss in losses if loss is not None), default=math.inf)


def train_together(
    trainer: TaskTrainer,
    runs: Sequence[tuple[float, int]],
    params: Mapping[str, Any] | None = None,
    marks: Sequence[int] = (),
) -> list[list[float | None]]:
    """The losses of these (rate, seed) of one seed, trained together with these settings: at each
    mark, or at the end of each epoch."""
    about: dict[str, Any] = {"params": dict(params or {}), "attempt": 1}
    works = (TrialWork(number=n, lr=lr, seed=s, **about) for n, (lr, s) in enumerate(runs))
    trials = [trainer.start(work) for work in works]
    losses: list[list[float | None]] = [[_short(trainer.initial_loss)] for _ in trials]
    lanes = trainer.lanes(trials)
    while trials:
        if not lanes.take(trials):
            lanes = trainer.lanes(trials)
        mark = trainer.next_mark(trials[0], marks)
        results = trainer.train_lanes(lanes, mark=mark)
        assert results is not None  # nothing interrupts it
        going_on = [result for result in results if not result.diverged]
        for result in going_on:
            losses[result.trial.work.number].append(_short(result.loss))
        trials = [result.trial for result in going_on if mark < trainer.steps]
    return losses


def _short(loss: float | None) -> float | None:
    return None if loss is None or not math.isfinite(loss) else float(f"{loss:.6g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    parser.add_argument("--side", choices=("fit", "test"), help="only problems of this side")
    parser.add_argument("--only", default="", metavar="TEXT", help="only problems of that name")
    parser.add_argument("--rates", type=int, default=RATES, metavar="N")
    arguments = parser.parse_args()
    if arguments.rates < 2:
        parser.error(f"--rates: found {arguments.rates}, expected at least 2")
    keep_freed_memory()
    corpus: list[dict[str, Any]] = []
    for name, entry in PROBLEMS.items():
        if arguments.only in name and arguments.side in (None, entry.side):
            began = time.perf_counter()
            for setting in entry.settings(SETTINGS, LONG, SHORT):
                corpus += curves(name, setting, arguments.rates)
            sys.stderr.write(f"{name}: {time.perf_counter() - began:.0f} s\n")
    if not corpus:
        parser.error(f"--only: no problem of {', '.join(PROBLEMS)} has {arguments.only!r} in it")
    beside = arguments.file.with_suffix(".part")
    # Without a time in it, equal content is an equal file.
    with beside.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
        packed.write(json.dumps(corpus, separators=(",", ":")).encode())
    beside.replace(arguments.file)


if __name__ == "__main__":
    main()
