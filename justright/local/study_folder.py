"""The folder of a study that ``tune`` runs, and all such folders."""

from __future__ import annotations

import fcntl
import secrets
import shutil
from pathlib import Path
from typing import IO

from justright.errors import JustrightError, UsageError
from justright.messages import Snapshot, decode_as
from justright.settings import ARTIFACTS, JOURNAL, STUDIES, Settings

_ASKED = b'{"op_code":4,'  # how Optuna's journal records a new trial
_SECRET_BYTES = 32


class LocalStudy:
    """The folder of a study that ``tune`` runs: journal, Redis data, logs, last snapshot."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.name = name
        self.folder = settings.state / STUDIES / name
        self.journal = self.folder / JOURNAL
        self.artifacts = self.folder / ARTIFACTS
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
        try:
            return decode_as(Snapshot, self._snapshot.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def show_connection(self, url: str | None) -> None:
        """Let this user's other commands find the running Redis (None: it runs no more)."""
        if url is None:
            self._connection.unlink(missing_ok=True)
            return
        self._connection.touch(mode=0o600)
        self._connection.write_text(url)

    def connection(self) -> str | None:
        """The URL of the Redis of a running ``tune``, if there is one."""
        try:
            return self._connection.read_text()
        except (FileNotFoundError, NotADirectoryError):  # none, or its tune has just ended
            return None

    def secret(self) -> str:
        """What signs the jobs of this study; kept with it, for what is queued is, too."""
        path = self.folder / "secret"
        if not path.is_file():
            beside = path.with_suffix(".new")
            beside.touch(mode=0o600)
            beside.write_text(secrets.token_hex(_SECRET_BYTES))
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
    folder = settings.state / STUDIES
    if not folder.is_dir():
        return []
    # One that ends without any trial is removed, perhaps while we look.
    stamps = {path: _stamp(path / JOURNAL) for path in folder.iterdir()}
    found = sorted((stamp, path.name) for path, stamp in stamps.items() if stamp is not None)
    return [LocalStudy(settings, name) for _, name in found]


def _stamp(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
