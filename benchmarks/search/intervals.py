"""Whether answers know how sure they are: checked on real trainings whose truth is known.

    python -m benchmarks.search.intervals CURVES.json.gz [--seeds N] [--json]

Each task is searched by the default policy (``benchmarks.search.replay``).

*interval*: that of the loss, laid around the main seed's lowest loss at the rate that the file
repeats, should hold the mean of that rate's other seeds. ``coverage``: in what share of the answers
it does. ``width``: its median, over what training gains.

*plateau*: all rates in it should be good, which is to say within 1 % of the scale (the untrained
loss minus the best), or within the standard deviation over seeds where that is more, of the best.
Rates are looked at every tenth of a decade. ``precision``: the share of good ones among those in
the plateau. ``recall``: the share of those in the plateau among the good ones around the best.
``decades``, ``true_decades``: median widths of the plateau, and of the good ones around the best.
``holds_best``: in what share of the answers the best rate lies in it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import optuna

from benchmarks.search.curve_files import CurvesError
from benchmarks.search.replay import Replay
from benchmarks.search.replay_curves import CurveTask, quality, read_tasks
from orchestrator.search.policy import PLATEAU_SHARE

_STEP = 0.1  # decades between the rates that are looked at


@dataclass(frozen=True)
class Check:
    """One answer. None where the file does not tell."""

    interval: bool | None
    width: float  #: Of the interval, over what training gains.
    holds_best: bool
    band: int  #: Rates in the plateau ...
    good_in_band: int  #: ... of which so many are good.
    good: int  #: Good rates around the best ...
    found: int  #: ... of which so many are in the plateau.
    decades: float  #: Width of the plateau.
    true_decades: float  #: ... and of the good rates around the best.


def check(task: CurveTask, seed: int) -> Check | None:
    """Search the task; None where the study had no answer with an interval."""
    replay = Replay(task, "auto", seed, lanes=1)
    replay.result()
    answer = replay.answer
    if answer is None or answer.best_lr is None or answer.loss is None:
        return None
    if answer.plateau is None or answer.loss_interval is None:
        return None
    again = task.repeated
    others = [v for v in map(quality, task.other_seeds(again)) if math.isfinite(v)] if again else []
    bottom, top = answer.loss_interval
    held = None
    if again and len(others) > 2:
        off = abs(quality(task.curve(again)) - statistics.fmean(others))
        held = off <= (top - bottom) / 2
    initial = answer.loss if task.initial_loss is None else task.initial_loss
    scale = max(initial - task.best, 1e-12)
    noise = statistics.stdev(others) if len(others) > 2 else 0.0
    enough = task.best + max(PLATEAU_SHARE * scale, noise)
    best = min(task.rates, key=task.worth)
    true = _around(task, best, enough)
    low, high = (math.log10(end) for end in answer.plateau)
    band = _between(low, high)
    right = [x for x in band if task.worth(10**x) <= enough]
    return Check(
        interval=held,
        width=(top - bottom) / scale,
        holds_best=low - 1e-3 <= math.log10(best) <= high + 1e-3,
        band=len(band),
        good_in_band=len(right),
        good=len(true),
        found=sum(low - 1e-3 <= x <= high + 1e-3 for x in true),
        decades=high - low,
        true_decades=true[-1] - true[0],
    )


def _between(low: float, high: float) -> list[float]:
    """Decades from one end to the other, both included."""
    count = max(1, round((high - low) / _STEP))
    return [low + (high - low) * i / count for i in range(count + 1)] if high > low else [low]


def _around(task: CurveTask, best: float, enough: float) -> list[float]:
    """The rates that are good one beside the other, the best one among them, in decades."""
    lowest, highest = (math.log10(end) for end in task.lr_range)
    found = [math.log10(best)]
    for step, end in ((-_STEP, lowest), (_STEP, highest)):
        x = math.log10(best) + step
        while (x - end) * step <= 1e-9 and task.worth(10**x) <= enough:
            found.append(x)
            x += step
    return sorted(found)


def _check(arguments: tuple[CurveTask, int]) -> Check | None:
    return check(*arguments)


def summary(checks: Sequence[Check]) -> dict[str, dict[str, float | None]]:
    """What share of the answers was right about itself."""
    told = [one for one in checks if one.interval is not None]
    right = sum(one.good_in_band for one in checks)
    return {
        "interval": {
            "coverage": statistics.fmean(bool(one.interval) for one in told) if told else None,
            "width": statistics.median(one.width for one in checks),
        },
        "plateau": {
            "precision": right / sum(one.band for one in checks),
            "recall": sum(one.found for one in checks) / sum(one.good for one in checks),
            "decades": statistics.median(one.decades for one in checks),
            "true_decades": statistics.median(one.true_decades for one in checks),
            "holds_best": statistics.fmean(one.holds_best for one in checks),
        },
    }


def report(checks: Sequence[Check]) -> str:
    """The same in words."""
    found = summary(checks)
    percent = {
        f"{of}.{name}": "an unknown share" if value is None else f"{value:.1%}"
        for of, figures in found.items()
        for name, value in figures.items()
    }
    plateau = found["plateau"]
    return (
        f"{len(checks)} answers\n"
        f"the 95 % interval of the loss holds the mean of other seeds in "
        f"{percent['interval.coverage']}; its median width is {percent['interval.width']} of what "
        f"training gains\n"
        f"of the rates in the plateau {percent['plateau.precision']} are good, of the good rates "
        f"{percent['plateau.recall']} are in it; its median width is {plateau['decades']:.2f} "
        f"decades, that of the good ones {plateau['true_decades']:.2f}; it holds the best rate in "
        f"{percent['plateau.holds_best']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("curves", type=Path)
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        tasks = [task for task in read_tasks(arguments.curves) if task.usable]
    except CurvesError as error:
        parser.error(str(error))
    wanted = [(task, seed) for task in tasks for seed in range(arguments.seeds)]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        checks = [one for one in pool.map(_check, wanted) if one is not None]
    if not checks:
        parser.error("no task of the file gave an answer with an interval and a plateau")
    print(json.dumps(summary(checks)) if arguments.json else report(checks))


if __name__ == "__main__":
    main()
