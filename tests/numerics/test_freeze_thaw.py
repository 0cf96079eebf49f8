"""The default search on the whole library, killed at every turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.orchestrator.search.test_freeze_thaw import check_killed


@pytest.mark.parametrize("every", [1, 3, 7])
def test_an_orchestrator_that_is_killed_again_and_again_comes_to_the_same_end(
    tmp_path: Path, every: int
) -> None:
    check_killed(tmp_path, every)
