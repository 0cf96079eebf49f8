"""An edit of the user's code is noticed, wherever and whenever the code was imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from justright.brokers.memory import MemoryBroker
from justright.failures import FailureKind
from justright.messages import (
    Inspection,
    InspectJob,
    Job,
    Outcome,
    OutcomeKind,
    TrainJob,
    TrialWork,
)
from justright.settings import Settings
from justright.spec import TaskRef
from worker.jobs.channel import Channel
from worker.jobs.runner import JobRunner
from worker.user_code.loading import load
from worker.user_code.permission import Permission
from worker.user_code.sources import Sources

TASK = """
import torch

import justright
import edits_helper


class Tiny(justright.Task):
    epochs = 1

    def model(self):
        import edits_layers

        return torch.nn.Linear(edits_helper.WIDTH, 2)

    def train_data(self):
        return torch.ones(8, edits_helper.WIDTH), torch.zeros(8, dtype=torch.long)
"""


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A task file that imports one module at its top and one in ``model()``."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "edits_helper.py").write_text("WIDTH = 3\n")
    (tmp_path / "edits_layers.py").write_text("")
    path = tmp_path / "edits_task.py"
    path.write_text(TASK)
    yield path
    for name in ("edits_task", "edits_helper", "edits_layers"):
        sys.modules.pop(name, None)


def edit(path: Path, text: str) -> None:
    stamp = path.stat().st_mtime
    path.write_text(text)
    os.utime(path, (stamp + 5, stamp + 5))  # the file system's clock may be coarser than a test


def job(task: Path) -> Job:
    work = TrialWork(number=0, lr=0.1, seed=0, attempt=1)
    return TrainJob(id="j", study="s", task=TaskRef(target=f"{task}:Tiny"), trials=(work,))


def look(task: Path) -> Job:
    return InspectJob(id="j", study="s", task=TaskRef(target=f"{task}:Tiny"))


def runner_and_broker(task: Path) -> tuple[JobRunner, MemoryBroker]:
    broker = MemoryBroker()
    return JobRunner(Channel(broker), Permission((task.parent,)), Settings()), broker


def test_only_an_edit_is_an_edit(task: Path) -> None:
    watch = Sources()
    load(TaskRef(target=f"{task}:Tiny"))
    watch.remember()
    assert not watch.changed()
    (task.parent / "edits_notes.py").write_text("")
    watch.remember()
    assert not watch.changed()


@pytest.mark.parametrize("name", ["edits_task.py", "edits_helper.py"])
def test_an_edit_of_the_file_or_of_its_neighbour(task: Path, name: str) -> None:
    watch = Sources()
    load(TaskRef(target=f"{task}:Tiny"))
    watch.remember()
    edit(task.parent / name, "WIDTH = 4\n")
    assert watch.changed()
    watch.remember()
    assert watch.changed(), "what runs is still the old code"


def test_a_file_that_has_gone(task: Path) -> None:
    watch = Sources()
    load(TaskRef(target=f"{task}:Tiny"))
    watch.remember()
    (task.parent / "edits_helper.py").unlink()
    assert watch.changed()


def test_modules_that_were_there_before_are_not_watched(task: Path) -> None:
    load(TaskRef(target=f"{task}:Tiny"))
    watch = Sources()
    watch.remember()
    edit(task, "")
    assert not watch.changed()


# -- in a worker -------------------------------------------------------------------------------


def test_what_a_model_imports_is_watched_too(task: Path) -> None:
    runner, broker = runner_and_broker(task)
    runner.run(job(task))
    ended = broker.receive(0)[-1]
    assert isinstance(ended, Outcome)
    assert ended.kind is OutcomeKind.COMPLETE
    assert not runner.outdated(job(task))
    edit(task.parent / "edits_layers.py", "# another line\n")
    assert runner.outdated(job(task))


def test_the_edit_that_mends_a_neighbour_is_noticed(task: Path) -> None:
    """The task could not be loaded; what it imported is in memory all the same."""
    helper = task.parent / "edits_helper.py"
    helper.write_text("WIDHT = 3\n")
    task.write_text(TASK + "\n    width = edits_helper.WIDTH\n")
    runner, broker = runner_and_broker(task)
    runner.run(look(task))
    (told,) = broker.receive(0)
    assert isinstance(told, Inspection)
    assert told.failure is not None
    assert "WIDTH" in told.failure.message
    assert not runner.outdated(job(task))
    edit(helper, "WIDTH = 3\n")
    assert runner.outdated(job(task))


def test_somebody_elses_task_gets_a_new_process(task: Path, tmp_path: Path) -> None:
    """Two folders may have modules of the same names; one process can hold only one of them."""
    runner, _ = runner_and_broker(task)
    runner.run(job(task))
    other = tmp_path / "other" / "task.py"
    assert not runner.outdated(job(task))
    assert runner.outdated(job(other))
    command = job(task).model_copy(update={"task": TaskRef(command=("train", "{lr}"))})
    assert not runner.outdated(command)


BROKEN = """
import torch

import justright


class Broken(justright.Task):
    epochs = 1

    def model(self):
        raise RuntimeError("CUDA error: device-side assert triggered")

    def train_data(self):
        return torch.ones(4, 4), torch.ones(4, dtype=torch.long)
"""


def test_an_error_of_the_gpu_asks_for_a_new_process(task: Path) -> None:
    task.write_text(BROKEN)
    runner, broker = runner_and_broker(task)
    asked = look(task)
    broken = TaskRef(target=f"{task}:Broken")
    runner.run(asked.model_copy(update={"task": broken}))
    [told] = broker.receive(0)
    assert isinstance(told, Inspection)
    assert told.failure is not None
    assert told.failure.kind == FailureKind.USER
    assert runner.outdated(asked)
