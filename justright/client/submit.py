"""What a client does with a running service: submit a study and watch it to its answer."""

from __future__ import annotations

import time
from collections.abc import Callable

from justright.broker import Broker
from justright.client.asking import ask, new_id
from justright.errors import (
    EXIT_ANSWER,
    EXIT_ERROR,
    EXIT_NO_ANSWER,
    EXIT_USAGE,
    JustrightError,
    UsageError,
)
from justright.lifecycle import STUDY_FINISHED, StudyState, TrialState
from justright.messages import Snapshot, Submit
from justright.spec import StudySpec, another_study, differences

_POLL = 0.05  # seconds between looks at the snapshot
_CHECK = 0.5  # seconds between looks at whether the service still lives
_ALONE = 30.0  # seconds that a client waits for an orchestrator


def submit(broker: Broker, spec: StudySpec, fresh: bool = False) -> str:
    """Ask for a study; returns the submission's id. Where an orchestrator is active, it has taken
    the study up by then.

    ``fresh``: its name was made up, so that it is no earlier study's.

    Raises:
        UsageError: the name belongs to another study.
        NameTaken: a study has the name that was made up.
        JustrightError: the orchestrator refused it, or does not answer.
    """
    if not fresh:
        refuse_if_another(broker.snapshot(spec.name), spec)
    message = Submit(id=new_id(), spec=spec, fresh=fresh)
    if broker.leader() is None:
        broker.send(message)
    else:
        ask(broker, message)
    return message.id


def refuse_if_another(known: Snapshot | None, spec: StudySpec) -> None:
    """A name that has trials belongs to its study.

    Raises:
        UsageError: ``known`` is another study than what is asked for.
    """
    differing = differences(known.spec, spec) if known is not None and known.trials else []
    if differing:
        raise UsageError(another_study(spec.name, differing))


def watch(
    broker: Broker,
    study: str,
    *,
    submission: str | None,
    show: Callable[[Snapshot], None],
    check: Callable[[], None] = lambda: None,
    rest: bool = False,
) -> Snapshot:
    """Watch a study until it has ended; ``show`` sees each new snapshot, the last one included.

    ``submission``: wait until this one has been taken up (None: take the study as it is).
    ``rest``: a study that is paused, and trains no more, has ended as well; so has one that was
    paused for a reason of its own.
    ``check`` is called now and then and may raise to end the watch.

    Raises:
        UsageError: the orchestrator refused the submission.
    """
    last: Snapshot | None = None
    taken = False
    checked = 0.0
    while True:
        snapshot = broker.snapshot(study)
        if snapshot is not None and submission in snapshot.refused:
            raise UsageError(snapshot.refused[submission])
        # Once is enough: somebody else may submit the same study after us.
        taken = taken or (snapshot is not None and submission in (None, snapshot.submission))
        if snapshot is not None and taken and snapshot != last:
            last = snapshot
            show(snapshot)
            stopped = rest or snapshot.failure is not None
            if snapshot.state in STUDY_FINISHED or (stopped and is_at_rest(snapshot)):
                return snapshot
        if time.monotonic() - checked > _CHECK:
            checked = time.monotonic()
            check()
        time.sleep(_POLL)


def is_at_rest(snapshot: Snapshot) -> bool:
    """Whether it is paused, and none of its trials trains any more."""
    running = any(trial.state == TrialState.RUNNING for trial in snapshot.trials)
    return snapshot.state == StudyState.PAUSED and not running


def unknown_study(study: str, known: list[str]) -> UsageError:
    """The error for a name that no study has."""
    have = f"There are: {', '.join(known)}." if known else "There are no studies yet."
    return UsageError(f"there is no study {study!r}. {have}")


def exit_code(snapshot: Snapshot) -> int:
    """0: an answer; 3: ended without one; 1 or 2: the task could not be trained at all."""
    if snapshot.failure is not None and snapshot.failure.kind == "changed":
        return EXIT_ERROR
    if snapshot.failure is not None and not snapshot.trials:
        return EXIT_USAGE if snapshot.failure.kind == "usage" else EXIT_ERROR
    if snapshot.answer is None or snapshot.answer.best_lr is None:
        return EXIT_NO_ANSWER
    return EXIT_ANSWER


def await_leader(broker: Broker) -> Callable[[], None]:
    """A check for ``watch``: somebody must be there to take the study up.

    The returned function raises when no orchestrator has been active for a while.
    """
    alone_since: float | None = None

    def check() -> None:
        nonlocal alone_since
        if broker.leader() is not None:
            alone_since = None
            return
        alone_since = alone_since or time.monotonic()
        if time.monotonic() - alone_since > _ALONE:
            raise JustrightError(
                f"no orchestrator has been active for {_ALONE:g} s. Start one with `justright "
                "orchestrator`; the study is kept and goes on when there is one."
            )

    return check
