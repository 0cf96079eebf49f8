"""Whether answers know how sure they are: checked on real trainings whose truth is known.

    python -m benchmarks.search.intervals CURVES.json.gz [--seeds N]

Each task is searched by the default policy (``benchmarks.replay``). The plateau of the answer
should hold the best rate of the file. The interval of the loss, laid around the main seed's lowest
loss at the rate that the file repeats, should hold the mean of that rate's other seeds.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import optuna

from benchmarks.search.replay import Replay
from benchmarks.search.replay_curves import CurveTask, quality, read_tasks


@dataclass(frozen=True)
class Check:
    """One answer. None where the file does not tell."""

    interval: bool | None
    width: float  #: Of the interval, over what training gains.
    plateau: bool
    decades: float  #: Width of the plateau.


def check(task: CurveTask, seed: int) -> Check | None:
    """Search the task; None where the study had no answer with an interval."""
    replay = Replay(task, "auto", seed, lanes=1)
    replay.result()
    answer = replay.answer
    if answer is None or answer.best_lr is None or answer.loss is None:
        return None
    if answer.plateau is None or answer.loss_interval is None:
        return None
    low, high = answer.plateau
    best = min(task.rates, key=lambda lr: quality(task.curve(lr)))
    again = task.repeated
    others = [v for v in map(quality, task.other_seeds(again)) if math.isfinite(v)] if again else []
    bottom, top = answer.loss_interval
    held = None
    if again and len(others) > 2:
        off = abs(quality(task.curve(again)) - statistics.fmean(others))
        held = off <= (top - bottom) / 2
    gained = max((task.initial_loss or answer.loss) - answer.loss, 1e-12)
    inside = low * 0.999 <= best <= high * 1.001
    return Check(held, (top - bottom) / gained, inside, math.log10(high / low))


def _check(arguments: tuple[CurveTask, int]) -> Check | None:
    return check(*arguments)


def report(checks: Sequence[Check]) -> str:
    """What share of the answers was right about itself."""
    told = [one for one in checks if one.interval is not None]
    held = statistics.fmean(bool(one.interval) for one in told) if told else math.nan
    inside = statistics.fmean(one.plateau for one in checks)
    return (
        f"the 95 % interval of the loss holds the mean of other seeds in {held:.1%} of "
        f"{len(told)} answers; its median width is "
        f"{statistics.median(one.width for one in checks):.2%} of what training gains\n"
        f"the plateau holds the best rate in {inside:.1%} of {len(checks)} answers; its median "
        f"width is {statistics.median(one.decades for one in checks):.2f} decades"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("curves", type=Path)
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tasks = [task for task in read_tasks(arguments.curves) if task.usable]
    wanted = [(task, seed) for task in tasks for seed in range(arguments.seeds)]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        checks = [one for one in pool.map(_check, wanted) if one is not None]
    print(report(checks))


if __name__ == "__main__":
    main()
