"""What a worker's parent decides by itself: to rest after a refusal, to end a child."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from justright.brokers.memory import MemoryBroker
from justright.messages import Decision, TrainJob, TrialWork
from justright.spec import TaskRef
from worker.lanes.plan import _free
from worker.main import visible_gpus
from worker.parent.orders import Orders
from worker.parent.refusing import Refusing


def test_each_refusal_in_a_row_rests_longer() -> None:
    told: list[str] = []
    refusing = Refusing("w", told.append)
    pauses = [refusing.pause]
    for _ in range(4):
        refusing.refused("j", "another secret")
        pauses.append(refusing.pause)
    assert pauses == [0.0, 1.0, 2.0, 60.0, 60.0]
    refusing.accepted()
    assert refusing.pause == 0.0
    assert told == ["another secret"] * 4 + [""]
    refusing.refused("j", "no module")
    assert refusing.pause == 1.0, "it counts on from before"


def test_it_rests_until_it_is_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    refusing = Refusing("w", lambda reason: None)
    for _ in range(3):
        refusing.refused("j", "no")

    def leaving() -> bool:
        looked.append(1)
        return len(looked) > 2

    monkeypatch.setattr("worker.parent.refusing._LOOK", 0.0)
    refusing.rest(leaving)
    assert len(looked) == 3


STOP, PAUSE = "stop", "pause"
TOLD = [
    ({}, False, False),
    ({0: STOP}, False, False),  # its neighbour goes on
    ({0: STOP, 1: STOP}, True, True),
    ({0: STOP, 1: PAUSE}, False, True),
    ({0: PAUSE, 1: PAUSE}, False, True),
]


@pytest.mark.parametrize(("told", "stopped", "at_rest"), TOLD)
def test_a_job_is_over_when_all_of_its_trials_are(
    told: dict[int, str], stopped: bool, at_rest: bool
) -> None:
    orders = orders_for([0, 1], told, attempt=1)
    assert (orders.stopped_for >= 0, orders.at_rest_for >= 0) == (stopped, at_rest)


def test_what_was_decided_of_another_attempt_is_no_order() -> None:
    assert orders_for([0], {0: STOP}, attempt=2).stopped_for < 0


def orders_for(trials: Sequence[int], told: dict[int, str], attempt: int) -> Orders:
    """What a parent has heard of a job whose trials are in their first attempt."""
    broker = MemoryBroker()
    broker.decide(
        "s",
        {
            number: Decision.model_validate({"attempt": attempt, "action": action, "reason": "r"})
            for number, action in told.items()
        },
    )
    works = tuple(TrialWork(number=n, lr=0.1, seed=0, attempt=1) for n in trials)
    job = TrainJob(id="j", study="s", task=TaskRef(target="/t.py:T"), trials=works)
    orders = Orders(broker)
    orders.watch(job)
    orders._note(job, broker.exchange([], "s", list(trials)))
    time.sleep(0.01)
    return orders


def test_lanes_take_less_than_the_machine_has() -> None:
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < _free(torch.device("cpu")) <= 0.5 * there


def test_gpus_are_seen_as_the_driver_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: one (UUID: a)'\necho 'GPU 1: two (UUID: b)'\n")
    tool.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,-1")
    assert visible_gpus() == ["1"]
