"""An Optuna journal with one writer: reads from memory, one write and fsync for a whole batch.

The file is Optuna's own format (a line of JSON for each operation): stock ``optuna-dashboard`` and
``JournalFileBackend`` open it while we write.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from justright.errors import StorageBusy, StorageError

_ENTRY = b'{"op_code":'  # how every entry begins, ours and Optuna's own


class GroupCommitJournal(BaseJournalBackend):
    """Appends wait in memory until ``commit``; what is not committed never happened on disk.

    The file is locked for as long as this object lives, so a second writer is refused at once
    rather than found out later.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the journal at ``path``.

        Raises:
            StorageError: it cannot be opened, another process writes it, or it is not a journal.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115  held while we live
        except OSError as error:
            raise StorageError(
                f"cannot write the study journal {path}: {error.strerror}. Give another place in "
                "JUSTRIGHT_STORAGE."
            ) from None
        try:
            self._lock()
            self._logs = self._load()
        except StorageError:
            self._file.close()
            raise
        self._dropped = 0  # operations that are no longer in ``_logs``
        self._committed = self._file.seek(0, os.SEEK_END)
        self._waiting: list[bytes] = []
        self._broken: StorageError | None = None

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StorageBusy(
                f"another process writes the study journal {self._path}. A journal has one "
                "writer: stop the other orchestrator or tune, or use another JUSTRIGHT_STORAGE."
            ) from None

    def _load(self) -> list[dict[str, Any]]:
        content = self._path.read_bytes()
        whole, newline, torn = content.rpartition(b"\n")
        logs: list[dict[str, Any]] = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                logs.append(entry | {"op_code": int(entry["op_code"])})
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                raise self._no_journal(number) from None
        if torn:
            # The last write did not end: it was never acknowledged, so nothing relies on it. But
            # what could not have become an entry is somebody's own, and is not ours to cut off.
            if not (torn.startswith(_ENTRY) or _ENTRY.startswith(torn)):
                raise self._no_journal(len(logs) + 1)
            os.truncate(self._path, len(whole) + len(newline))
        return logs

    def _no_journal(self, line: int) -> StorageError:
        return StorageError(
            f"line {line} of {self._path} is not an entry of an Optuna journal. Is it the right "
            "file? If it is damaged, move it away and keep a copy."
        )

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Accept operations; they are on disk after the next ``commit``."""
        for entry in logs:
            line = json.dumps(entry, separators=(",", ":"))
            self._waiting.append(line.encode() + b"\n")
            # What a reader of the file would see: enumerations as numbers, tuples as lists.
            self._logs.append(json.loads(line))

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """All operations from that number on, committed or not.

        What lies before is dropped: its one reader, the storage, has taken it up.
        """
        del self._logs[: max(0, log_number_from - self._dropped)]
        self._dropped = max(self._dropped, log_number_from)
        return list(self._logs)

    def commit(self) -> None:
        """Write what waits and make it durable.

        Raises:
            StorageError: the disk refused, or somebody else wrote to the file.
        """
        if self._broken is not None:
            raise self._broken
        if not self._waiting:
            return
        try:
            self._write(b"".join(self._waiting))
        except StorageError as error:
            self._broken = error
            raise
        self._waiting.clear()

    def _write(self, batch: bytes) -> None:
        if os.fstat(self._file.fileno()).st_size != self._committed:
            raise StorageError(
                f"another program wrote to the study journal {self._path} while the orchestrator "
                "runs. Open the dashboard with `justright dashboard`, which only reads."
            )
        try:
            rest = memoryview(batch)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._committed)
            raise StorageError(
                f"cannot write the study journal {self._path}: {error.strerror}. Make room, then "
                "start the orchestrator again; it goes on where it stopped."
            ) from None
        self._committed += len(batch)

    def close(self) -> None:
        """Commit, if nothing has gone wrong before, and give the lock back."""
        try:
            if self._broken is None:
                self.commit()
        finally:
            self._file.close()
