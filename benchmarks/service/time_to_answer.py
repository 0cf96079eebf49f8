"""From the command to the answer: justright, and the script that people write without it.

    python -m benchmarks.service.time_to_answer [--json] [--repeats N] [--grid N]

Both search the learning rate of examples/digits.py:Digits with 30 trials, or, with ``--grid N``,
train N rates for all 30 epochs each; the clock runs from the
start of the process to its end. They take turns, so that a machine that is slow for a while is
slow for all. The script comes as people write it, with a DataLoader and torch's own choice of
threads, and with what makes it quicker for so small a model: batches taken by indexing, one
thread. So it can be seen how much of the difference is due to each.
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
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = [sys.executable, "benchmarks/scripts/optuna_digits.py"]
NAME = "time-to-answer"
OURS = [
    sys.executable, "-m", "justright", "tune", "examples/digits.py:Digits",
    "--trials", "30", "--seed", "0", "--name", NAME, "--json",
]  # fmt: skip
# Variants of the script: their options, and what they are called.
SCRIPTS: dict[str, tuple[tuple[str, ...], str]] = {
    "optuna_script": ((), "Optuna script"),
    "optuna_script_index_batches": (("--index-batches",), "  indexed batches"),
    "optuna_script_one_thread": (("--threads", "1"), "  one thread"),
    "optuna_script_index_batches_one_thread": (
        ("--index-batches", "--threads", "1"),
        "  indexed batches, one thread",
    ),
}


@dataclass(frozen=True)
class Run:
    """One process from start to end."""

    seconds: float
    epochs: int
    loss: float
    best_lr: float
    phases: dict[str, float]  #: Seconds of each part, where that can be seen from outside.


def run_justright(grid: int) -> Run:
    """``justright tune`` in a state folder of its own."""
    command = OURS
    if grid:
        command = [*OURS, "--trials", str(grid), "--sampler", "grid", "--pruner", "none"]
    with tempfile.TemporaryDirectory(prefix="justright-bench-") as state:
        began = time.time()
        answer = _answer_of(command, {"JUSTRIGHT_STATE": state})
        ended = time.time()
        folder = Path(state) / "studies" / NAME
        first, last = _trials_span(folder / "journal.log")
        serving = _first_time(folder / "worker-0.log", "serves pool")
    phases = {
        "start": serving - began,
        "look": first - serving,
        "study": last - first,
        "end": ended - last,
    }
    return _run(answer, ended - began, phases)


def run_script(*options: str) -> Run:
    """The script, once."""
    began = time.time()
    answer = _answer_of([*SCRIPT, *options], {})
    return _run(answer, time.time() - began, {})


def _run(answer: dict[str, Any], seconds: float, phases: dict[str, float]) -> Run:
    return Run(seconds, answer["epochs"], answer["loss"], answer["best_lr"], phases)


def _answer_of(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _first_time(log: Path, text: str) -> float:
    """When a line with this text was logged."""
    line = next(line for line in log.read_text().splitlines() if text in line)
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()


def _trials_span(journal: Path) -> tuple[float, float]:
    """When the first trial was asked and the last one told, by the study's own record."""
    storage = JournalStorage(JournalFileBackend(str(journal)))
    trials = optuna.load_study(study_name=NAME, storage=storage).trials
    begun = [trial.datetime_start for trial in trials if trial.datetime_start is not None]
    ended = [trial.datetime_complete for trial in trials if trial.datetime_complete is not None]
    return min(begun).timestamp(), max(ended).timestamp()


def measure(repeats: int, grid: int = 0) -> dict[str, list[Run]]:
    """All ways, in turn."""
    runs: dict[str, list[Run]] = {"justright": [], **{name: [] for name in SCRIPTS}}
    for number in range(repeats):
        runs["justright"].append(run_justright(grid))
        for name, (options, _) in SCRIPTS.items():
            runs[name].append(run_script(*options, "--grid", str(grid)))
        took = ", ".join(f"{of[-1].seconds:.1f} s" for of in runs.values())
        sys.stderr.write(f"run {number + 1} of {repeats}: {took}\n")
    return runs


def summary(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Medians, and how many times longer the scripts take."""
    found: dict[str, Any] = {}
    for name, of in runs.items():
        found[name] = {
            field: statistics.median(getattr(run, field) for run in of)
            for field in ("seconds", "epochs", "loss", "best_lr")
        }
        found[name]["seconds"] = round(found[name]["seconds"], 2)
    found["justright"]["phases"] = {
        phase: round(statistics.median(run.phases[phase] for run in runs["justright"]), 2)
        for phase in runs["justright"][0].phases
    }
    for name in SCRIPTS:
        suffix = name.removeprefix("optuna_script")
        ours, theirs = found["justright"]["seconds"], found[name]["seconds"]
        found[f"ratio{suffix}"] = round(theirs / ours, 2)
    return found


def show(found: dict[str, Any], repeats: int, grid: int) -> None:
    """The summary as a table for people."""
    what = f"{grid} rates for 30 epochs each" if grid else "30 trials"
    print(f"learning rate of examples/digits.py:Digits, {what} (medians of {repeats})")
    print(f"  {'':<34} {'seconds':>8} {'epochs':>7} {'loss':>8} {'best lr':>9} {'ratio':>6}")
    rows = {"justright": "justright tune"} | {name: label for name, (_, label) in SCRIPTS.items()}
    for name, label in rows.items():
        row = found[name]
        ratio = row["seconds"] / found["justright"]["seconds"]
        print(
            f"  {label:<34} {row['seconds']:>8.1f} {row['epochs']:>7.0f} {row['loss']:>8.4f} "
            f"{row['best_lr']:>9.3g} {ratio:>6.2f}"
        )
    phases = found["justright"]["phases"]
    print(
        f"  justright: {phases['start']:.1f} s to start, {phases['look']:.1f} s for a look at the "
        f"task, {phases['study']:.1f} s of trials, {phases['end']:.1f} s to end"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--grid", type=int, default=0, metavar="N")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats: found {arguments.repeats}, expected a positive whole number")
    if arguments.grid and arguments.grid < 2:
        parser.error(f"--grid: found {arguments.grid}, expected at least 2 rates, or 0")
    found = summary(measure(arguments.repeats, arguments.grid))
    if arguments.json:
        print(json.dumps(found))
    else:
        show(found, arguments.repeats, arguments.grid)


if __name__ == "__main__":
    main()
