"""`justright tune` and Optuna (TPE with a pruner) end to end: what an answer costs and is worth.

    python -m benchmarks.search.end_to_end [--example NAME] [--seeds N] [--trials N] [--json]

For each example and seed: the real command, and a plain Optuna study with TPE and the median pruner
or ASHA (successive halving) at their defaults, which train the same task. The truth is a fine grid
of full trainings with three other seeds. Regret of an answer: its true loss above the best rate's,
over the median rate's above it (36 rates, 1e-6 to 10). Cost: epochs trained, over the horizon.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna

from benchmarks.search.fine_grid import open_trainer
from benchmarks.search.make_curves import train_together
from justright.messages import TrialWork
from justright.processes import keep_freed_memory
from worker.training.trainer import TaskTrainer

EXAMPLES = {
    "digits MLP": "examples/digits.py:Digits",
    "digits CNN": "examples/digits.py:DigitsCNN",
    "regression": "examples/diabetes.py:Diabetes",
}
LOW, HIGH, RATES = 1e-6, 10.0, 36
_OTHERS = (100, 101, 102)  # seeds of the truth
_FINE, _ABOUT = 0.05, 0.5  # decades between rates, and how far from the best


@dataclass(frozen=True)
class Row:
    """One tuner on one example with one seed."""

    example: str
    tuner: str
    seed: int
    lr: float
    full_trainings: float
    seconds: float
    regret: float


class Truth:
    """The mean lowest loss of full trainings, over log rate."""

    def __init__(
        self,
        trainer: TaskTrainer,
        rates: tuple[float, float, int] = (LOW, HIGH, RATES),
        seeds: Sequence[int] = _OTHERS,
        fine: float = _FINE,
        about: float = _ABOUT,
    ) -> None:
        """``rates``: lowest, highest, and how many. ``fine``: decades between those within
        ``about`` decades of the best."""
        low, high, count = rates
        self._seeds = seeds
        spread = np.linspace(math.log10(low), math.log10(high), count).tolist()
        known = dict(zip(spread, self._losses(trainer, spread), strict=True))
        best = min(known, key=lambda x: known[x])
        near = np.arange(best - about, best + about + fine / 2, fine)
        fine_ones = [x for x in near if all(abs(x - y) > fine / 10 for y in known)]
        values = np.array(list(known.values()))
        known |= dict(zip(fine_ones, self._losses(trainer, fine_ones), strict=True))
        self._places = np.array(sorted(known))
        self._values = np.array([known[x] for x in self._places])
        self.best = float(self._values.min())
        self.best_lr = float(10 ** self._places[int(self._values.argmin())])
        middle = float(np.median(values))
        self.median = middle if math.isfinite(middle) else float(values[np.isfinite(values)].max())

    def _losses(self, trainer: TaskTrainer, places: Sequence[float]) -> list[float]:
        found = []
        for seed in self._seeds:
            curves = train_together(trainer, [(10**x, seed) for x in places])
            laps = trainer.steps // (trainer.horizon.lap or trainer.steps)
            whole = [len(curve) == laps + 1 for curve in curves]
            found.append(
                [
                    min(v for v in curve if v is not None) if ok else math.inf
                    for curve, ok in zip(curves, whole, strict=True)
                ]
            )
        return [float(x) for x in np.mean(found, 0)]

    def regret(self, lr: float) -> float:
        """Of an answer; between the rates of the grid, linear in log rate."""
        loss = float(np.interp(math.log10(lr), self._places, self._values))
        return max(0.0, self.regret_of(loss))

    def regret_of(self, loss: float) -> float:
        """Of a loss; below 0 where it is lower than that of any rate of the grid."""
        if not math.isfinite(loss):
            return 1.0
        return min(1.0, (loss - self.best) / (self.median - self.best))


def tune(target: str, seed: int, *options: str) -> tuple[float, float, float]:
    """Rate, full trainings and seconds of the real command."""
    with tempfile.TemporaryDirectory() as state:
        began = time.perf_counter()
        command = [sys.executable, "-m", "justright", "tune", target, "--json"]
        done = subprocess.run(
            [*command, "--seed", str(seed), *options],
            env=os.environ | {"JUSTRIGHT_STATE": state},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        answer = json.loads(done.stdout)
        return answer["best_lr"], answer["full_trainings"], time.perf_counter() - began


def with_optuna(
    trainer: TaskTrainer, pruner: optuna.pruners.BasePruner, seed: int, trials: int
) -> tuple[float, float, float]:
    """The same of a study as Optuna's users write it."""
    steps = 0

    def objective(trial: optuna.Trial) -> float:
        nonlocal steps
        lr = trial.suggest_float("lr", LOW, HIGH, log=True)
        training = trainer.start(TrialWork(number=0, lr=lr, seed=seed, attempt=1))
        lowest = math.inf
        while training.mark < trainer.steps:
            before = training.step
            result = trainer.train_epoch(training)
            steps += training.step - before
            if result.diverged or result.loss is None:
                raise optuna.TrialPruned
            lowest = min(lowest, result.loss)
            trial.report(result.loss, result.step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return lowest

    began = time.perf_counter()
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner)
    study.optimize(objective, n_trials=trials)
    seconds = time.perf_counter() - began
    return study.best_params["lr"], steps / trainer.steps, seconds


def compare(example: str, seeds: int, trials: int) -> list[Row]:
    """All tuners on one example."""
    target = EXAMPLES[example]
    trainer = open_trainer(target)
    trainer.measure_initial_loss(_OTHERS[0])
    truth = Truth(trainer)
    rows = []
    for seed in range(seeds):
        found = {
            "justright": tune(target, seed),
            "justright, one lane": tune(target, seed, "--lanes", "1"),
            "TPE + median": with_optuna(trainer, optuna.pruners.MedianPruner(), seed, trials),
            "TPE + ASHA": with_optuna(
                trainer, optuna.pruners.SuccessiveHalvingPruner(), seed, trials
            ),
        }
        for tuner, (lr, full, seconds) in found.items():
            rows.append(Row(example, tuner, seed, lr, full, seconds, truth.regret(lr)))
        sys.stderr.write(f"{example}: seed {seed}\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--example", action="append", choices=list(EXAMPLES))
    parser.add_argument("--seeds", type=int, default=10, metavar="N")
    parser.add_argument("--trials", type=int, default=30, metavar="N", help="of Optuna's studies")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows: list[Row] = []
    for example in arguments.example or EXAMPLES:
        rows += compare(example, arguments.seeds, arguments.trials)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(f"{'':34}{'full trainings':>16}{'regret, %':>11}{'worst':>8}{'seconds':>9}")
    for example, tuner in dict.fromkeys((row.example, row.tuner) for row in rows):
        mine: list[Any] = [r for r in rows if (r.example, r.tuner) == (example, tuner)]
        print(
            f"{example:12}{tuner:22}{statistics.fmean(r.full_trainings for r in mine):16.2f}"
            f"{100 * statistics.fmean(r.regret for r in mine):11.2f}"
            f"{100 * max(r.regret for r in mine):8.2f}"
            f"{statistics.fmean(r.seconds for r in mine):9.1f}"
        )


if __name__ == "__main__":
    main()
