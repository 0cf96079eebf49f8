"""What an answer costs where a training has one to six epochs, and what it loses.

    python -m benchmarks.search.short_horizons [--only NAME] [--seeds N] [--json]

Runs ``justright tune`` with its defaults, in a process and a state folder of its own, on the tasks
of ``short_tasks.py``. The truth is a grid of eight rates a decade, from 1e-4 to 1, each trained to
the end with the study's own seed. Regret: the loss of a full training at the answer above the
grid's best, over the median rate's loss above it, 0 where the answer is better. ``seconds`` are
those of the whole command, evaluations on the way included; ``grid_seconds`` those of the grid in
one process, whose losses are taken at the end of each epoch only.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from typing import Any

from benchmarks.search.fine_grid import answer_of, grid, open_trainer, train

TASKS = ("Characters", "ThreeEpochs", "SixEpochs", "FineTuning")
LOW, HIGH, PER_DECADE = 1e-4, 1.0, 8


def row(name: str, seeds: int) -> dict[str, Any]:
    """The means over seeds on one task."""
    target = f"benchmarks.search.short_tasks:{name}"
    trainer = open_trainer(target)
    answers, regrets, seconds, grids = [], [], [], []
    for seed in range(seeds):
        began = time.perf_counter()
        losses = [train(trainer, lr, seed).best for lr in grid(PER_DECADE, LOW, HIGH)]
        grids.append(time.perf_counter() - began)
        began = time.perf_counter()
        answer = answer_of(target, seed, [])
        seconds.append(time.perf_counter() - began)
        best = min(losses)
        middle = statistics.median(losses)
        if not math.isfinite(middle):
            middle = max(loss for loss in losses if math.isfinite(loss))
        own = train(trainer, answer["best_lr"], seed).best
        regrets.append(min(1.0, max(0.0, (own - best) / (middle - best))))
        answers.append(answer)
    return {
        "task": name,
        "horizon_epochs": trainer.epochs,
        "full_trainings": statistics.fmean(one["full_trainings"] for one in answers),
        "regret": statistics.fmean(regrets),
        "seconds": statistics.fmean(seconds),
        "grid_seconds": statistics.fmean(grids),
        "best_lr": [one["best_lr"] for one in answers],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = [name for name in TASKS if arguments.only in name]
    if not names or arguments.seeds < 1:
        parser.error(f"expected one of {', '.join(TASKS)}, and at least one seed")
    rows = []
    for name in names:
        rows.append(row(name, arguments.seeds))
        one = rows[-1]
        sys.stderr.write(
            f"{name}: {one['full_trainings']:.2f} full trainings, regret {one['regret']:.1%}, "
            f"{one['seconds']:.0f} s; the grid {one['grid_seconds']:.0f} s\n"
        )
    if arguments.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
