"""The broker's in-process twin: the same guarantees on plain lists, for tests in milliseconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

from justright.broker import AT_MOST, Broker, CommandBroker, JobPlace
from justright.messages import (
    Command,
    Decision,
    Event,
    Job,
    Reply,
    Snapshot,
    WorkerInfo,
    decode_as,
    decode_job,
)


class MemoryCommands(CommandBroker):
    """Commands and replies on plain lists."""

    def __init__(self) -> None:
        self._inbox: list[Command | Event] = []
        self._replies: dict[str, Reply] = {}

    def send(self, command: Command) -> None:
        self._inbox.append(decode_as(type(command), command.encode()))

    def reply(self, command: str) -> Reply | None:
        return self._replies.get(command)

    def other_secret(self) -> bool:
        return False

    def answer(self, replies: Sequence[Reply]) -> None:
        self._replies.update({one.id: decode_as(Reply, one.encode()) for one in replies})


class MemoryBroker(MemoryCommands, Broker):
    """Everything in one process. Messages pass through encode and decode, as on the wire."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._unacknowledged: list[Command | Event] = []
        self._snapshots: dict[str, tuple[Snapshot, float]] = {}
        self._workers: dict[str, tuple[WorkerInfo, float]] = {}
        self._leases: dict[str, float] = {}
        self._begun: set[str] = set()
        self._revoked: set[str] = set()
        self._marked = False
        self._leader: tuple[str, float] | None = None
        self.queues: dict[str, list[Job]] = {}  #: pool -> jobs not yet taken
        self.decisions: dict[str, dict[int, Decision]] = {}

    def snapshot(self, study: str) -> Snapshot | None:
        known, until = self._snapshots.get(study, (None, 0.0))
        return known if until > self._clock() else None

    def studies(self) -> list[str]:
        return sorted(name for name in self._snapshots if self.snapshot(name) is not None)

    def workers(self) -> list[WorkerInfo]:
        now = self._clock()
        return [info for _, (info, until) in sorted(self._workers.items()) if until > now]

    def leader(self) -> str | None:
        if self._leader is None or self._leader[1] <= self._clock():
            return None
        return self._leader[0]

    def receive(self, wait: float, at_most: int = AT_MOST) -> list[Command | Event]:
        taken, self._inbox = self._inbox[:at_most], self._inbox[at_most:]
        self._unacknowledged.extend(taken)
        return taken

    def acknowledge(self) -> None:
        self._unacknowledged.clear()

    def restart_receiver(self) -> None:
        """What a new orchestrator finds: all that was received and not acknowledged, again."""
        self._inbox = self._unacknowledged + self._inbox
        self._unacknowledged = []

    def dispatch(self, job: Job, pool: str) -> None:
        self.queues.setdefault(pool, []).append(decode_job(job.encode()))

    def take(self, pool: str, worker: str, lease: float) -> Job | None:
        """What RQ does for a real worker: the oldest job, with its lease."""
        queue = self.queues.get(pool)
        if not queue:
            return None
        job = queue.pop(0)
        return job if self.claim(job.id, worker, lease) else None

    def withdraw(self, job: str, pool: str) -> None:
        queue = self.queues.get(pool, [])
        self.queues[pool] = [waiting for waiting in queue if waiting.id != job]

    def locate(self, jobs: Iterable[str], pool: str) -> dict[str, JobPlace]:
        waiting = {job.id for job in self.queues.get(pool, [])}
        now = self._clock()
        return {
            job: "queued"
            if job in waiting
            else "leased"
            if job not in self._revoked and self._leases.get(job, -1.0) > now
            else "missing"
            for job in jobs
        }

    def revoke(self, jobs: Iterable[str]) -> None:
        self._revoked.update(jobs)

    def mark(self) -> bool:
        marked, self._marked = self._marked, True
        return marked

    def lose_everything(self) -> None:
        """What a restart of Redis without its data does."""
        self.__init__(self._clock)  # type: ignore[misc]

    def decide(self, study: str, decisions: dict[int, Decision]) -> None:
        self.decisions.setdefault(study, {}).update(decisions)

    def forget(self, study: str) -> None:
        self.decisions.pop(study, None)

    def publish(self, snapshot: Snapshot, keep: float | None = None) -> None:
        until = math.inf if keep is None else self._clock() + keep
        self._snapshots[snapshot.study] = (decode_as(Snapshot, snapshot.encode()), until)

    def remove(self, study: str) -> None:
        self._snapshots.pop(study, None)
        self.decisions.pop(study, None)

    def lead(self, owner: str, seconds: float) -> bool:
        if self.leader() not in (None, owner):
            return False
        self._leader = (owner, self._clock() + seconds)
        return True

    def resign(self, owner: str) -> None:
        if self.leader() == owner:
            self._leader = None

    def exchange(
        self, events: Sequence[Event], study: str = "", trials: Sequence[int] = ()
    ) -> dict[int, Decision]:
        self._inbox.extend(decode_as(type(event), event.encode()) for event in events)
        known = self.decisions.get(study, {})
        return {trial: known[trial] for trial in trials if trial in known}

    def claim(self, job: str, worker: str, lease: float) -> bool:
        if job in self._begun or job in self._revoked:
            return False
        self._begun.add(job)
        self._leases[job] = self._clock() + lease
        return True

    def beat(self, worker: WorkerInfo, lease: float) -> bool:
        until = self._clock() + lease
        self._workers[worker.name] = (worker, until)
        if worker.job in self._revoked:
            return False
        if worker.job is not None:
            self._leases[worker.job] = until
        return True

    def leave(self, worker: WorkerInfo) -> None:
        self._workers.pop(worker.name, None)
        if worker.job is not None:
            self._leases.pop(worker.job, None)
