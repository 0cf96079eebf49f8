"""What clients ask for: each command is obeyed or refused, and its sender is told which."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import optuna

from justright.errors import UsageError
from justright.failures import Failure, FailureKind
from justright.lifecycle import StudyState
from justright.logs import event
from justright.messages import Cancel, Command, Delete, Job, Pause, Reply, Resume, Snapshot, Submit
from justright.spec import another_study, differences, read_rate
from orchestrator.storage import ledger
from orchestrator.storage.ledger import Ledger
from orchestrator.studies.guard import Guard
from orchestrator.studies.known import KnownStudies

log = logging.getLogger(__name__)

_ID = 16  # bytes of a job's id


@dataclass
class Outbox:
    """What a turn lets out after its commit."""

    jobs: list[tuple[Job, str]] = field(default_factory=list)
    failed: list[Snapshot] = field(default_factory=list)
    created: list[str] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


class Commands:
    """Obeys the commands of one turn after the other. All may come twice."""

    def __init__(
        self,
        books: Ledger,
        guard: Guard,
        runs: KnownStudies,
        take_up: Callable[[str, optuna.Study], None],
    ) -> None:
        """``take_up`` adds a study of the ledger to ``runs``."""
        self._ledger, self._guard, self._runs, self._take_up = books, guard, runs, take_up

    def obey(self, command: Command, outbox: Outbox) -> None:
        """Do it, or refuse it; the reply goes out once the turn is committed."""
        match command:
            case Submit():
                reply = self._submit(command, outbox)
            case Delete():
                reply = self._delete(command, outbox)
            case _:
                reply = self._do(command)
        if command.id:
            outbox.replies.append(reply)

    def _do(self, command: Cancel | Pause | Resume) -> Reply:
        run = self._runs.get(command.study)
        if run is None:
            return _refused(command, f"there is no study {command.study!r}")
        state = run.record.state
        match command:
            case Cancel() if run.record.active:
                cancelled = partial(run.finish, StudyState.CANCELLED, "cancelled")
                self._guard(run, cancelled, None)
                event(log, "study ended", study=run.name, state=run.record.state)
            case Cancel() if state == StudyState.CANCELLED:
                pass  # it came twice
            case _ if not run.record.active:
                return _refused(command, f"study {run.name} has ended already ({state})")
            case Pause():
                self._guard(run, run.pause, None)
            case Resume():
                self._guard(run, run.resume, None)
        if run.record.failure is not None:  # it failed of this very command
            return Reply(id=command.id, done=False, reason=run.record.failure.message)
        return Reply(id=command.id, done=True)

    def _delete(self, command: Delete, outbox: Outbox) -> Reply:
        """Remove a study that has ended: from the storage, from Redis, its checkpoints."""
        run = self._runs.get(command.study)
        if run is None:  # the news of one, or what a kill has left of one that was removed
            outbox.removed.append(command.study)
            return Reply(id=command.id, done=True)
        if run.record.active:
            reason = f"study {run.name} is {run.record.state}. End it first: justright cancel "
            return _refused(command, reason + run.name)
        outbox.jobs.append((run.jobs.tidy(secrets.token_hex(_ID)), run.record.spec.pool))
        self._ledger.drop(run.name)
        del self._runs[run.name]
        outbox.removed.append(run.name)
        event(log, "study removed", study=run.name)
        return Reply(id=command.id, done=True)

    # -- a new study, or more of an old one -------------------------------------------------------

    def _submit(self, message: Submit, outbox: Outbox) -> Reply:
        spec, run = message.spec, self._runs.get(message.spec.name)
        if run is None:
            return self._begin(message, outbox)
        if message.id == run.record.submission:
            return Reply(id=message.id, done=True)  # it came twice
        if message.fresh:
            reason = f"a study {spec.name} exists already"
            return Reply(id=message.id, done=False, reason=reason, taken=True)
        differing = differences(run.record.spec, spec)
        if differing:
            reason = another_study(spec.name, differing)
            run.record.refuse(message.id, reason)
            return _refused(message, reason)
        self._guard(run, partial(run.resubmit, message.id, spec), None)
        return Reply(id=message.id, done=True, reason=f"the study {spec.name} exists: it goes on")

    def _begin(self, message: Submit, outbox: Outbox) -> Reply:
        spec = message.spec
        attributes: dict[str, Any] = {
            ledger.STATE: StudyState.INSPECTING,
            ledger.SUBMISSION: message.id,
            ledger.PLACE: secrets.token_hex(6),
            ledger.SPEC: spec.model_dump(mode="json"),
        }
        try:
            attributes |= self._hint(spec.like)
            study = self._ledger.create(spec.name, attributes)
        except UsageError as error:
            outbox.failed.append(_not_taken(message, error))
            return _refused(message, str(error))
        self._take_up(spec.name, study)
        outbox.created.append(spec.name)
        event(log, "study begun", study=spec.name, task=spec.task.label)
        return Reply(id=message.id, done=True)

    def _hint(self, like: str | None) -> dict[str, float]:
        """What an earlier study tells a new one.

        Raises:
            UsageError: there is no such study, or it has no answer.
        """
        if like is None:
            return {}
        run = self._runs.get(like)
        rate = read_rate(like)
        if run is None and rate is not None:
            return {ledger.HINT: rate}
        answer = run.record.answer if run is not None else None
        if answer is None or answer.best_lr is None:
            known = {name: self._runs.get(name) for name in self._runs.names}
            answers = {name: one.record.answer for name, one in known.items() if one}
            answered = sorted(name for name, one in answers.items() if one and one.best_lr)
            found = "has no answer" if run is not None else "is not known here"
            raise UsageError(
                f"--like: the study {like} {found}. Studies with an answer: "
                f"{', '.join(answered) or 'none'}."
            )
        return {ledger.HINT: answer.best_lr}


def _refused(command: Command, reason: str) -> Reply:
    return Reply(id=command.id, done=False, reason=reason, typed=True)


def _not_taken(message: Submit, error: UsageError) -> Snapshot:
    """What the client of a submission sees that became no study."""
    return Snapshot(
        study=message.spec.name,
        submission=message.id,
        spec=message.spec,
        state=StudyState.FAILED,
        task=message.spec.task.label,
        total=0,
        horizon=None,
        failure=Failure(kind=FailureKind.USAGE, message=str(error)),
    )
