"""What an answer says of its trainings: the name that was read, and what has failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from justright.failures import Failure, FailureKind
from justright.messages import Outcome, OutcomeKind, TrainJob, TrialWork
from orchestrator.answers.answer import as_note
from tests.helpers.twin import House, TwinWorker


class Prints(TwinWorker):
    """Trains programs that print their loss under a name."""

    told: set[str]

    def step(self) -> None:
        super().step()
        if self.job is not None:
            self.told = {*getattr(self, "told", ()), self.job.known_metric}

    def _end(self, outcome: Outcome) -> None:
        complete = outcome.kind is OutcomeKind.COMPLETE
        super()._end(outcome.model_copy(update={"metric": "val loss" if complete else "loss"}))


def test_all_trainings_are_read_by_the_name_of_the_first(tmp_path: Path) -> None:
    house = House(tmp_path)
    worker = Prints(house.broker, "w0", inspection={"kind": "command", "initial_loss": None})
    house.workers = [worker]
    house.submit(trials=4)
    house.reconciler.turn(wait=0.0)
    for _ in range(40):
        house.turn()
        if "val loss" in getattr(worker, "told", ()):
            break
    house.restart()
    answer = house.run().answer
    assert worker.told == {"", "val loss"}
    assert answer is not None
    assert answer.metric == "val loss"
    assert "read as the loss: val loss" in as_note(answer, "train.py")
    assert "read as" not in as_note(answer.model_copy(update={"metric": ""}), "train.py")


class FailsHot(TwinWorker):
    """Trains a task that raises at hot rates."""

    def _one_step(self, job: TrainJob, work: TrialWork) -> None:
        if work.lr < 0.05:
            super()._one_step(job, work)
            return
        failure = Failure(kind=FailureKind.USER, message="KeyError: 'x'\nin its third line")
        of: dict[str, Any] = {"study": job.study, "trial": work.number, "attempt": work.attempt}
        self._end(Outcome(kind=OutcomeKind.FAILED, failure=failure, **of))


def test_an_answer_says_what_trials_have_failed_of(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.workers = [FailsHot(house.broker, "w0", inspection={"kind": "command"})]
    house.submit(trials=8, lr=(1e-4, 1.0), sampler="grid")
    answer = house.run().answer
    assert answer is not None
    assert answer.best_lr is not None
    failed = answer.trials["failed"]
    assert failed > 1
    assert answer.warnings == (f"{failed} of 8 trials failed, the last one: KeyError: 'x'",)
