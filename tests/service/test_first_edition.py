"""Studies that the first edition made open, resume and answer: their folders are kept in data/.

``complete`` ended by its own rule. ``paused`` was ended by a signal: one trial stood in the middle
of an epoch, nine waited for a promotion, all with checkpoints. Its task sleeps in each batch.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from justright.messages import Snapshot, TrialWork, decode_as
from justright.spec import TaskRef
from justright.task import Task
from tests.helpers.commands import justright
from worker.checkpoints.format import unpack
from worker.training.trainer import TaskTrainer, count_steps
from worker.user_code.loading import load

DATA = Path(__file__).parent / "data" / "first_edition.tar.gz"
TASKS = "@TASKS@"  # stands in the data for the folder of the task


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder as the first edition left it."""
    folder = tmp_path / "state"
    with tarfile.open(DATA) as archive:
        archive.extractall(folder, filter="data")
    for path in folder.rglob("*"):
        if path.suffix in (".log", ".json"):
            path.write_text(path.read_text().replace(TASKS, str(folder)))
    monkeypatch.setenv("JUSTRIGHT_STATE", str(folder))
    return folder


def kept(state: Path, name: str) -> Snapshot:
    return decode_as(Snapshot, (state / "studies" / name / "snapshot.json").read_text())


def trials(state: Path, name: str) -> list[optuna.trial.FrozenTrial]:
    """As stock Optuna reads them."""
    storage = JournalStorage(JournalFileBackend(str(state / "studies" / name / "journal.log")))
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def test_both_are_listed(state: Path) -> None:
    done = justright("status", "--json")
    assert done.returncode == 0, done.stderr
    shown = {one["study"]: one["state"] for one in json.loads(done.stdout)}
    assert shown == {"complete": "complete", "paused": "interrupted"}


def test_the_answer_is_the_one_that_was_given(state: Path) -> None:
    done = justright("best", "complete", "--json")
    assert done.returncode == 0, done.stderr
    answer = kept(state, "complete").answer
    assert answer is not None
    assert json.loads(done.stdout) == json.loads(answer.model_dump_json())


def test_an_ended_study_opens_and_answers_the_same_again(state: Path) -> None:
    before = trials(state, "complete")
    done = justright("tune", f"{state}/blob.py:Blob", "--seed", "0", "--name", "complete", "--json")
    assert done.returncode == 0, done.stderr
    answer = kept(state, "complete").answer
    assert answer is not None
    assert json.loads(done.stdout) == json.loads(answer.model_dump_json())
    assert trials(state, "complete") == before


def test_one_that_was_interrupted_goes_on_from_its_checkpoints(state: Path) -> None:
    before = {trial.number: trial for trial in trials(state, "paused")}
    saved = checkpoints(state)
    done = justright("resume", "paused", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["state"] == "complete"
    assert answer["reason"] == "converged"
    after = trials(state, "paused")
    assert all(trial.state.is_finished() for trial in after)
    for trial in after:
        own = before.get(trial.number)
        if own is not None:
            assert trial.params == own.params
            assert trial.intermediate_values.items() >= own.intermediate_values.items()
    going_on = [n for n, t in before.items() if len(after[n].intermediate_values) > len(
        t.intermediate_values) > 0]  # fmt: skip
    assert going_on, "some went on"
    # Not one epoch was trained twice: each went on from what the first edition had saved.
    assert answer["epochs"] == sum(len(trial.intermediate_values) for trial in after)
    for number in going_on:
        found = {
            step: loss
            for step, loss in after[number].intermediate_values.items()
            if step > len(before[number].intermediate_values)
        }
        assert found == pytest.approx(continued(state, after[number], saved[number]))


def checkpoints(state: Path) -> dict[int, bytes]:
    """The latest checkpoint of each trial of the study that was interrupted."""
    files = sorted((state / "studies" / "paused").rglob("*.pt"))
    return {int(path.parent.name): path.read_bytes() for path in files}


def continued(
    state: Path, trial: optuna.trial.FrozenTrial, checkpoint: bytes
) -> dict[int, float | None]:
    """The losses of the same training from its checkpoint on, by itself and in one go.

    What came before was computed on another machine, whose rounding this one need not share.
    """
    task = load(TaskRef(target=f"{state}/blob.py:Blob"))
    assert isinstance(task, Task)
    trainer = TaskTrainer(task, torch.device("cpu"))
    work = TrialWork(number=trial.number, lr=trial.params["lr"], seed=0, attempt=1)
    training = trainer.start(work)
    training.restore(unpack(checkpoint))
    count_steps(trainer, training)
    found: dict[int, float | None] = {}
    while training.epoch < len(trial.intermediate_values):
        result = trainer.train_epoch(training)
        found[training.epoch] = result.loss
    return found
