"""A trial costs the same in a study of thousands: counted by what is touched, not by the clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from justright.lifecycle import StudyState
from orchestrator.studies import trials as trials_module
from orchestrator.studies.trial_record import TrialRecord
from tests.helpers.twin import House, TwinWorker

ONE_STEP = {"sampler": "random", "pruner": "none"}


def test_a_turn_touches_what_is_under_way_and_not_all_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The looks at a trial's state, by turn, late in a study and early in it."""
    house = House(tmp_path, lanes=4)
    house.submit(trials=120, **ONE_STEP)
    looks = [0]
    state: Any = vars(TrialRecord)["state"]

    class Counting:
        def __get__(self, record: Any, kind: Any = None) -> Any:
            looks[0] += 1
            return state.__get__(record, kind)

        def __set__(self, record: Any, value: Any) -> None:
            state.__set__(record, value)

    by_turn: list[int] = []
    monkeypatch.setattr("orchestrator.reconcile._PUBLISH_EVERY", 1e9)  # answers look at all
    monkeypatch.setattr(TrialRecord, "state", Counting())
    for _ in range(200):
        looks[0] = 0
        house.turn()
        by_turn.append(looks[0])
    early, late = max(by_turn[20:60]), max(by_turn[140:180])
    assert late <= 1.5 * early, (early, late)


def test_of_very_many_trials_clients_are_shown_those_that_tell_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials_module, "SHOWN", 10)
    house = House(tmp_path, lanes=4)
    house.submit(trials=40, **ONE_STEP)
    seen: set[int] = set()
    for _ in range(400):
        house.turn()
        snapshot = house.broker.snapshot("s")
        if snapshot is None:
            continue
        seen |= {t.number for t in snapshot.trials if t.state in ("complete", "pruned")}
        if snapshot.state == StudyState.COMPLETE:
            break
    assert snapshot is not None
    assert snapshot.answer is not None
    assert len(snapshot.trials) < 20
    assert snapshot.ended == snapshot.total == 40
    assert seen == set(range(40)), "the end of a trial was never shown"
    leader = min(snapshot.trials, key=lambda trial: trial.best or 1e9)
    assert leader.best == snapshot.answer.loss


def test_the_leader_is_known_whatever_becomes_of_it(tmp_path: Path) -> None:
    """It may diverge, and an objective may return more than it has reported."""
    house = House(tmp_path)
    house.workers[0] = TwinWorker(house.broker, "w0", 1, lambda lr, step: falling(lr, step))
    house.workers[0].come()
    house.submit(trials=12, **ONE_STEP)
    house.turn()
    run = house.reconciler._runs["s"]
    house.run()
    lowest = min((r for r in run.trials if not r.diverged and r.best is not None), key=by_best)
    assert run.trials._lowest is lowest


def by_best(record: TrialRecord) -> tuple[float, int]:
    return record.best or 0.0, record.number


def falling(lr: float, step: int) -> float | None:
    """Very low, and then no number, at each hot rate."""
    if lr > 1e-2:
        return -100.0 if step < 3 else None
    return 1.0 / step


def test_a_study_that_has_ended_leaves_the_memory_and_can_be_had_again(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(trials=4)
    ended = house.run()
    house.turn()
    house.turn()
    assert len(house.reconciler._runs) == 0, "it is still in memory"
    house.submit("more", trials=6)
    again = house.run(submission="more")
    assert len(again.trials) > 0
    assert {t.number for t in ended.trials} <= {t.number for t in again.trials}
    house.turn()
    house.submit("like", name="other", like="s", trials=4)
    house.turn()
    assert house.ledger.studies()["other"].user_attrs["hint"] == again.answer.best_lr  # type: ignore[union-attr]


def test_a_restart_takes_up_what_is_at_work_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path)
    for name in ("a", "b", "c"):
        house.submit(name, name=name, trials=2)
    for _ in range(200):
        house.turn()
    house.submit("s", trials=2)
    house.turn()
    house.restart()
    assert list(house.reconciler._runs) == ["s"]
    assert house.reconciler._runs.names == ["a", "b", "c", "s"]
    house.broker.lose_everything()
    house.workers[0].come()
    for _ in range(3):
        house.turn()
    assert house.broker.studies() == ["a", "b", "c", "s"], "what had ended is not shown again"
