"""`--search` of `justright tune`: more than the rate, by the default search and by Optuna's.

    python -m benchmarks.search.more_than_rate [--example NAME] [--seeds N] [--trials N] [--json]

Each tuner searches the rate, the batch size, weight decay, momentum and the schedule, all with the
same number of trials; one searches the rate alone. What an answer is worth: the lowest loss of full
trainings with its settings, the mean over three other seeds. Cost: epochs trained over the horizon.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.search.fine_grid import open_trainer
from benchmarks.search.make_curves import train_together
from justright.processes import keep_freed_memory
from worker.training.trainer import TaskTrainer

EXAMPLES = {
    "digits MLP": "examples/digits.py:Digits",
    "regression": "examples/diabetes.py:Diabetes",
}
SEARCHED = ("batch_size=16:128", "weight_decay", "momentum", "schedule")
_SEARCH = tuple(word for name in SEARCHED for word in ("--search", name))
TUNERS = {
    "auto, rate alone": (),
    "auto": _SEARCH,
    "tpe + median": (*_SEARCH, "--sampler", "tpe", "--pruner", "median"),
    "tpe + asha": (*_SEARCH, "--sampler", "tpe", "--pruner", "asha"),
    "random": (*_SEARCH, "--sampler", "random", "--pruner", "none"),
}
_OTHERS = (100, 101, 102)  # seeds of the truth


@dataclass(frozen=True)
class Row:
    """One tuner on one example with one seed. ``loss``: of its answer, with other seeds."""

    example: str
    tuner: str
    seed: int
    lr: float
    params: dict[str, Any]
    full_trainings: float
    seconds: float
    loss: float


def tune(target: str, seed: int, options: tuple[str, ...]) -> tuple[dict[str, Any], float]:
    """The answer of the real command, and its seconds."""
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "justright", "tune", target, "--json"]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, "--seed", str(seed), *options],
            env=os.environ | {"JUSTRIGHT_STATE": state},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        return json.loads(done.stdout), time.perf_counter() - began


def worth(trainer: TaskTrainer, lr: float, params: dict[str, Any]) -> float:
    """The mean lowest loss of full trainings; what diverges counts as untrained."""
    curves = [train_together(trainer, [(lr, seed)], params)[0] for seed in _OTHERS]
    laps = trainer.steps // (trainer.horizon.lap or trainer.steps)
    ended = [None not in c and len(c) == laps + 1 for c in curves]
    assert trainer.initial_loss is not None
    return statistics.fmean(
        min(v for v in curve if v is not None) if whole else trainer.initial_loss
        for curve, whole in zip(curves, ended, strict=True)
    )


def compare(example: str, seeds: int, trials: int) -> list[Row]:
    """All tuners on one example."""
    target = EXAMPLES[example]
    trainer = open_trainer(target)
    trainer.measure_initial_loss(_OTHERS[0])
    rows = []
    for seed in range(seeds):
        for tuner, options in TUNERS.items():
            answer, seconds = tune(target, seed, (*options, "--trials", str(trials)))
            lr, params, full = (answer[k] for k in ("best_lr", "params", "full_trainings"))
            loss = worth(trainer, lr, params)
            rows.append(Row(example, tuner, seed, lr, params, full, seconds, loss))
        sys.stderr.write(f"{example}: seed {seed}\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--example", action="append", choices=list(EXAMPLES))
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    parser.add_argument("--trials", type=int, default=40, metavar="N")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    rows: list[Row] = []
    for example in arguments.example or EXAMPLES:
        rows += compare(example, arguments.seeds, arguments.trials)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(f"{'':30}{'full trainings':>16}{'loss':>9}{'worst':>9}{'seconds':>9}")
    for example, tuner in dict.fromkeys((row.example, row.tuner) for row in rows):
        mine = [r for r in rows if (r.example, r.tuner) == (example, tuner)]
        print(
            f"{example:12}{tuner:18}{statistics.fmean(r.full_trainings for r in mine):16.2f}"
            f"{statistics.fmean(r.loss for r in mine):9.4f}{max(r.loss for r in mine):9.4f}"
            f"{statistics.fmean(r.seconds for r in mine):9.1f}"
        )


if __name__ == "__main__":
    main()
