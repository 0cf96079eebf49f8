"""Orchestrators that are killed at more places than tests/unit has time for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.orchestrator.test_recovery import check_killed


@pytest.mark.parametrize("effect", ["receive", "dispatch", "decide", "publish", "acknowledge"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("nth", [2, 9])
def test_killed_anywhere_and_started_again_it_goes_on(
    tmp_path: Path, effect: str, moment: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_killed(tmp_path, effect, moment, nth, monkeypatch)
