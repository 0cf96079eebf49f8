"""What travels between clients, the orchestrator and workers, as both sides see it.

On Redis (brokers/redis.py), or in one process for tests (brokers/memory.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Literal

from justright.messages import Command, Decision, Event, Job, Reply, Snapshot, WorkerInfo

AT_MOST = 5000  #: Messages that an orchestrator receives at once.

JobPlace = Literal["queued", "leased", "missing"]


class CommandBroker(ABC):
    """What clients ask of the orchestrator, and what they hear of it."""

    @abstractmethod
    def send(self, command: Command) -> None:
        """Hand a command to the orchestrator, now or when there is one."""

    @abstractmethod
    def reply(self, command: str) -> Reply | None:
        """What became of a command, by its id; None: nobody has said so yet."""

    @abstractmethod
    def other_secret(self) -> bool:
        """Whether the active orchestrator has another secret than we."""

    @abstractmethod
    def answer(self, replies: Sequence[Reply]) -> None:
        """Tell clients what became of their commands. For some minutes they can read it."""


class Broker(CommandBroker):
    """What travels between clients, the orchestrator and workers.

    Messages arrive at least once and, from one sender, in order. Nothing that was received is
    forgotten until ``acknowledge``; a receiver that dies before it is given the same again.
    """

    # -- clients ----------------------------------------------------------------------------

    @abstractmethod
    def snapshot(self, study: str) -> Snapshot | None:
        """The study as last published, or None where there is none of that name."""

    @abstractmethod
    def studies(self) -> list[str]:
        """Names of all published studies, sorted."""

    @abstractmethod
    def workers(self) -> list[WorkerInfo]:
        """The workers whose heartbeat has not expired, sorted by name."""

    @abstractmethod
    def leader(self) -> str | None:
        """The active orchestrator, if there is one."""

    # -- orchestrator -----------------------------------------------------------------------

    @abstractmethod
    def receive(self, wait: float, at_most: int = AT_MOST) -> list[Command | Event]:
        """Commands and events not seen before, waiting up to ``wait`` seconds for the first.

        Fewer than ``at_most``: there were no more. What cannot be decoded is logged and left out.
        """

    @abstractmethod
    def acknowledge(self) -> None:
        """Forget all that was received: its effects are committed."""

    @abstractmethod
    def dispatch(self, job: Job, pool: str) -> None:
        """Put a job on the pool's queue."""

    @abstractmethod
    def withdraw(self, job: str, pool: str) -> None:
        """Take a job off the queue if it is still there."""

    @abstractmethod
    def locate(self, jobs: Iterable[str], pool: str) -> dict[str, JobPlace]:
        """Where each job is. ``missing`` may be a job in the moment between queue and lease."""

    @abstractmethod
    def revoke(self, jobs: Iterable[str]) -> None:
        """Take jobs back for good: whoever trains one stops, whoever finds one refuses it."""

    @abstractmethod
    def mark(self) -> bool:
        """Leave a mark; whether it was there already. Without it, this Redis has lost its data."""

    @abstractmethod
    def decide(self, study: str, decisions: dict[int, Decision]) -> None:
        """Tell the workers of some trials what to do at their next report."""

    @abstractmethod
    def forget(self, study: str) -> None:
        """Forget all decisions: there is a new study of that name."""

    @abstractmethod
    def publish(self, snapshot: Snapshot, keep: float | None = None) -> None:
        """Show a study to clients, for ``keep`` seconds (None: until it is published again)."""

    @abstractmethod
    def remove(self, study: str) -> None:
        """Show a study to nobody any more, and forget its decisions."""

    @abstractmethod
    def lead(self, owner: str, seconds: float) -> bool:
        """Become or stay the active orchestrator for ``seconds``; False: another one is."""

    @abstractmethod
    def resign(self, owner: str) -> None:
        """Stop being the active orchestrator, so that a standby takes over at once."""

    # -- workers ----------------------------------------------------------------------------

    @abstractmethod
    def exchange(
        self, events: Sequence[Event], study: str = "", trials: Sequence[int] = ()
    ) -> dict[int, Decision]:
        """Send events and fetch the decisions for ``trials``, in one round trip."""

    @abstractmethod
    def claim(self, job: str, worker: str, lease: float) -> bool:
        """Take the lease of a job; False: it was begun before, or taken back."""

    @abstractmethod
    def beat(self, worker: WorkerInfo, lease: float) -> bool:
        """A heartbeat: the worker lives, and holds the lease of its job, for ``lease`` seconds.

        False: the job was taken back.
        """

    @abstractmethod
    def leave(self, worker: WorkerInfo) -> None:
        """The worker goes, and with it the lease of the job that it has not ended, if any.

        Leases of jobs that it has ended expire by themselves, so that what it reported at their
        end is read before anybody misses them.
        """
