"""The broker on Redis, as both sides use it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import redis

from justright.broker import AT_MOST, Broker, JobPlace
from justright.brokers.redis_commands import RedisCommands
from justright.brokers.redis_keys import (
    CLAIM,
    DECISIONS_KEPT,
    HOLD,
    RESIGN,
    REVOKED,
)
from justright.errors import MessageError
from justright.messages import (
    Command,
    Decision,
    Event,
    Job,
    Message,
    Snapshot,
    WorkerInfo,
    decode_as,
)
from justright.signing import VALID, Signer

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
K = TypeVar("K")

_NOBODY = (None, REVOKED.encode())  # who holds a lease that is free, or was taken back
_CLAIM_BYTES = 8  # of what tells one claim from the next
_BEGIN = "0-0"  # before the first entry of a stream


class RedisBroker(RedisCommands, Broker):
    """The broker on a real Redis (6.2 or newer)."""

    def __init__(
        self, client: redis.Redis, signer: Signer | None = None, namespace: str | None = None
    ) -> None:
        """``signer``: needed to send and receive commands and to dispatch jobs.

        ``namespace``: of all keys and queues; None: as JUSTRIGHT_NAMESPACE says.
        """
        super().__init__(client, signer, namespace)
        self._seen = {self._keys.commands: _BEGIN, self._keys.reports: _BEGIN}
        self._queues: dict[str, Any] = {}
        self._gone: list[str] = []  # workers whose names are still in the set

    def snapshot(self, study: str) -> Snapshot | None:
        raw = self._redis.get(self._keys.study(study))
        return None if raw is None else decode_as(Snapshot, raw)

    def studies(self) -> list[str]:
        names = sorted(name.decode() for name in self._redis.smembers(self._keys.studies))
        if not names:
            return []
        found = self._redis.mget([self._keys.study(name) for name in names])
        return [name for name, raw in zip(names, found, strict=True) if raw is not None]

    def workers(self) -> list[WorkerInfo]:
        names = sorted(name.decode() for name in self._redis.smembers(self._keys.workers))
        if not names:
            return []
        found = dict(
            zip(names, self._redis.mget([self._keys.worker(n) for n in names]), strict=True)
        )
        self._gone = [name for name, raw in found.items() if raw is None]
        return list(_readable(WorkerInfo, found).values())

    def leader(self) -> str | None:
        raw = self._redis.get(self._keys.leader)
        return None if raw is None else raw.decode()

    def receive(self, wait: float, at_most: int = AT_MOST) -> list[Command | Event]:
        block = max(1, _milliseconds(wait))
        answer = self._redis.xread(self._seen, count=at_most, block=block)
        messages: list[Command | Event] = []
        for stream, entries in _pairs(answer):
            for entry_id, fields in entries:
                commands = stream.decode() == self._keys.commands
                messages.extend(self._read_entry(commands, entry_id, fields))
            if entries:
                self._seen[stream.decode()] = entries[-1][0].decode()
        return messages

    def acknowledge(self) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            if self._gone:  # by the orchestrator alone: whoever only looks may not write
                pipe.srem(self._keys.workers, *self._gone)
                self._gone = []
            for stream, last in self._seen.items():
                if last != _BEGIN:
                    pipe.xtrim(stream, minid=_next_id(last), approximate=False)
            pipe.execute()

    def dispatch(self, job: Job, pool: str) -> None:
        from justright.brokers.queue import enqueue

        enqueue(self._queue(pool), job, self._sealing())

    def withdraw(self, job: str, pool: str) -> None:
        from justright.brokers.queue import withdraw

        withdraw(self._queue(pool), job)

    def locate(self, jobs: Iterable[str], pool: str) -> dict[str, JobPlace]:
        jobs = list(jobs)
        if not jobs:
            return {}
        waiting = set(self._queue(pool).get_job_ids())
        leases = self._redis.mget([self._keys.lease(job) for job in jobs])
        return {
            job: "queued" if job in waiting else "missing" if lease in _NOBODY else "leased"
            for job, lease in zip(jobs, leases, strict=True)
        }

    def revoke(self, jobs: Iterable[str]) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            for job in jobs:
                pipe.set(self._keys.lease(job), REVOKED, ex=int(VALID["job"]))
            pipe.execute()

    def mark(self) -> bool:
        return not self._redis.set(self._keys.mark, "1", nx=True)

    def decide(self, study: str, decisions: dict[int, Decision]) -> None:
        mapping = {str(trial): decision.encode() for trial, decision in decisions.items()}
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hset(self._keys.decisions(study), mapping=mapping)
            pipe.expire(self._keys.decisions(study), DECISIONS_KEPT)
            pipe.execute()

    def forget(self, study: str) -> None:
        self._redis.delete(self._keys.decisions(study))

    def publish(self, snapshot: Snapshot, keep: float | None = None) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.sadd(self._keys.studies, snapshot.study)
            milliseconds = None if keep is None else _milliseconds(keep)
            pipe.set(self._keys.study(snapshot.study), snapshot.encode(), px=milliseconds)
            pipe.execute()

    def remove(self, study: str) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.srem(self._keys.studies, study)
            pipe.delete(self._keys.study(study), self._keys.decisions(study))
            pipe.execute()

    def lead(self, owner: str, seconds: float) -> bool:
        milliseconds = _milliseconds(seconds)
        held = bool(self._redis.eval(HOLD, 1, self._keys.leader, owner, milliseconds))
        if held and self._signer is not None:
            self._redis.set(self._keys.secret, self._signer.fingerprint, px=milliseconds)
        return held

    def resign(self, owner: str) -> None:
        self._redis.eval(RESIGN, 1, self._keys.leader, owner)

    def exchange(
        self, events: Sequence[Event], study: str = "", trials: Sequence[int] = ()
    ) -> dict[int, Decision]:
        with self._redis.pipeline(transaction=False) as pipe:
            if events:
                pipe.xadd(
                    self._keys.reports, {str(i): event.encode() for i, event in enumerate(events)}
                )
            if trials:
                pipe.hmget(self._keys.decisions(study), [str(trial) for trial in trials])
            answers = pipe.execute()
        found = answers[-1] if trials else []
        return _readable(Decision, dict(zip(trials, found, strict=True)))

    def claim(self, job: str, worker: str, lease: float) -> bool:
        this_time = f"{worker} {secrets.token_hex(_CLAIM_BYTES)}"
        keys = (self._keys.lease(job), self._keys.begun(job))
        milliseconds = _milliseconds(lease)
        kept = int(VALID["job"])  # by then its signature has expired
        return bool(self._redis.eval(CLAIM, 2, *keys, worker, this_time, milliseconds, kept))

    def beat(self, worker: WorkerInfo, lease: float) -> bool:
        milliseconds = _milliseconds(lease)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.sadd(self._keys.workers, worker.name)
            pipe.set(self._keys.worker(worker.name), worker.encode(), px=milliseconds)
            if worker.job is not None:
                pipe.eval(HOLD, 1, self._keys.lease(worker.job), worker.name, milliseconds)
            answers = pipe.execute()
        return worker.job is None or bool(answers[-1])

    def leave(self, worker: WorkerInfo) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.srem(self._keys.workers, worker.name)
            pipe.delete(self._keys.worker(worker.name))
            if worker.job is not None:
                pipe.eval(RESIGN, 1, self._keys.lease(worker.job), worker.name)
            pipe.execute()

    # -- the server itself ------------------------------------------------------------------

    def concerns(self) -> list[str]:
        """What of this Redis' configuration can lose jobs: each with how to mend it."""
        info = self._redis.info()
        found = []
        if info.get("aof_enabled") != 1:
            found.append(
                "Redis keeps no append-only file: its restart loses what is queued and reported, "
                "and running trials go back to their checkpoints. Set appendonly yes."
            )
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if policy != "noeviction":
            found.append(
                f"Redis may drop jobs when its memory is full (maxmemory-policy {policy}). Set "
                "maxmemory-policy noeviction."
            )
        return found

    def _queue(self, pool: str) -> Any:
        from justright.brokers.queue import pool_queue

        if pool not in self._queues:
            self._queues[pool] = pool_queue(pool, self._redis, self._namespace)
        return self._queues[pool]


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _pairs(answer: Any) -> list[tuple[bytes, list[Any]]]:
    """XREAD's answer as pairs: a list under RESP2, a mapping (of lists) under RESP3."""
    if isinstance(answer, dict):
        return [
            (k, v[0] if len(v) == 1 and isinstance(v[0], list) else v) for k, v in answer.items()
        ]
    return answer or []


def _readable(kind: type[M], raws: Mapping[K, bytes | None]) -> dict[K, M]:
    """Those that are there and can be read: in a fleet, some may be of a newer release."""
    found: dict[K, M] = {}
    for key, raw in raws.items():
        if raw is None:
            continue
        try:
            found[key] = decode_as(kind, raw)
        except MessageError as error:
            log.warning("ignored the %s %s: %s", kind.__name__, key, error)
    return found


def _next_id(last: str) -> str:
    milliseconds, sequence = last.split("-")
    return f"{milliseconds}-{int(sequence) + 1}"
