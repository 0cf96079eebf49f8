"""A training goes on in a process that was started for it, to the same losses bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.commands import ROOT
from tests.unit.worker.checkpoints.test_checkpoints import (
    CPU,
    EPOCHS,
    assert_equal,
    checkpoints,
    example,
    go_on,
    timeless,
    with_stops,
    work,
)
from worker.training.trainer import TaskTrainer

PROCESS = """
import json, sys
from pathlib import Path
from tests.unit.worker.checkpoints.test_checkpoints import (
    CPU, EPOCHS, checkpoints, example, go_on, work,
)
from worker.training.trainer import TaskTrainer

name, folder = sys.argv[1:]
trainer = TaskTrainer(example(name), CPU, EPOCHS)
trial = trainer.start(work())
kept = checkpoints(Path(folder))
trial.restore(next(kept.states()))
losses, ended = go_on(trainer, trial, set())
kept.save(trial.state(), trial.epoch, trial.batch)
print(json.dumps(losses))
"""


def test_in_a_new_process(tmp_path: Path) -> None:
    name = "digits.py:DigitsCNN"  # with dropout, and BatchNorm's running means
    task, kept = example(name), checkpoints(tmp_path / "kept")
    whole, trained, _ = with_stops(lambda: TaskTrainer(task, CPU, EPOCHS), tmp_path, set())
    trainer = TaskTrainer(task, CPU, EPOCHS)
    trial = trainer.start(work())
    first, ended = go_on(trainer, trial, {(1, 8)})
    assert not ended
    kept.save(trial.state(), trial.epoch, trial.batch)
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, name, str(tmp_path / "kept")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert first + [tuple(pair) for pair in json.loads(done.stdout)] == whole
    assert_equal(timeless(next(kept.states())), timeless(trained.state()))
