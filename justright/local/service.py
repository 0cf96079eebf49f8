"""One machine, nothing to start: an embedded Redis, an orchestrator and workers for one study."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import redis

from justright import processes
from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from justright.errors import JustrightError, RedisUnavailable
from justright.lifecycle import STUDY_FINISHED
from justright.local.embedded_redis import EmbeddedRedis
from justright.local.study_folder import LocalStudy
from justright.messages import Snapshot
from justright.settings import Settings
from justright.signing import Signer
from justright.spec import StudySpec, TaskRef

_GIB = 2**30  # bytes
_LAST_WORDS = 5.0  # seconds beyond its grace that a worker is waited for


class LocalService:
    """Everything that one study needs, as processes of ours that end with us."""

    def __init__(self, study: LocalStudy, settings: Settings) -> None:
        self._study, self._settings = study, settings
        self._started: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        # Socket paths have a limit of about 100 bytes; a state folder may be deeper than that.
        self._socket_folder = Path(tempfile.mkdtemp(prefix="justright-"))
        self._redis = EmbeddedRedis(self._socket_folder, study.folder)

    def start(self, gpus: Sequence[str], workers: int | None, spec: StudySpec) -> None:
        """Start Redis, then the orchestrator and the workers, all in one pool, side by side."""
        self._started.append(("redis", self._redis.start(), self._redis.log))
        self._redis.await_answer(self.check)
        environment = os.environ | {
            "JUSTRIGHT_REDIS_URL": self._redis.url,
            "JUSTRIGHT_STORAGE": str(self._study.journal),
            "JUSTRIGHT_SECRET": self._study.secret(),
            # Always here: a study of tune is one folder, whatever a service uses.
            "JUSTRIGHT_ARTIFACTS": str(self._study.artifacts),
        }
        base = [sys.executable, "-P", "-m", "justright"]
        serve = [*base, "worker", "--allow-commands", "--pool", spec.pool]
        for place in _homes(spec.task):
            serve += ["--tasks", place]
        for label, options in _worker_options(gpus, workers):
            self._launch(label, [*serve, *options], environment)
        self._launch("orchestrator", [*base, "orchestrator"], environment)
        self._study.show_connection(self._redis.url)

    def broker(self) -> RedisBroker:
        """A client's view of it."""
        return RedisBroker(connect(self._redis.url, patient=False), Signer(self._study.secret()))

    def check(self) -> None:
        """See that all still run.

        Raises:
            JustrightError: one has ended; the end of its log says why.
        """
        for label, process, log in self._started:
            if process.poll() is not None:
                raise JustrightError(
                    f"the {label} ended with exit code {process.returncode}:\n"
                    f"{processes.last_lines(log)}"
                )

    def stop(self) -> Snapshot | None:
        """End all: workers hand back what they have, the orchestrator notes it, Redis goes last.

        Returns the study as the orchestrator left it, or None where it never showed it.
        """
        for kind in ("worker", "orchestrator"):
            self._stop(kind)
        try:
            last = self.broker().snapshot(self._study.name) if self._redis.url else None
        except (RedisUnavailable, redis.RedisError):
            last = None  # it was Redis that ended
        self._stop("redis")
        if last is not None and last.state in STUDY_FINISHED:
            shutil.rmtree(self._study.artifacts, ignore_errors=True)  # nothing goes on from there
        self._study.show_connection(None)
        shutil.rmtree(self._socket_folder, ignore_errors=True)
        return last

    def _stop(self, kind: str) -> None:
        patience = self._settings.grace + _LAST_WORDS
        processes.stop([p for label, p, _ in self._started if label.startswith(kind)], patience)

    def _launch(self, label: str, command: list[str], environment: dict[str, str]) -> None:
        log = self._study.folder / f"{label.replace(' ', '-')}.log"
        process = processes.start(command, log=log, environment=environment)
        self._started.append((label, process, log))


def _homes(task: TaskRef) -> list[str]:
    """What its workers are to be allowed to run: the folder or package of the task."""
    if task.target is None:
        return ["."]
    place = task.target.rpartition(":")[0]
    if place.endswith(".py"):
        return [str(Path(place).parent)]
    return [place.partition(".")[0], *([task.folder] if task.folder else [])]


def _worker_options(gpus: Sequence[str], workers: int | None) -> list[tuple[str, list[str]]]:
    """The workers of this machine: one a GPU; on the CPU one. They share cores and memory."""
    count = workers or max(1, len(gpus))
    memory = ["--memory", f"{processes.memory_for_each(count) / _GIB:.3f}"]
    if gpus:
        chosen = [gpus[i % len(gpus)] for i in range(count)]
        return [(f"worker {i}", ["--gpus", gpu, *memory]) for i, gpu in enumerate(chosen)]
    threads = max(1, (os.cpu_count() or 1) // count)
    options = ["--gpus", "none", "--threads", str(threads), *memory]
    return [(f"worker {i}", options) for i in range(count)]
