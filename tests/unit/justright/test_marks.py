"""The steps at which the trials of a study are compared."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from justright.marks import after, at_or_after, marks

horizons = st.integers(1, 200_000)
laps = st.one_of(st.none(), st.integers(1, 5000))


@given(horizons, laps)
def test_they_ascend_to_the_horizon_and_hold_the_end_of_each_epoch(
    horizon: int, lap: int | None
) -> None:
    found = marks(horizon, lap)
    assert found[-1] == horizon
    assert all(0 < before < later for before, later in pairwise(found))
    if lap:
        assert set(range(lap, horizon, lap)) <= set(found)


@given(st.integers(200, 200_000))
def test_one_epoch_is_compared_from_a_small_share_on_and_seldom(horizon: int) -> None:
    found = marks(horizon, None)
    assert found[0] <= max(horizon / 512 + 1, horizon / 40, 8)
    assert len(found) <= 40
    assert all(later - before <= 1.3 * (horizon / 12 + 1) for before, later in pairwise(found))


def test_of_many_epochs_only_the_first_ones_have_marks_within() -> None:
    found = marks(600, 20)
    assert [mark for mark in found if mark % 20] == [8, 12, 27]


def test_of_very_short_epochs_only_the_ends_are_marks() -> None:
    assert marks(15, 3) == (3, 6, 9, 12, 15)
    assert marks(7, 1) == (1, 2, 3, 4, 5, 6, 7)


def test_the_next_mark() -> None:
    assert [at_or_after((2, 4, 8), x) for x in (1, 2, 2.5, 9)] == [2, 2, 4, 8]
    assert [after((2, 4, 8), x) for x in (1, 2, 2.5, 8)] == [2, 4, 4, 8]
