"""A whole service as real processes: Redis, orchestrators, workers, a proxy before each kind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from justright.lifecycle import StudyState
from justright.local.embedded_redis import redis_server
from justright.messages import Submit
from justright.spec import StudySpec, TaskRef
from tests.chaos.proxy import Proxy
from tests.helpers.commands import SECRET, SIGNER
from tests.helpers.servers import free_port

RANGE = (1e-3, 1e3)  #: Rates that a study searches.
LEASE = 2.0  # seconds; what takes 15 s by default takes 3 here
ROOT = Path(__file__).resolve().parent.parent.parent
_PATIENCE = 60.0


@dataclass
class Part:
    """One process of the service, started again whenever it has ended."""

    name: str
    command: list[str]
    port: int
    process: subprocess.Popen[bytes] | None = None
    stopped: bool = False

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid


class Fleet:
    """Starts it, keeps it at work, ends it."""

    def __init__(
        self, folder: Path, workers: int = 2, orchestrators: int = 2, lease: float = LEASE
    ) -> None:
        self.folder, self._lease = folder, lease
        self.journal = folder / "journal.log"
        self.artifacts = folder / "artifacts"
        self.tasks = folder / "tasks"  #: Files of tasks that a round may edit.
        #: Studies beside the one that a round is about, and how each may end.
        self.neighbours: dict[str, frozenset[StudyState]] = {}
        self._port = free_port()
        self._redis: subprocess.Popen[bytes] | None = None
        self.start_redis()
        self.proxies = {"worker": Proxy(self._port), "orchestrator": Proxy(self._port)}
        python = [sys.executable, "-P", "-m", "justright"]
        self.tasks.mkdir()
        tasks = [f"--tasks={folder}" for folder in (ROOT / "tests" / "chaos", self.tasks)]
        work = [*python, "worker", "--gpus", "none", "--threads", "1", *tasks]
        self.workers = [
            Part(f"worker{i}", work, self.proxies["worker"].port) for i in range(workers)
        ]
        self.orchestrators = [
            Part(f"orchestrator{i}", [*python, "orchestrator"], self.proxies["orchestrator"].port)
            for i in range(orchestrators)
        ]
        self.revive()

    @property
    def parts(self) -> list[Part]:
        return [*self.workers, *self.orchestrators]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def broker(self) -> RedisBroker:
        return RedisBroker(connect(self.url, patient=True), SIGNER)

    def submit(self, name: str, target: str, **options: Any) -> None:
        """Ask for a study, and wait until it has trials."""
        spec = StudySpec(name=name, task=TaskRef(target=target), lr=RANGE, **options)
        self.broker.send(Submit(id=name, spec=spec))
        deadline = time.monotonic() + _PATIENCE
        while (snapshot := self.broker.snapshot(name)) is None or not snapshot.trials:
            assert time.monotonic() < deadline, f"{name} is not begun: see {self.folder}"
            time.sleep(0.1)

    def environment(self, port: int) -> dict[str, str]:
        return os.environ | {
            "JUSTRIGHT_REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "JUSTRIGHT_STORAGE": str(self.journal),
            "JUSTRIGHT_STATE": str(self.folder / "state"),
            "JUSTRIGHT_SECRET": SECRET,
            "JUSTRIGHT_ARTIFACTS": str(self.artifacts),
            "JUSTRIGHT_LEASE": str(self._lease),
            "JUSTRIGHT_ATTEMPTS": "1000",
            "JUSTRIGHT_CHECKPOINT": "0.2",
            "JUSTRIGHT_GRACE": "5",
        }

    # -- Redis ------------------------------------------------------------------------------

    def start_redis(self) -> None:
        data = self.folder / "redis"
        data.mkdir(exist_ok=True)
        lines = [
            f"port {self._port}", "bind 127.0.0.1", f'dir "{data}"', 'save ""',
            "appendonly yes", "appendfsync everysec",
        ]  # fmt: skip
        self._redis = subprocess.Popen(
            [redis_server(), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert self._redis.stdin is not None
        self._redis.stdin.write("\n".join(lines).encode())
        self._redis.stdin.close()
        client = redis.Redis.from_url(self.url)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                client.ping()
                return
            except redis.RedisError:
                assert time.monotonic() < deadline, "Redis does not start"
                time.sleep(0.02)

    def kill_redis(self, *, lose: bool = False) -> None:
        assert self._redis is not None
        self._redis.kill()
        self._redis.wait()
        if lose:
            shutil.rmtree(self.folder / "redis")

    # -- the other parts ----------------------------------------------------------------------

    def revive(self) -> None:
        """Start what has ended; what is stopped goes on."""
        for part in self.parts:
            if part.stopped:
                part.stopped = False
                os.kill(part.pid, signal.SIGCONT)
            if part.process is None or part.process.poll() is not None:
                with open(self.folder / f"{part.name}.log", "ab") as log:
                    part.process = subprocess.Popen(
                        part.command, env=self.environment(part.port), cwd=self.folder,
                        stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    )  # fmt: skip

    def stop(self, part: Part) -> None:
        """SIGSTOP, as a machine that swaps or a debugger does; ``revive`` lets it go on."""
        part.stopped = True
        os.kill(part.pid, signal.SIGSTOP)

    def child_of(self, worker: Part) -> int | None:
        """The training process of a worker, if there is one at the moment."""
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def close(self) -> None:
        for part in self.parts:
            if part.stopped:
                os.kill(part.pid, signal.SIGCONT)
            if part.process is not None and part.process.poll() is None:
                part.process.terminate()
        for part in self.parts:
            if part.process is not None:
                try:
                    part.process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    part.process.kill()
                    part.process.wait()
        for proxy in self.proxies.values():
            proxy.close()
        self.kill_redis()
