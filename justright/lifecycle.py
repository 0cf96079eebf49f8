"""The lives of a trial and of a study, as data.

``docs/lifecycle.md`` draws the same table. Optuna knows queued, running and paused as RUNNING;
the finer state is the trial's user attribute ``state``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from justright.errors import LifecycleError


class TrialState(StrEnum):
    """Where a trial stands."""

    QUEUED = "queued"  #: Recorded in the study and put on the queue; no worker has it yet.
    RUNNING = "running"  #: A worker holds its job's lease and trains it.
    PAUSED = "paused"  #: It reached its job's ``until`` step and waits, checkpoint saved.
    COMPLETE = "complete"  #: It reached the horizon.
    PRUNED = "pruned"  #: It was told to stop, or it diverged; the reason is recorded.
    FAILED = "failed"  #: The user's code raised, or its attempts are used up.


FINISHED = frozenset({TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED})
ACTIVE = frozenset(TrialState) - FINISHED
DISPATCHED = ACTIVE - {TrialState.PAUSED}


@dataclass(frozen=True)
class Transition:
    """One lettered arrow of the lifecycle. ``source`` is empty for the first one."""

    letter: str
    source: frozenset[TrialState]
    target: TrialState
    cause: str


_S = TrialState
TRANSITIONS: dict[str, Transition] = {
    t.letter: t
    for t in (
        Transition("a", frozenset(), _S.QUEUED, "the sampler proposed it"),
        Transition("b", frozenset({_S.QUEUED}), _S.RUNNING, "a worker took the job and its lease"),
        Transition(
            "c",
            frozenset({_S.RUNNING}),
            _S.PAUSED,
            "it reached the job's until step, or its study rests",
        ),
        Transition(
            "d",
            frozenset({_S.PAUSED}),
            _S.QUEUED,
            "promoted to the next rung, or its study goes on",
        ),
        Transition("e", frozenset({_S.RUNNING}), _S.COMPLETE, "it reached the horizon"),
        Transition("f", frozenset({_S.RUNNING}), _S.PRUNED, "told to stop, or diverged"),
        Transition(
            "g", frozenset({_S.QUEUED, _S.RUNNING}), _S.QUEUED, "its job was lost or given back"
        ),
        Transition("h", ACTIVE, _S.FAILED, "the user's code raised, or attempts are used up"),
        Transition("i", frozenset({_S.PAUSED}), _S.PRUNED, "the study ended without it"),
        Transition("j", frozenset({_S.QUEUED}), _S.PRUNED, "the study ended before it began"),
    )
}


def transition(state: TrialState | None, letter: str) -> TrialState:
    """Return the state that transition ``letter`` leads to from ``state``.

    Raises:
        LifecycleError: the lifecycle has no such arrow from there.
    """
    arrow = TRANSITIONS[letter]
    legal = state is None if not arrow.source else state in arrow.source
    if not legal:
        raise LifecycleError(
            f"transition {letter} ({arrow.cause}) leads from "
            f"{'/'.join(sorted(arrow.source)) or 'nothing'}, but the trial is {state}"
        )
    return arrow.target


class StudyState(StrEnum):
    """Where a study stands."""

    INSPECTING = "inspecting"  #: A worker looks at the task: does it load, what is its horizon.
    RUNNING = "running"  #: Trials are asked, trained and told.
    COMPLETE = "complete"  #: Ended by a stop rule; the answer is final.
    PAUSED = "paused"  #: Its user let it rest: nothing new is trained until it is resumed.
    CANCELLED = "cancelled"  #: Ended by its user; the answer is what was known then.
    FAILED = "failed"  #: Ended without an answer because the task cannot be trained.
    INTERRUPTED = "interrupted"  #: Its ``tune`` was ended; shown of what is kept, never recorded.


STUDY_ACTIVE = frozenset({StudyState.INSPECTING, StudyState.RUNNING})
STUDY_FINISHED = frozenset({StudyState.COMPLETE, StudyState.CANCELLED, StudyState.FAILED})
