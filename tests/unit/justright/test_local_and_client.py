"""Locks, secrets, names and patience on the user's side, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from justright.brokers.memory import MemoryBroker
from justright.cli.doctor import _clock
from justright.client import submit as submit_module
from justright.client.submit import await_leader
from justright.client.targets import fresh_name
from justright.errors import JustrightError, UsageError
from justright.local.study_folder import LocalStudy
from justright.settings import Settings
from justright.signing import Signer


def study(folder: Path) -> LocalStudy:
    return LocalStudy(Settings.model_validate({"state": folder}), "s")


def test_one_process_holds_a_study(tmp_path: Path) -> None:
    first = study(tmp_path)
    first.open()
    with pytest.raises(UsageError, match="being tuned in another process"):
        study(tmp_path).open()


def test_only_its_user_may_read_the_secret(tmp_path: Path) -> None:
    one = study(tmp_path)
    one.open()
    secret = one.secret()
    assert (one.folder / "secret").stat().st_mode & 0o077 == 0
    assert study(tmp_path).secret() == secret


def test_a_client_gives_up_where_nobody_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(submit_module.time, "monotonic", lambda: now[0] + 1.0)  # type: ignore[attr-defined]
    broker = MemoryBroker(lambda: now[0])
    check = await_leader(broker)
    check()
    broker.lead("o", 5.0)
    now[0] = 3.0
    check()
    now[0] = 100.0  # its lease has expired: from here on it is alone
    check()
    now[0] = 131.0
    with pytest.raises(JustrightError, match="no orchestrator has been active"):
        check()


@pytest.mark.parametrize(("ahead", "well"), [(0.0, True), (1.0, True), (26 * 3600.0, False)])
def test_a_clock_that_is_wrong(ahead: float, well: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        def time(self) -> tuple[int, int]:
            return 1000, 0

    monkeypatch.setattr("justright.cli.doctor.time.time", lambda: 1000.0 + ahead)
    server: Any = Server()
    found = _clock(server)
    assert found.well == well
    assert bool(found.mend) != well


def test_names_that_are_made_up_do_not_meet() -> None:
    names = [fresh_name({"target": "/t.py:Digits"}) for _ in range(3000)]
    assert len(set(names)) == len(names)
    assert all(name.startswith("digits-") and len(name) == len("digits-") + 8 for name in names)


def test_a_fingerprint_tells_secrets_apart_and_nothing_of_them() -> None:
    one, other = Signer("a secret of one project"), Signer("a secret of another one")
    assert one.fingerprint == Signer("a secret of one project").fingerprint
    assert one.fingerprint != other.fingerprint
    assert "secret" not in one.fingerprint
    assert len(one.fingerprint) == 16
