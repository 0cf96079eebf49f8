"""The name by which the first training was read is told to the next, and shown."""

from __future__ import annotations

from pathlib import Path

from justright.messages import Outcome, OutcomeKind
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
