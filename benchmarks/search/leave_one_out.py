"""The default search on tasks whose problem its library does not hold, and whether it knows.

    python -m benchmarks.search.leave_one_out CURVES.json.gz... [--json]

Each task is searched (``benchmarks.replay``) with the library of the orchestrator less the surfaces
of the task's own problem. Prints the mean regret at some costs and at the end, and beside it what
the search itself expected of its recommendation: regret, and the chance that it diverges.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import optuna

from benchmarks.search.replay import COSTS, Replay
from benchmarks.search.replay_curves import CurveTask, read_tasks
from orchestrator.search.freeze_thaw import library
from orchestrator.search.freeze_thaw.curve_model import Forecast
from orchestrator.search.freeze_thaw.library import Library
from orchestrator.search.freeze_thaw.planner import Planner


@dataclass(frozen=True)
class Judged:
    """A recommendation: expected and true. ``cost``: of COSTS, or "end"."""

    task: str
    cost: str
    spent: float
    expected: float
    regret: float
    doubt: float  #: Chance that its rate diverges by the horizon.
    diverged: bool


@cache
def library_without(problem: str) -> Library:
    """The orchestrator's library, less a problem."""
    whole = library.library()
    with np.load(Path(library.__file__).with_name("surfaces.npz")) as data:
        kept = data["problems"] != problem
    return Library(whole.surfaces[kept], whole.log_weights[kept], whole.noise[kept])


class _Watched(Replay):
    """A replay that takes down what the search expects when it is asked."""

    def __init__(self, task: CurveTask) -> None:
        self.judged: list[Judged] = []
        self.looked: Forecast | None = None
        super().__init__(task, "auto", 0, 1)

    def _regret(self) -> float:
        regret = super()._regret()
        if self.looked is not None:
            place = int(np.argmin(self.looked.regret))
            curve = self._task.curve(10 ** float(self.looked.grid[place]))
            spent = self._epochs / self._task.horizon
            at = max((c for c in COSTS if c <= spent + 1e-9), default=0)
            self.judged.append(
                Judged(
                    task=self._task.name,
                    cost="end" if self.answer else f"{at:g}",
                    spent=spent,
                    expected=float(self.looked.regret[place]),
                    regret=regret,
                    doubt=float(np.mean(~np.isfinite(self.looked.progress[:, place]))),
                    diverged=not all(map(math.isfinite, curve)),
                )
            )
        return regret


def search(task: CurveTask) -> list[Judged]:
    """One task, by a library that does not hold its problem."""
    replay = _Watched(task)
    forecast = Planner.forecast

    def watched(*arguments: object) -> Forecast:
        replay.looked = forecast(*arguments)  # type: ignore[arg-type]
        return replay.looked

    left = library_without(task.name.split("/")[0])
    with (
        patch("orchestrator.search.freeze_thaw.planner.library", lambda: left),
        patch.object(Planner, "forecast", watched),
    ):
        replay.result()
    return replay.judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("curves", type=Path, nargs="+")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tasks = [task for path in arguments.curves for task in read_tasks(path) if task.usable]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        judged = [one for found in pool.map(search, tasks) for one in found]
    if arguments.json:
        print(json.dumps([asdict(one) for one in judged]))
        return
    print(f"{len(tasks)} tasks. In %, mean:")
    print(f"{'c':>5}{'searches':>10}{'regret':>9}{'expected':>10}{'diverge':>9}{'expected':>10}")
    for cost in (*(f"{c:g}" for c in COSTS), "end"):
        mine = [one for one in judged if one.cost == cost]
        if mine:
            means = [
                100 * statistics.fmean(values)
                for values in zip(
                    *((o.regret, o.expected, o.diverged, o.doubt) for o in mine), strict=True
                )
            ]
            cells = "".join(f"{v:{w}.1f}" for v, w in zip(means, (9, 10, 9, 10), strict=True))
            print(f"{cost:>5}{len(mine):10}{cells}")
    ends = [one.spent for one in judged if one.cost == "end"]
    print(f"ends after {statistics.fmean(ends):.2f} full trainings on average")


if __name__ == "__main__":
    main()
