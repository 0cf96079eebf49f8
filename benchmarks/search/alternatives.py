"""What a search gains over what people use instead of one, and what it costs.

    python -m benchmarks.search.alternatives [--only TEXT] [--seeds N] [--jobs N] [--json]

Ways: the usual rate of an optimizer; the range test (lr_find); optimizers that need no rate;
Optuna's TPE with a pruner, over seven decades; and ``justright tune`` with a budget of half a
training, one, two, and by itself. The tasks are those of ``alternative_tasks.py``.

The truth is a grid of four rates a decade, from 1e-5 to 10, and a finer one about its best, each
trained to the end with two seeds that no search had. What a way is worth: the mean, over those
seeds, of the lowest loss of a full training with its rate, or its optimizer. Regret is that above
the grid's best, over the median rate's loss above it, at most 1 and below 0 where the way is better
than any rate. ``full_trainings``: what was trained until the answer was there; where a way does not
search, the training itself. A search of one training or less gives a rate, not a trained model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import optuna
import torch

from benchmarks.search.alternative_tasks import TASKS
from benchmarks.search.end_to_end import Truth, tune, with_optuna
from benchmarks.search.fine_grid import open_trainer, train
from benchmarks.search.rate_free import OPTIMIZERS, range_test, with_optimizer
from justright.processes import keep_freed_memory
from worker.training.trainer import TaskTrainer

USUAL = {"sgd": 1e-2, "adam": 1e-3, "adamw": 1e-3}
TRUTH_SEEDS = (100, 101)
LOW, HIGH, RATES = 1e-5, 10.0, 25
TRIALS = 20  # of Optuna's studies
BUDGETS = {"justright, half a training": ("--budget", "0.5"),
           "justright, one": ("--budget", "1"),
           "justright, two": ("--budget", "2"),
           "justright": ()}  # fmt: skip
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "Optuna, TPE + median": optuna.pruners.MedianPruner,
    "Optuna, TPE + ASHA": optuna.pruners.SuccessiveHalvingPruner,
}

#: A way's rate, or what it is worth, and what it cost, for each seed of the search.
Found = list[tuple[float, float]]


def row(task: str, way: str, found: Found) -> dict[str, Any]:
    regret, full = (statistics.fmean(values) for values in zip(*found, strict=True))
    return {"task": task, "way": way, "regret": regret, "full_trainings": full}


def by_search(name: str, trainer: TaskTrainer, truth: Truth, seeds: int) -> list[dict[str, Any]]:
    """The ways that find a rate."""
    rows = []
    choice = trainer.task.optimizer
    assert isinstance(choice, str)
    rows.append(row(name, "the usual rate", [(truth.regret(USUAL[choice]), 1.0)]))
    tests = [range_test(trainer, seed) for seed in range(seeds)]
    found = [(truth.regret(lr), 1 + steps / trainer.steps) for lr, steps in tests]
    rows.append(row(name, "lr_find", found))
    for way, pruner in PRUNERS.items():
        searched = [with_optuna(trainer, pruner(), seed, TRIALS) for seed in range(seeds)]
        rows.append(row(name, way, [(truth.regret(lr), full) for lr, full, _ in searched]))
    for way, options in BUDGETS.items():
        searched = [tune(TASKS[name], seed, *options) for seed in range(seeds)]
        rows.append(row(name, way, [(truth.regret(lr), full) for lr, full, _ in searched]))
    return rows


def by_optimizer(name: str, trainer: TaskTrainer, truth: Truth) -> list[dict[str, Any]]:
    """The optimizers that need no rate."""
    rows = []
    for way, chosen in OPTIMIZERS.items():
        task = with_optimizer(trainer.task, chosen)
        own = TaskTrainer(task, torch.device("cpu"), threads=1)
        own.measure_initial_loss(TRUTH_SEEDS[0])
        losses = [train(own, chosen.lr, seed).best for seed in TRUTH_SEEDS]
        rows.append(row(name, way, [(truth.regret_of(statistics.fmean(losses)), 1.0)]))
    return rows


def compare(name: str, seeds: int) -> list[dict[str, Any]]:
    """All ways on one task."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trainer = open_trainer(TASKS[name])
    trainer.measure_initial_loss(TRUTH_SEEDS[0])
    truth = Truth(trainer, (LOW, HIGH, RATES), TRUTH_SEEDS, fine=0.1, about=0.3)
    rows = by_search(name, trainer, truth, seeds) + by_optimizer(name, trainer, truth)
    sys.stderr.write(f"{name}: best {truth.best:.4g} at {truth.best_lr:.2g}\n")
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows, and the mean and the worst regret of each way."""
    ways: dict[str, list[float]] = {}
    for one in rows:
        ways.setdefault(one["way"], []).append(one["regret"])
    return {
        "rows": rows,
        "worst": {way: max(values) for way, values in ways.items()},
        "mean": {way: statistics.fmean(values) for way, values in ways.items()},
    }


def show(found: dict[str, Any]) -> None:
    """Regrets in percent: a line for each task, a column for each way."""
    ways, rows = list(found["mean"]), found["rows"]
    cells = {(one["task"], one["way"]): one for one in rows}
    for number, way in enumerate(ways):
        price = statistics.fmean(one["full_trainings"] for one in rows if one["way"] == way)
        print(
            f"{chr(ord('a') + number)} = {way:28}{price:6.2f} full trainings, regret "
            f"{100 * found['mean'][way]:5.1f} %, at worst {100 * found['worst'][way]:5.1f} %"
        )
    print(f"\n{'regret, %':32}" + "".join(f"{chr(ord('a') + n):>6}" for n in range(len(ways))))
    for task in dict.fromkeys(one["task"] for one in rows):
        regrets = (100 * cells[task, way]["regret"] for way in ways)
        print(f"{task:32}" + "".join(f"{regret:6.1f}" for regret in regrets))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", metavar="TEXT", help="only tasks with it in the name")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="of each search")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = [name for name in TASKS if arguments.only in name]
    if not names:
        parser.error(f"--only: no task has {arguments.only!r} in its name: {', '.join(TASKS)}")
    for option in ("seeds", "jobs"):
        if getattr(arguments, option) < 1:
            parser.error(f"--{option}: found {getattr(arguments, option)}, expected at least 1")
    keep_freed_memory()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        rows = [
            one for rows in pool.map(partial(compare, seeds=arguments.seeds), names) for one in rows
        ]
    found = summary(rows)
    if arguments.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
