"""Searches for more than the rate, on the whole library, killed at every turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.orchestrator.search.test_rate_first import check_both_stages, check_killed


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("lanes", [1, 4])
def test_the_rate_first_then_all_together(tmp_path: Path, workers: int, lanes: int) -> None:
    check_both_stages(tmp_path, workers, lanes)


@pytest.mark.parametrize("every", [1, 3])
def test_an_orchestrator_that_is_killed_comes_to_the_same_end(tmp_path: Path, every: int) -> None:
    check_killed(tmp_path, every, trials=16)
