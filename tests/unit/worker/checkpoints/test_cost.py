"""How often a checkpoint is due: as a share of the time, whatever one costs."""

from __future__ import annotations

import time

import pytest

from worker.checkpoints.artifacts import Artifacts
from worker.checkpoints.store import Checkpoints

EVERY = 30.0  # seconds

DUE = [
    # seconds that the last one took, lanes that are saved in turn, seconds since, due
    (0.0, 1, 29.0, False),
    (0.0, 1, 31.0, True),
    (1.0, 1, 31.0, True),
    (2.0, 1, 39.0, False),  # 5 % of 40 s
    (2.0, 1, 41.0, True),
    (2.0, 4, 159.0, False),  # four of them cost four times as much
    (2.0, 4, 161.0, True),
    (0.1, 16, 31.0, False),
    (0.1, 16, 33.0, True),
]


@pytest.mark.parametrize(("cost", "lanes", "since", "due"), DUE)
def test_when_a_checkpoint_is_due(
    monkeypatch: pytest.MonkeyPatch, cost: float, lanes: int, since: float, due: bool
) -> None:
    one = Checkpoints(Artifacts("/nowhere"), "s/0", 1, EVERY, lanes)
    one._cost, one._last = cost, 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0 + since)
    assert one.due == due
