"""One study hurts nobody but itself: each kind of nuisance beside a healthy study, on the twin."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from justright.lifecycle import STUDY_FINISHED, StudyState
from justright.messages import Snapshot, Submit, TrialWork
from orchestrator.search.choosing import choose_policy
from orchestrator.search.policy import Policy, SearchContext, Suggestion
from orchestrator.storage import notes
from orchestrator.studies.current_answer import CurrentAnswer
from orchestrator.studies.study_search import StudySearch
from tests.helpers.twin import House, TwinWorker, told

KINDS = ["task", "objective"]
ODD = "odd"


class TwoLosses(TwinWorker):
    """The odd study's losses are the healthy one's, stretched and moved."""

    scale, shift = 1.0, 0.0

    def loss_of(self, work: TrialWork, step: int) -> float | None:
        loss = super().loss_of(work, step)
        assert self.job is not None
        return loss if loss is None or self.job.study != ODD else loss * self.scale + self.shift


def house_with(folder: Path, odd: dict[str, Any], **options: Any) -> House:
    """A healthy study ``s`` and an odd one, both submitted."""
    house = House(folder, **options)
    house.workers = [TwoLosses(house.broker, f"w{i}", 4) for i in range(2)]
    for worker in house.workers:
        worker.come()
    house.submit("s1", name="s", trials=8)
    house.submit("s2", **{"name": ODD, "trials": 8, **odd})
    return house


def run_both(house: House, restart_every: int = 7) -> tuple[Snapshot, Snapshot]:
    """Until both have ended, with a new orchestrator now and then."""
    for number in range(1, 1500):
        house.turn()
        if number % restart_every == 0:
            house.restart()
        found = [house.broker.snapshot(name) for name in ("s", ODD)]
        healthy, odd = found
        if healthy and odd and all(one and one.state in STUDY_FINISHED for one in found):
            house.restart()  # what has ended must not end the next orchestrator
            house.turn()
            return healthy, odd
    raise AssertionError(f"not ended: {found}")


def is_well(snapshot: Snapshot) -> None:
    assert snapshot.state == StudyState.COMPLETE, snapshot.failure
    assert snapshot.answer is not None
    assert snapshot.answer.best_lr is not None


@pytest.mark.parametrize("scale", [1e200, 1e306, 1e-200, 1e-307, -1e300, 5e-324])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_at_the_ends_of_a_float(tmp_path: Path, kind: str, scale: float) -> None:
    house = house_with(tmp_path, {"replicates": 2})
    for worker in house.workers:
        assert isinstance(worker, TwoLosses)
        worker.scale = scale
        worker.inspection = {"kind": kind}
        if kind == "objective":
            worker.inspection |= {"epochs": None, "initial_loss": None}
    healthy, odd = run_both(house)
    is_well(healthy)
    is_well(odd)
    assert odd.answer is not None
    assert odd.answer.loss is not None
    assert math.isfinite(odd.answer.loss)


class Broken(Policy):
    """As the policy that it stands for, but one of its methods raises."""

    def __init__(self, context: SearchContext, what: str) -> None:
        self._inner, self._what = choose_policy(context), what
        self._may("made")

    def _may(self, what: str) -> None:
        if what == self._what:
            raise ZeroDivisionError(f"in {what}")

    @property
    def total(self) -> int:
        self._may("total")
        return self._inner.total

    def suggest(self, lanes: int | None, workers: int) -> Any:
        self._may("suggest")
        return self._inner.suggest(lanes, workers)

    def stop_reason(self) -> str | None:
        self._may("stop_reason")
        return self._inner.stop_reason()

    def should_stop(self, trial: Any) -> str | None:
        self._may("should_stop")
        return self._inner.should_stop(trial)

    def restrict_range(self, lr_range: tuple[float, float]) -> None:
        self._inner.restrict_range(lr_range)

    def recommend(self) -> Any:
        self._may("recommend")
        return self._inner.recommend()

    def estimate(self, lr: float, loss: float, params: Any) -> Any:
        self._may("estimate")
        return self._inner.estimate(lr, loss, params)


METHODS = ["made", "total", "suggest", "stop_reason", "should_stop", "recommend", "estimate"]


@pytest.mark.parametrize("what", METHODS)
def test_a_policy_that_raises(tmp_path: Path, what: str) -> None:
    def make(context: SearchContext) -> Policy:
        return Broken(context, what) if context.spec.name == ODD else choose_policy(context)

    house = house_with(tmp_path, {}, make_policy=make)
    healthy, odd = run_both(house)
    is_well(healthy)
    has_failed(house, odd, "ZeroDivisionError")


def has_failed(house: House, odd: Snapshot, words: str) -> None:
    """It has failed with the reason: as its clients see it, and in the ledger."""
    assert odd.state == StudyState.FAILED
    assert odd.failure is not None
    assert words in odd.failure.message
    study = house.ledger.studies()[ODD]
    assert study.user_attrs["state"] == "failed"
    assert words in study.user_attrs["failure"]["message"]
    assert all(trial.state.is_finished() for trial in study.trials)


@pytest.mark.parametrize("when", ["always", "at its end"])
def test_an_answer_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    make = CurrentAnswer.make

    def unsound(self: CurrentAnswer, *arguments: Any) -> Any:
        if self._record.name == ODD and (when == "always" or not self._record.active):
            raise OverflowError("(34, 'Numerical result out of range')")
        return make(self, *arguments)

    monkeypatch.setattr(CurrentAnswer, "make", unsound)
    house = house_with(tmp_path, {})
    healthy, odd = run_both(house)
    is_well(healthy)
    has_failed(house, odd, "OverflowError")


def test_a_snapshot_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = house_with(tmp_path, {})
    publish = house.broker.publish

    def unsound(snapshot: Snapshot, keep: float | None = None) -> None:
        if snapshot.study == ODD and snapshot.trials:
            raise ValueError("surrogates not allowed")
        publish(snapshot, keep)

    monkeypatch.setattr(house.broker, "publish", unsound)
    healthy, odd = run_both(house)
    is_well(healthy)
    has_failed(house, odd, "surrogates")


def test_a_note_that_cannot_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = notes.save_note

    def unsound(storage: Any, study_id: int, text: str) -> None:
        if storage.get_study_name_from_id(study_id) == ODD:
            raise RuntimeError("no note")
        save(storage, study_id, text)

    monkeypatch.setattr("orchestrator.studies.study_run.save_note", unsound)
    house = house_with(tmp_path, {})
    healthy, odd = run_both(house)
    is_well(healthy)
    has_failed(house, odd, "no note")


def test_a_study_that_cannot_be_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = house_with(tmp_path, {})
    for _ in range(4):
        house.turn()
    make = StudySearch.__init__

    def unsound(self: Any, study: Any, *arguments: Any) -> None:
        if study.study_name == ODD:
            raise IndexError("its record makes no sense")
        make(self, study, *arguments)

    monkeypatch.setattr(StudySearch, "__init__", unsound)
    house.restart()
    healthy, odd = run_both(house)
    is_well(healthy)
    assert odd.failure is not None
    assert "makes no sense" in odd.failure.message
    assert house.ledger.studies()[ODD].user_attrs["state"] == "failed"


# -- the end, whatever a policy does ---------------------------------------------------------------


class Endless(Broken):
    """Never says that it is over."""

    def __init__(self, context: SearchContext) -> None:
        super().__init__(context, "nothing")

    def stop_reason(self) -> str | None:
        return None


class Silent(Endless):
    """Has nothing to train."""

    def suggest(self, lanes: int | None, workers: int) -> Any:
        return Suggestion()


class Greedy(Endless):
    """Proposes further trials for ever."""

    def suggest(self, lanes: int | None, workers: int) -> Any:
        inner: Any = self._inner
        return Suggestion(start=tuple(inner._asking.ask(inner._space) for _ in range(3)))


@pytest.mark.parametrize("policy", [Endless, Silent, Greedy])
def test_a_study_ends_whatever_its_policy_does(tmp_path: Path, policy: type[Endless]) -> None:
    def make(context: SearchContext) -> Policy:
        return policy(context) if context.spec.name == ODD else choose_policy(context)

    house = house_with(tmp_path, {"sampler": "random", "pruner": "none"}, make_policy=make)
    healthy, odd = run_both(house)
    is_well(healthy)
    assert odd.state == StudyState.COMPLETE
    assert odd.answer is not None
    assert odd.answer.reason == "trials"
    trained = [t for t in house.ledger.studies()[ODD].trials if t.intermediate_values]
    assert len(trained) == (0 if policy is Silent else 8)


RANGES = [(0.1, 0.1000001), (0.1, 0.1 + 2e-17 * 4), (1e-300, 1e-299), (1e-12, 1e12), (1e-8, 1e8)]


@pytest.mark.parametrize("sampler", ["auto", "tpe", "gp", "random", "qmc", "grid"])
@pytest.mark.parametrize("lr", RANGES, ids=str)
def test_every_range_ends(tmp_path: Path, lr: tuple[float, float], sampler: str) -> None:
    house = House(tmp_path, lanes=4)
    house.submit(lr=lr, sampler=sampler, trials=5)
    snapshot = house.run(600)
    assert snapshot.state == StudyState.COMPLETE, snapshot.failure
    assert len(told(house)) <= 5


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median", "none"])
def test_every_range_ends_with_every_pruner(tmp_path: Path, pruner: str) -> None:
    house = House(tmp_path, lanes=4)
    house.submit(lr=(0.1, 0.1000001), pruner=pruner, trials=5)
    snapshot = house.run(600)
    assert snapshot.state == StudyState.COMPLETE, snapshot.failure


@pytest.mark.parametrize("restart", [False, True])
def test_the_time_is_over_while_the_task_is_inspected(tmp_path: Path, restart: bool) -> None:
    house = House(tmp_path)
    house.submit(timeout=20.0)
    for turn in range(30):
        house.turn(workers=False)  # a worker has the job, and says nothing
        for worker in house.workers:
            worker.beat()
        if restart and turn == 10:
            house.restart()
    snapshot = house.broker.snapshot("s")
    assert snapshot is not None
    assert (snapshot.state, snapshot.answer and snapshot.answer.reason) == (
        StudyState.COMPLETE, "timeout",
    )  # fmt: skip
    assert any("inspected" in text for text in snapshot.warnings)


def test_what_an_attempt_was_lost_of_is_not_said_of_a_trial_that_ended(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(trials=4)
    for _ in range(4):
        house.turn()
    lost, house.workers = house.workers, [TwinWorker(house.broker, "w9")]
    assert lost[0].job is not None
    house.clock.now += 60
    house.workers[0].come()
    snapshot = house.run()
    assert any(trial.attempt > 1 for trial in snapshot.trials), "no attempt was lost"
    assert all(trial.failure is None for trial in snapshot.trials)


def test_a_study_that_ended_counts_the_same_after_a_restart(tmp_path: Path) -> None:
    house = House(tmp_path, lanes=4)
    house.submit(trials=30)
    ended = house.run()
    house.broker.send(Submit(id="s2", spec=ended.spec))
    house.restart()
    house.turn()
    again = house.broker.snapshot("s")
    assert again is not None
    assert again.submission == "s2", "it was not shown again"
    assert ended.total == again.total == len(ended.trials) < 30
