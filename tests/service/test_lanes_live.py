"""The default search on the examples, in lanes: every loss is that of its rate, trained alone."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from justright.messages import Snapshot, TrialWork, decode_as
from justright.spec import TaskRef
from justright.task import Task
from orchestrator.storage import ledger
from tests.helpers.commands import EXAMPLES, justright
from worker.training.trainer import TaskTrainer
from worker.user_code.loading import load

ROUNDED = 1e-4  # relative: lanes add up in another order, in single precision
UNSTABLE = (
    1e-3  # ... of a loss in a training that has jumped above its start: what is rounded grows
)


@pytest.mark.parametrize("example", ["digits.py:Digits", "diabetes.py:Diabetes"])
def test_every_loss_is_that_of_its_rate(example: str, tmp_path: Path) -> None:
    task = f"{EXAMPLES}/{example}"
    done = justright("tune", task, "--seed", "0", "--name", "live", "--json")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "state" / "studies" / "live"
    shown = decode_as(Snapshot, (folder / "snapshot.json").read_text())
    assert shown.plan is not None
    assert shown.plan.stack > 1, shown.plan.text
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    trials = optuna.load_study(study_name="live", storage=storage).get_trials()
    promoted = [trial for trial in trials if len(trial.intermediate_values) > 2]
    assert len(promoted) > 3, "some paused, and went on in other jobs"
    loaded = load(TaskRef(target=task))
    assert isinstance(loaded, Task)
    trainer = TaskTrainer(loaded, torch.device("cpu"))
    trainer.measure_initial_loss(0)
    assert trainer.initial_loss is not None
    for trial in trials:
        work = TrialWork(number=trial.number, lr=trial.params["lr"], seed=0, attempt=1)
        training = trainer.start(work)
        jumped = False
        for step, loss in sorted(trial.intermediate_values.items()):
            results = trainer.train_lanes(trainer.lanes([training]), mark=step)
            assert results is not None
            (result,) = results
            assert result.step == step
            jumped = jumped or loss > trainer.initial_loss
            near = UNSTABLE if jumped else ROUNDED
            assert result.loss == pytest.approx(loss, rel=near), trial.number
        if ledger.DIVERGED in trial.user_attrs:
            last = trainer.train_epoch(training) if not result.diverged else result
            assert last is not None
            assert last.diverged, trial.number
        else:
            assert not result.diverged, trial.number
