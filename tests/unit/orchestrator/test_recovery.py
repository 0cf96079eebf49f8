"""Orchestrators that are killed, Redis and databases that go away: on the twin, in milliseconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from justright.brokers.memory import MemoryBroker
from justright.messages import Snapshot
from orchestrator.storage.journal import GroupCommitJournal
from orchestrator.storage.ledger import Ledger
from tests.helpers.twin import LEASE, House, check, told, told_any

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Killed(BaseException):
    """The orchestrator dies here."""


def run_on(house: House) -> tuple[Snapshot, int]:
    """Until the study has ended, with a new orchestrator after each kill; how many there were."""
    for kills in range(10):
        try:
            return house.run(), kills
        except Killed:
            house.restart()
    raise AssertionError("killed again and again")


@pytest.mark.parametrize("effect", ["receive", "dispatch", "decide", "publish", "acknowledge"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 5])
def test_killed_anywhere_and_started_again_it_goes_on(
    tmp_path: Path, effect: str, moment: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_killed(tmp_path, effect, moment, nth, monkeypatch)


def check_killed(
    folder: Path, effect: str, moment: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before or after the nth call of that method of the broker."""
    house = House(folder, workers=2)
    house.submit(pruner="median", trials=9)
    original: Callable[..., Any] = getattr(MemoryBroker, effect)
    calls = 0

    def deadly(self: MemoryBroker, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and moment == "before":
            raise Killed
        result = original(self, *arguments, **named)
        if calls == nth and moment == "after":
            raise Killed
        return result

    monkeypatch.setattr(MemoryBroker, effect, deadly)
    snapshot, kills = run_on(house)
    if effect != "decide":  # a run in which fewer than nth trials are pruned has no nth decision
        assert kills == 1
    check(house, snapshot, 9)
    pairs = Counter(pair for worker in house.workers for pair in worker.trained)
    assert max(pairs.values()) == 1  # no attempt was trained twice


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 8, 12, 20])
def test_killed_at_a_commit_nothing_is_told_twice(tmp_path: Path, nth: int) -> None:
    house = House(tmp_path, workers=2)
    commits = 0

    def mortal(ledger: Ledger) -> Ledger:
        def commit() -> None:
            nonlocal commits
            commits += 1
            if commits == nth:
                raise Killed
            ledger.commit()

        return replace(ledger, commit=commit)

    house.ledger = mortal(house.ledger)
    house.reconciler = house.make(house.broker, house.ledger)
    house.submit(trials=9, sampler="tpe")
    snapshot, _ = run_on(house)
    assert commits >= nth
    check(house, snapshot, 9)


def test_a_trial_that_was_asked_by_half_holds_nothing_up(tmp_path: Path) -> None:
    """A database commits each write: a kill may fall between a trial and its rate."""
    house = House(tmp_path)
    house.submit(trials=4, pruner="none")
    while not (told_any(house) and told(house)):
        house.turn()
    house.ledger.studies()["s"].ask()
    house.ledger.commit()
    house.restart()
    snapshot = house.run()
    assert snapshot.answer is not None
    assert snapshot.answer.trials["complete"] == 4
    assert all(trial.state.is_finished() for trial in told(house))


@pytest.mark.parametrize("nth", range(1, 40, 3))
def test_killed_between_any_two_writes_of_a_database(
    tmp_path: Path, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database keeps each write at once: here the journal does, and one write is the last."""
    house = House(tmp_path, workers=2)
    house.submit(trials=5, replicates=2, pruner="none")
    original: Callable[..., Any] = GroupCommitJournal.append_logs
    writes = 0

    def durable(self: GroupCommitJournal, logs: list[dict[str, Any]]) -> None:
        nonlocal writes
        writes += 1
        if writes == nth * 5:
            raise Killed
        original(self, logs)
        self.commit()

    monkeypatch.setattr(GroupCommitJournal, "append_logs", durable)
    snapshot, kills = run_on(house)
    assert kills == 1
    assert snapshot.answer is not None
    assert snapshot.answer.trials["complete"] == 8
    assert all(trial.state.is_finished() for trial in told(house))
    for trial in told(house):
        original_of = trial.user_attrs.get("replicate_of")
        if original_of is not None:
            assert trial.params == told(house)[original_of].params


def test_a_redis_that_was_away_costs_no_attempt(tmp_path: Path) -> None:
    """Leases have expired when it is back; hearts beat again a little later."""
    house = House(tmp_path)
    house.submit(trials=3, pruner="none")
    while not house.workers[0].steps:
        house.turn()
    house.clock.now += 3 * LEASE
    for _ in range(2):
        house.turn(workers=False)
    snapshot = house.run()
    check(house, snapshot, 3)
    assert snapshot.answer is not None
    assert snapshot.answer.attempts == 3


def test_the_timeout_counts_while_nobody_looks_at_a_trial(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(timeout=50.0, trials=1, pruner="none")
    while not house.workers[0].steps:
        house.turn()
    house.restart()
    for _ in range(60):
        house.workers[0].beat()
        house.turn(workers=False)
    known = house.broker.snapshot("s")
    assert known is not None
    assert known.answer is not None
    assert known.answer.reason == "timeout"
