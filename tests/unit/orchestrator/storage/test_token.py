"""The fencing token on a database in a file: of two that write, only the latest one does."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from justright.errors import StorageLost
from orchestrator.storage.ledger import open_ledger


def test_who_was_taken_over_writes_no_more(tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path}/study.db"
    first = open_ledger(place)
    study = first.create("s", {})
    study.set_user_attr("by", "first")
    second = open_ledger(place)
    with pytest.raises((StorageLost, optuna.exceptions.StorageInternalError)) as refused:
        study.set_user_attr("by", "first again")
    causes = (refused.value, refused.value.__cause__)
    assert any(isinstance(cause, StorageLost) for cause in causes)
    later = optuna.load_study(study_name="s", storage=second.storage)
    assert later.user_attrs["by"] == "first"
    later.set_user_attr("by", "second")
    assert later.user_attrs["by"] == "second"
