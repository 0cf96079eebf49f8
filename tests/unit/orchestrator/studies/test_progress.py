"""The share of the work that is done: it rises, never falls, and is 1 at the end and not before."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from justright.lifecycle import STUDY_FINISHED
from tests.helpers.twin import House

SEARCHES: dict[str, dict[str, Any]] = {
    "default": {},
    "default with replicates": {"replicates": 2},
    "random": {"sampler": "random", "pruner": "none"},
    "median": {"sampler": "tpe", "pruner": "median"},
    "more than the rate": {"search": {"momentum": "0.5:0.9"}},
}


@pytest.mark.parametrize("search", SEARCHES)
def test_it_rises_to_the_end(tmp_path: Path, search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a snapshot takes to make is real time: on a busy machine fewer would be published.
    monkeypatch.setattr("orchestrator.reconcile._SHOWING_SHARE", math.inf)
    house = House(tmp_path, lanes=2)
    for worker in house.workers:
        worker.inspection = {"details": {"momentum": 0.9, "optimizer": "SGD", "batch_size": 8}}
    house.submit(trials=12, **SEARCHES[search])
    shares: list[float] = []
    for _ in range(2000):
        house.turn()
        snapshot = house.broker.snapshot("s")
        if snapshot is None:
            continue
        shares.append(snapshot.progress)
        if snapshot.state in STUDY_FINISHED:
            break
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert all(share < 1.0 for share in shares[:-1])
    halves = sum(0.15 < share < 0.95 for share in shares) / len(shares)
    assert halves > 0.4, "it stood still for most of the time"
