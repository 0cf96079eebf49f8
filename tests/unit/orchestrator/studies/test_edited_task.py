"""A task that changes under its study stops it, with a choice; nothing is mixed without a word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from justright.failures import Failure, FailureKind
from justright.lifecycle import StudyState, TrialState
from justright.messages import Inspection, Outcome, OutcomeKind, Pause, Resume, TidyJob, TrainJob
from tests.helpers.twin import HORIZON, House, TwinWorker


@dataclass
class EditedWorker(TwinWorker):
    """Has a version of the task, and compares it as a real one does."""

    version: str = "1"

    def _take(self) -> None:
        job = self.broker.queues.get("default", [None])[:1]
        if job and isinstance(job[0], TrainJob) and job[0].sources != {"t.py": self.version}:
            self.broker.take("default", self.name, 10.0)
            failure = Failure(kind=FailureKind.CHANGED, message="t.py changed since: its losses")
            for work in job[0].trials:
                outcome = Outcome(
                    study=job[0].study, trial=work.number, attempt=work.attempt,
                    kind=OutcomeKind.FAILED, failure=failure, worker=self.name,
                )  # fmt: skip
                self.broker.exchange([outcome])
            return
        if job and job[0] is not None and not isinstance(job[0], (TrainJob, TidyJob)):
            self.broker.take("default", self.name, 10.0)
            found = Inspection(
                study=job[0].study, job=job[0].id, epochs=HORIZON, initial_loss=2.0,
                sources={"t.py": self.version},
            )  # fmt: skip
            self.broker.exchange([found])
            return
        super()._take()


def begun(folder: Path, lanes: int) -> tuple[House, EditedWorker]:
    house = House(folder, workers=0)
    worker = EditedWorker(house.broker, "w", lanes)
    house.workers.append(worker)
    worker.come()
    house.submit()
    for _ in range(8):
        house.turn()
    return house, worker


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("lanes", [1, 4])
def test_it_rests_until_its_user_has_chosen(tmp_path: Path, lanes: int, restart: bool) -> None:
    house, worker = begun(tmp_path, lanes)
    worker.version = "2"
    for _ in range(20):
        house.turn()
        if restart:
            house.restart()
    stopped = house.broker.snapshot("s")
    assert stopped is not None
    assert stopped.state == StudyState.PAUSED
    assert stopped.failure is not None
    assert stopped.failure.kind is FailureKind.CHANGED
    assert "justright resume s" in stopped.failure.message
    assert "--name" in stopped.failure.message
    assert all(trial.state != TrialState.FAILED for trial in stopped.trials)
    steps = sum(trial.step for trial in stopped.trials)
    for _ in range(10):
        house.turn()
    still = house.broker.snapshot("s")
    assert still is not None
    assert sum(trial.step for trial in still.trials) == steps, "it went on by itself"

    house.broker.send(Resume(id="r", study="s"))
    ended = house.run()
    assert ended.state == StudyState.COMPLETE, ended.failure
    assert ended.answer is not None
    assert any("different code are mixed: t.py" in text for text in ended.answer.warnings)


def test_an_edit_while_it_was_paused_is_noticed_as_well(tmp_path: Path) -> None:
    house, worker = begun(tmp_path, 1)
    house.broker.send(Pause(id="p", study="s"))
    for _ in range(5):
        house.turn()
    worker.version = "2"
    house.broker.send(Resume(id="r", study="s"))
    for _ in range(10):
        house.turn()
    found = house.broker.snapshot("s")
    assert found is not None
    assert found.failure is not None
    assert found.failure.kind is FailureKind.CHANGED
    worker.version = "1"  # the code is put back
    house.broker.send(Resume(id="r2", study="s"))
    assert house.run().state == StudyState.COMPLETE
