"""Two orchestrators on one database: the one that took over last writes, the other cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.distributions import BaseDistribution, FloatDistribution

from justright.errors import StorageLost
from orchestrator.storage.fence import take_over
from orchestrator.storage.ledger import SPEC, STATE, Ledger, open_database, open_ledger

LR: dict[str, BaseDistribution] = {"lr": FloatDistribution(1e-5, 1.0, log=True)}


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/studies.db"
    return str(request.getfixturevalue("postgres_server").url)


def begin(ledger: Ledger) -> optuna.Study:
    """A study of ours with one trial that has ended and one that runs."""
    study = ledger.create("s", {STATE: "running", SPEC: {}})
    ended = study.ask(LR)
    ended.report(0.5, 1)
    study.tell(ended, 0.5)
    study.ask(LR).report(0.7, 1)
    return study


def seen(place: str) -> str:
    """All that the database holds, by a reader of its own; times and all."""
    engine = sqlalchemy.create_engine(place)
    tables = sqlalchemy.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        found = {
            table.name: sorted(map(repr, connection.execute(sqlalchemy.select(table))))
            for table in tables.sorted_tables
        }
    engine.dispose()
    return repr(found)


WRITES: dict[str, Callable[[Ledger, optuna.Study], object]] = {
    "a new study": lambda ledger, study: ledger.create("t", {STATE: "running", SPEC: {}}),
    "the end of a study": lambda ledger, study: ledger.drop("s"),
    "an attribute of a study": lambda ledger, study: study.set_user_attr(STATE, "complete"),
    "a new attribute of a study": lambda ledger, study: study.set_user_attr("answer", {"lr": 1}),
    "a system attribute": lambda ledger, study: ledger.storage.set_study_system_attr(
        study._study_id, "k", "v"
    ),
    "a new trial": lambda ledger, study: study.ask(LR),
    "a trial in the queue": lambda ledger, study: study.enqueue_trial({"lr": 0.1}),
    "a whole trial": lambda ledger, study: study.add_trial(
        optuna.create_trial(params={"lr": 0.1}, distributions=LR, value=1.0)
    ),
    "a report": lambda ledger, study: ledger.storage.set_trial_intermediate_value(
        study.trials[1]._trial_id, 2, 0.6
    ),
    "a report in the place of another": lambda ledger, study: (
        ledger.storage.set_trial_intermediate_value(study.trials[1]._trial_id, 1, 0.6)
    ),
    "an attribute of a trial": lambda ledger, study: ledger.storage.set_trial_user_attr(
        study.trials[1]._trial_id, "attempt", 2
    ),
    "a parameter": lambda ledger, study: ledger.storage.set_trial_param(
        study.trials[1]._trial_id, "momentum", 0.5, FloatDistribution(0.0, 1.0)
    ),
    "the end of a trial": lambda ledger, study: study.tell(1, 0.7),
}


def test_who_was_taken_over_writes_nothing(place: str) -> None:
    first = open_ledger(place)
    study = begin(first)
    second = open_ledger(place)
    before = seen(place)
    for what, write in WRITES.items():
        with pytest.raises(StorageLost, match="another orchestrator has taken over"):
            write(first, study)
        assert seen(place) == before, what
        assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE", "RUNNING"]
        assert first.studies()["s"].user_attrs[STATE] == "running"
        assert list(first.studies()) == ["s"]
    ours = second.studies()["s"]
    for what, write in WRITES.items():
        if what != "the end of a study":
            write(second, ours)
            assert seen(place) != before, what
            before = seen(place)
    WRITES["the end of a study"](second, ours)
    assert list(second.studies()) == list(first.studies()) == ["t"]
    for ledger in (first, second):
        ledger.close()


def test_in_the_middle_of_a_transaction(place: str) -> None:
    """The successor comes between a write and its commit: all of the transaction is gone."""
    first, second = open_database(place), open_database(place)
    token = take_over(first.engine)
    table = sqlalchemy.Table("notes", sqlalchemy.MetaData(), sqlalchemy.Column("n", sqlalchemy.INT))
    table.create(first.engine)
    tokens = []
    # SQLite has one writer at a time: there a successor would wait for a transaction that wrote.
    early = first.engine.dialect.name != "sqlite"

    def overtaken() -> None:
        with first.engine.begin() as connection:
            connection.execute(table.insert() if early else sqlalchemy.select(table))
            tokens.append(take_over(second.engine))
            connection.execute(table.insert().values(n=2))

    with pytest.raises(StorageLost):
        overtaken()
    assert tokens == [token + 1]
    with second.engine.begin() as connection:
        assert connection.execute(sqlalchemy.select(table)).all() == []
        connection.execute(table.insert().values(n=3))
    with first.engine.begin() as connection:  # it may still look
        assert connection.execute(sqlalchemy.select(table)).all() == [(3,)]
    for storage in (first, second):
        storage.remove_session()
        storage.engine.dispose()


def test_each_that_takes_over_has_a_higher_token(place: str) -> None:
    databases = [open_database(place) for _ in range(4)]
    tokens = [take_over(database.engine) for database in databases]
    assert tokens == [1, 2, 3, 4]
    for database in databases[:-1]:
        with pytest.raises(StorageLost, match=r"its token is 4, ours is"):
            optuna.create_study(storage=database)
    optuna.create_study(storage=databases[-1], study_name="s")
    assert [s.study_name for s in databases[0].get_all_studies()] == ["s"]
    for database in databases:
        database.remove_session()
        database.engine.dispose()


def test_a_reader_takes_nothing_over(place: str) -> None:
    """The dashboard opens the database as well, while an orchestrator writes."""
    ledger = open_ledger(place)
    begin(ledger)
    reader = open_database(place)
    assert len(reader.get_all_trials(1)) == 2
    ledger.studies()["s"].set_user_attr(STATE, "complete")
    assert reader.get_study_user_attrs(1)[STATE] == "complete"
    for storage in (ledger.storage, reader):
        storage.remove_session()
