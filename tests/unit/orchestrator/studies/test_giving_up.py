"""When what has failed says that the rest will: a table of studies."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from justright.failures import Failure, FailureKind
from justright.lifecycle import TrialState
from orchestrator.studies.giving_up import GivingUp
from orchestrator.studies.trial_record import TrialRecord

FAILURE = Failure(kind=FailureKind.USER, message="KeyError: 'x'")


@dataclass(frozen=True)
class Ended:
    """One trial: how it stands, after how many steps."""

    state: TrialState
    steps: int = 0
    diverged: bool = False
    lost: int = 0


FAILED, COMPLETE = Ended(TrialState.FAILED), Ended(TrialState.COMPLETE, 9)


def records(trials: list[Ended]) -> list[TrialRecord]:
    found = []
    for number, one in enumerate(trials):
        record = TrialRecord(number, number, 0.1, 0, state=one.state, lost=one.lost)
        for step in range(one.steps):
            record.learn(step, 1.0)
        record.diverged = "nan" if one.diverged else ""
        record.failure = FAILURE if one.state == TrialState.FAILED else None
        found.append(record)
    return found


GIVES_UP = {
    "all failed": [FAILED] * 3,
    "and one has diverged": [FAILED] * 3 + [Ended(TrialState.PRUNED, 2, diverged=True)],
    "and others wait, no further": [Ended(TrialState.FAILED, 2)] * 3
    + [Ended(TrialState.PAUSED, 2)] * 5,
    "and one runs that has crashed": [FAILED] * 3 + [Ended(TrialState.RUNNING, 0, lost=1)],
    "and one is queued": [FAILED] * 3 + [Ended(TrialState.QUEUED)],
}
GOES_ON = {
    "two": [FAILED] * 2,
    "one is complete": [FAILED] * 9 + [COMPLETE],
    "one trains further": [FAILED] * 3 + [Ended(TrialState.RUNNING, 1)],
    "one has just begun": [FAILED] * 3 + [Ended(TrialState.RUNNING)],
    "one was paused further on": [FAILED] * 3 + [Ended(TrialState.PAUSED, 1)],
    "one was stopped further on": [FAILED] * 3 + [Ended(TrialState.PRUNED, 3)],
    "most have diverged": [FAILED] * 3 + [Ended(TrialState.PRUNED, 1, diverged=True)] * 3,
}


@pytest.mark.parametrize("trials", GIVES_UP.values(), ids=GIVES_UP)
def test_it_gives_up(trials: list[Ended]) -> None:
    assert GivingUp().reason(records(trials)) == FAILURE


@pytest.mark.parametrize("trials", GOES_ON.values(), ids=GOES_ON)
def test_it_goes_on(trials: list[Ended]) -> None:
    assert GivingUp().reason(records(trials)) is None


def test_what_failed_before_a_task_was_mended_does_not_count() -> None:
    giving_up, trials = GivingUp(), records([FAILED] * 3)
    giving_up.forgive(trials)
    assert giving_up.reason(trials) is None
    assert giving_up.reason(records([FAILED] * 6)) == FAILURE
