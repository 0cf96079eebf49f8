"""The journal with group commit: Optuna's own format, one writer, and what a disk can do to it."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from justright.errors import StorageError
from orchestrator.storage.journal import GroupCommitJournal
from tests.helpers.examples import tries

optuna.logging.set_verbosity(optuna.logging.ERROR)


def contents(storage: BaseStorage) -> list[str]:
    """All that a storage knows, in a form in which NaN equals itself."""
    found = []
    for study in storage.get_all_studies():
        trials = storage.get_all_trials(study._study_id)
        found.append(repr((study.study_name, study.directions, study.user_attrs, trials)))
    return found


def train_some(study: optuna.Study) -> None:
    """A study as real ones are: complete, pruned, failed, running and enqueued trials."""
    for index, state in enumerate((TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)):
        trial = study.ask({"lr": FloatDistribution(1e-6, 10.0, log=True)})
        for step, loss in enumerate((1.0, math.inf, 0.5 + index)):
            trial.report(loss, step)
        trial.set_user_attr("reason", 'lines\nand "quotes" — ünd\u2028')
        study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state=state)
    study.ask({"lr": FloatDistribution(1e-6, 10.0, log=True)}).report(0.3, 1)
    study.enqueue_trial({"lr": 0.1})


def new_study(storage: BaseStorage, name: str = "s") -> optuna.Study:
    return optuna.create_study(storage=storage, study_name=name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "not yet there" / "journal.log"


def test_what_is_not_committed_is_not_on_disk_and_stock_optuna_follows(path: Path) -> None:
    journal = GroupCommitJournal(path)
    storage = JournalStorage(journal)
    study = new_study(storage)
    journal.commit()
    stock = JournalStorage(JournalFileBackend(str(path)))
    for _ in range(3):
        committed, seen = path.read_bytes(), contents(stock)
        train_some(study)
        assert contents(storage) != seen  # it is in memory
        assert path.read_bytes() == committed
        assert contents(stock) == seen
        journal.commit()
        assert path.read_bytes().startswith(committed)
        assert contents(stock) == contents(storage)
        journal.commit()  # once more changes nothing
        assert contents(stock) == contents(storage)


def test_we_go_on_with_what_stock_optuna_wrote(path: Path) -> None:
    path.parent.mkdir()
    stock = JournalStorage(JournalFileBackend(str(path)))
    train_some(new_study(stock))
    journal = GroupCommitJournal(path)
    ours = JournalStorage(journal)
    assert contents(ours) == contents(stock)
    train_some(optuna.load_study(study_name="s", storage=ours))
    journal.close()
    assert contents(ours) == contents(stock)
    assert [trial.number for trial in stock.get_all_trials(0)] == list(range(9))


def test_a_second_writer_is_refused(path: Path) -> None:
    first = GroupCommitJournal(path)
    new_study(JournalStorage(first))
    with pytest.raises(StorageError, match="another process writes"):
        GroupCommitJournal(path)
    first.close()
    second = GroupCommitJournal(path)
    assert len(JournalStorage(second).get_all_studies()) == 1


def test_a_write_that_did_not_end_is_repaired(path: Path) -> None:
    """Wherever the last line was cut off, all before it is kept, and writing goes on."""
    journal = GroupCommitJournal(path)
    storage = JournalStorage(journal)
    study = new_study(storage)
    train_some(study)
    journal.commit()
    before, known = path.read_bytes(), contents(storage)
    study.set_user_attr("answer", {"best_lr": 0.1})
    journal.close()
    whole = path.read_bytes()
    for cut in range(len(before), len(whole)):
        path.write_bytes(whole[:cut])
        mended = GroupCommitJournal(path)
        storage = JournalStorage(mended)
        assert contents(storage) == known
        optuna.load_study(study_name="s", storage=storage).set_user_attr("answer", "later")
        mended.close()
        stock = JournalStorage(JournalFileBackend(str(path)))
        assert stock.get_study_user_attrs(0) == {"answer": "later"}


@pytest.mark.parametrize("damage", ["", "nonsense", "{}", "[1]", '{"op_code": "?"}', '{"op_'])
def test_a_damaged_line_is_named(path: Path, damage: str) -> None:
    journal = GroupCommitJournal(path)
    train_some(new_study(JournalStorage(journal)))
    journal.close()
    lines = path.read_text().split("\n")
    lines[2] = damage
    path.write_text("\n".join(lines))
    damaged = path.read_bytes()
    with pytest.raises(StorageError, match=r"line 3 of .*journal\.log"):
        GroupCommitJournal(path)
    assert path.read_bytes() == damaged


def test_a_foreign_write_is_noticed(path: Path) -> None:
    journal = GroupCommitJournal(path)
    study = new_study(JournalStorage(journal))
    journal.commit()
    JournalStorage(JournalFileBackend(str(path))).set_study_user_attr(0, "foreign", True)
    foreign = path.read_bytes()
    study.set_user_attr("ours", True)
    with pytest.raises(StorageError, match="another program wrote"):
        journal.commit()
    assert path.read_bytes() == foreign


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: a full disk, as the kernel tells it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def failing_fsync(size: int) -> Iterator[None]:
    """The disk takes the bytes and then fails to make them durable."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        yield


Fault = Callable[[int], contextlib.AbstractContextManager[None]]


@pytest.mark.parametrize("entries", [1, 200])  # less and more than Python's buffer for a file
@pytest.mark.parametrize(
    ("fault", "extra"), [(room_for, 0), (room_for, 50), (failing_fsync, 0)],
    ids=["full", "nearly full", "fsync fails"],
)  # fmt: skip
def test_a_disk_that_refuses_is_told_and_nothing_is_written_twice(
    path: Path, fault: Fault, extra: int, entries: int
) -> None:
    journal = GroupCommitJournal(path)
    study = new_study(JournalStorage(journal))
    journal.commit()
    before = path.read_bytes()
    for number in range(entries):
        study.set_user_attr("number", number)
    expected = before + b"".join(journal._waiting)
    with fault(len(before) + extra), pytest.raises(StorageError, match="Make room"):
        journal.commit()
    # There is room again. Closing may write what waits or give it up, but never write it twice,
    # blame another program or keep the lock.
    try:
        journal.close()
    except StorageError as error:
        assert "another program" not in str(error)  # noqa: PT017  it may raise, or not
    again = GroupCommitJournal(path)
    assert path.read_bytes().startswith(before)
    assert expected.startswith(path.read_bytes())
    again.close()


names = st.sampled_from(["a", "b", "c"])
ids = st.integers(0, 5)
losses = st.floats()  # NaN and infinities too
results = st.none() | losses.map(lambda loss: [loss])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)
space = st.sampled_from([FloatDistribution(0.1, 1.0, log=True), CategoricalDistribution((0, "x"))])
operations = st.one_of(
    st.tuples(st.just("create_new_study"), st.just([StudyDirection.MINIMIZE]), names),
    st.tuples(st.just("create_new_trial"), ids),
    st.tuples(st.just("delete_study"), ids),
    st.tuples(st.just("set_study_user_attr"), ids, names, values),
    st.tuples(st.just("set_trial_user_attr"), ids, names, values),
    st.tuples(st.just("set_trial_param"), ids, names, st.sampled_from([0.5, 1.0]), space),
    st.tuples(st.just("set_trial_intermediate_value"), ids, ids, losses),
    st.tuples(st.just("set_trial_state_values"), ids, st.sampled_from(TrialState), results),
    st.tuples(st.just("commit")),
)
REFUSED = (KeyError, ValueError, AssertionError, optuna.exceptions.OptunaError)


@settings(max_examples=tries(150), deadline=None)
@given(st.lists(operations, max_size=40))
def test_reopened_it_says_what_was_in_memory(history: list[tuple[Any, ...]]) -> None:
    """Whatever was done, also in vain: an operation that Optuna refuses is in its journals too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.log"
        journal = GroupCommitJournal(path)
        storage = JournalStorage(journal)
        new_study(storage, "first")
        storage.create_new_trial(0)
        for name, *arguments in history:
            with contextlib.suppress(*REFUSED):
                getattr(journal if name == "commit" else storage, name)(*arguments)
        known = contents(storage)
        journal.close()
        assert contents(JournalStorage(JournalFileBackend(str(path)))) == known
        again = GroupCommitJournal(path)
        assert contents(JournalStorage(again)) == known
        again.close()
