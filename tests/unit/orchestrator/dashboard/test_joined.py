"""Several journals shown as one: what the dashboard reads where no storage is named."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import BaseStorage, JournalStorage
from optuna.trial import TrialState
from optuna_dashboard._note import get_note_from_system_attrs

from justright.errors import StorageError, UsageError
from orchestrator.dashboard.server import JoinedJournals
from orchestrator.storage.ledger import Ledger, open_ledger
from orchestrator.storage.notes import save_note
from tests.helpers.examples import tries


def view(storage: BaseStorage) -> dict[str, Any]:
    """What is known of each study, by the attribute that tells them apart whatever their names."""
    found = {}
    for study in storage.get_all_studies():
        trials = storage.get_all_trials(study._study_id)
        known = [(t.number, t.state, t.values, t.intermediate_values, t.user_attrs) for t in trials]
        found[study.user_attrs.get("id", "?")] = known
    return found


class Journals:
    """Two journals and how they are shown together."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / "0.log", folder / "1.log"]
        self.ledgers: list[Ledger] = [open_ledger(str(path)) for path in self.paths]
        self.joined = JournalStorage(JoinedJournals(lambda: self.paths))

    def create(self, which: int, name: str, identity: str) -> optuna.Study:
        return self.ledgers[which].create(name, {"id": identity})

    def shown(self) -> dict[str, Any]:
        for ledger in self.ledgers:
            ledger.commit()
        return view(self.joined)

    def expected(self) -> dict[str, Any]:
        return view(self.ledgers[0].storage) | view(self.ledgers[1].storage)


steps = st.tuples(st.integers(0, 1), st.sampled_from(["create", "drop", "ask", "tell", "look"]),
                  st.integers(0, 3))  # fmt: skip


@settings(deadline=None, max_examples=tries(80))
@given(st.lists(steps, max_size=30))
def test_joined_journals_show_what_each_of_them_says(history: list[tuple[int, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journals = Journals(Path(folder))
        for count, (which, step, choice) in enumerate(history):
            storage = journals.ledgers[which].storage
            known = storage.get_all_studies()
            study = known[choice % len(known)] if known else None
            if step == "create":
                journals.create(which, f"study {count}", str(count))
            elif step == "look":
                assert journals.shown() == journals.expected()
            elif study is None:
                continue
            elif step == "drop":
                storage.delete_study(study._study_id)
            elif step == "ask":
                storage.set_trial_user_attr(storage.create_new_trial(study._study_id), "n", count)
            else:
                for trial in storage.get_all_trials(study._study_id, states=(TrialState.RUNNING,)):
                    storage.set_trial_intermediate_value(trial._trial_id, 1, count)
                    storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [count])
        assert journals.shown() == journals.expected()


def test_a_study_that_is_made_anew_keeps_its_name(tmp_path: Path) -> None:
    """The orchestrator drops a study whose task could not be loaded; its user tries again."""
    journals = Journals(tmp_path)
    journals.create(0, "digits", "broken")
    journals.ledgers[0].drop("digits")
    journals.create(0, "digits", "mended").ask()
    assert journals.shown() == journals.expected()
    assert [study.study_name for study in journals.joined.get_all_studies()] == ["digits"]


@pytest.mark.parametrize("trials", [0, 5])  # the new journal is shorter, or longer
def test_a_journal_that_is_made_anew_is_read_anew(tmp_path: Path, trials: int) -> None:
    """``tune`` removes its folder if its task could not be loaded; its user tries again."""
    journals = Journals(tmp_path)
    journals.create(1, "other", "other").ask()
    for name, identity in (("digits", "broken"), ("more", "more")):
        journals.create(0, name, identity).ask()
    assert journals.shown() == journals.expected()
    journals.paths[0].unlink()
    journals.ledgers[0] = open_ledger(str(journals.paths[0]))
    study = journals.create(0, "digits", "mended")
    for _ in range(trials):
        study.ask()
    assert journals.shown() == journals.expected()
    names = {study.study_name for study in journals.joined.get_all_studies()}
    assert names == {"digits", "other"}


def test_what_optuna_refused_does_not_confuse_the_numbers(tmp_path: Path) -> None:
    """A refused operation stands in the journal all the same."""
    journals = Journals(tmp_path)
    journals.create(0, "a", "first")
    with pytest.raises(UsageError):
        journals.create(0, "a", "again")
    journals.create(0, "b", "second").ask()
    assert journals.shown() == journals.expected()


def test_nothing_can_be_written_to_several_journals(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    journals.create(0, "a", "first")
    journals.shown()
    with pytest.raises(StorageError, match="nothing can be written"):
        journals.joined.set_study_user_attr(0, "id", "changed")
    assert journals.shown() == journals.expected()


def test_a_line_that_is_still_being_written_waits(tmp_path: Path) -> None:
    whole = tmp_path / "journal.log"
    ledger = open_ledger(str(whole))
    ledger.create("a", {"id": "first"}).ask()
    ledger.commit()
    content, growing = whole.read_bytes(), tmp_path / "growing.log"
    growing.touch()
    joined = JournalStorage(JoinedJournals(lambda: [growing]))
    for position in range(len(content)):
        with open(growing, "ab") as file:
            file.write(content[position : position + 1])
        assert len(joined.get_all_studies()) == (content.find(b"\n") <= position)
    assert view(joined) == view(ledger.storage)


def test_a_note_stays_with_its_trial(tmp_path: Path) -> None:
    """optuna-dashboard keeps it in the study, under the trial's own number in the journal."""
    journals = Journals(tmp_path)
    notes = {}
    for which in range(2):
        study = journals.create(which, f"study{which}", str(which))
        trials = [study.ask() for _ in range(2)]
        note = f"why it failed {which} " * 300
        storage, long = journals.ledgers[which].storage, "long " * 2000
        save_note(storage, study._study_id, long, trials[1]._trial_id)
        save_note(storage, study._study_id, note, trials[1]._trial_id)
        journals.ledgers[which].commit()
        notes[study.study_name] = note
    for name, note in notes.items():
        study = optuna.load_study(study_name=name, storage=journals.joined)
        system = journals.joined.get_study_system_attrs(study._study_id)
        shown = [get_note_from_system_attrs(system, trial._trial_id) for trial in study.trials]
        assert [found["body"] for found in shown] == ["", note]
