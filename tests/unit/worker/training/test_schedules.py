"""Schedules by name: what can be typed and searched is what the worker has."""

from __future__ import annotations

from justright import search_space
from worker.training.schedules import SCHEDULES


def test_every_name_has_a_schedule() -> None:
    assert set(SCHEDULES) == set(search_space.SCHEDULES)
