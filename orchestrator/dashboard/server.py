"""optuna-dashboard on the study storage: bound to loopback, and read-only unless asked."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import json
import socketserver
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.storages import BaseStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from justright.errors import JustrightError, StorageError, UsageError
from justright.settings import JOURNAL, STUDIES, Settings
from orchestrator.storage.journal import GroupCommitJournal
from orchestrator.storage.ledger import open_database, replayed
from orchestrator.storage.notes import renumbered

_DELETE_STUDY = 1  # an operation of Optuna's journal
_READING = {"GET", "HEAD", "OPTIONS"}

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class JoinedJournals(BaseJournalBackend):
    """All journals of this machine as one, read-only and live: the service's and those of tune.

    Each journal numbers its studies and trials from 0; here they are numbered through.
    """

    def __init__(self, find: Callable[[], list[Path]]) -> None:
        self._find = find
        self._journals: dict[Path, _Reader] = {}
        self._logs: list[dict[str, Any]] = []
        self._names: set[str] = set()
        self._studies = self._trials = 0

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise StorageError("several journals are shown as one: nothing can be written to them")

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        for path in self._find():
            reader = self._journals.setdefault(path, _Reader(path))
            if reader.replaced():
                self._forget(reader)
                reader = self._journals[path] = _Reader(path)
            for entry in reader.new_entries():
                changed = self._renumbered(entry, reader)
                if changed is not None:
                    self._logs.append(changed)
        return self._logs[log_number_from:]

    def _forget(self, reader: _Reader) -> None:
        """Drop the studies of a journal that is no more."""
        for number in reader.names:
            study = reader.studies[number]
            self._logs.append({"op_code": _DELETE_STUDY, "worker_id": "", "study_id": study})
            self._names.discard(reader.names[number])

    def _renumbered(self, entry: dict[str, Any], reader: _Reader) -> dict[str, Any] | None:
        """The entry with our numbers; None: Optuna skips it as well, when it reads the journal."""
        if "study_name" in entry:
            return self._created(entry, reader)
        changed = dict(entry)
        study = entry.get("study_id")
        if study is not None:
            if study not in reader.names:
                return None
            changed["study_id"] = reader.studies[study]
        if "system_attr" in entry:
            changed["system_attr"] = renumbered(entry["system_attr"], reader.trials)
        if "trial_id" in entry:
            if entry["trial_id"] >= len(reader.trials):
                return None
            changed["trial_id"] = reader.trials[entry["trial_id"]]
        elif "datetime_start" in entry and study is not None:
            reader.trials.append(self._trials)
            self._trials += 1
        if study is not None and entry["op_code"] == _DELETE_STUDY:
            self._names.discard(reader.names.pop(study))
            del reader.own[study]
        return changed

    def _created(self, entry: dict[str, Any], reader: _Reader) -> dict[str, Any] | None:
        name = entry["study_name"]
        if name in reader.own.values():
            return None
        number = len(reader.studies)
        reader.own[number] = name
        while name in self._names:
            name += "'"
        self._names.add(name)
        reader.names[number] = name
        reader.studies.append(self._studies)
        self._studies += 1
        return entry | {"study_name": name}


class _Reader:
    """Reads one journal as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self._first = b""  # its first line, which has an id of its writer
        self.studies: list[int] = []  #: its number of a study -> ours
        self.trials: list[int] = []
        self.own: dict[int, str] = {}  #: its number of a study that is there -> its name
        self.names: dict[int, str] = {}  #: the same, as we show it

    def replaced(self) -> bool:
        """Whether this is another file by now: the study was discarded and begun anew."""
        with open(self._path, "rb") as file:
            return bool(self._first) and file.read(len(self._first)) != self._first

    def new_entries(self) -> list[dict[str, Any]]:
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        if not self._offset:
            self._first = whole.partition(b"\n")[0]
        self._offset += len(whole) + len(newline)
        return [json.loads(line) for line in whole.splitlines()]


def open_for_reading(settings: Settings) -> BaseStorage:
    """The storage that the settings name or, by default, all journals of the state folder.

    Raises:
        StorageError: it is not there, or it refused.
    """
    if settings.storage is None:
        joined = JoinedJournals(lambda: _local_journals(settings.state))
        return replayed(joined, f"in {settings.state}")
    place = settings.storage_place
    if "://" in place:
        return open_database(place)
    return replayed(JournalFileBackend(str(_existing(place))), place)


def _local_journals(state: Path) -> list[Path]:
    found = [state / JOURNAL, *sorted((state / STUDIES).glob(f"*/{JOURNAL}"))]
    return [path for path in found if path.is_file()]


def open_for_writing(settings: Settings) -> BaseStorage:
    """The storage, for ``--write``. A journal has one writer: then no orchestrator may run.

    Raises:
        UsageError: there are several journals, and the settings do not say which.
        StorageError: there is none, or it refused.
    """
    place = settings.storage_place
    if "://" in place:
        return open_database(place)
    if settings.storage is None:
        journals = [str(path) for path in _local_journals(settings.state)]
        if len(journals) > 1:
            raise UsageError(
                "--write changes one journal: say which in JUSTRIGHT_STORAGE. There are: "
                f"{', '.join(journals)}."
            )
        place = journals[0] if journals else place
    return replayed(_CommitsEach(_existing(place)), place)


def _existing(journal: str) -> Path:
    path = Path(journal).expanduser()
    if not path.is_file():
        raise StorageError(f"there is no study journal {path} yet. Run a study first.")
    return path


class _CommitsEach(GroupCommitJournal):
    """A journal for a writer that is in no hurry."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        super().append_logs(logs)
        self.commit()


def read_only(app: Application) -> Application:
    """The same application, refusing everything that might change something."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in _READING:
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [b'{"reason": "read-only: start justright dashboard with --write to change"}']

    return guarded


def asks_for(password: str, app: Application) -> Application:
    """The same application behind HTTP's own (basic) authentication; the user's name is free."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        kind, _, given = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
        try:
            found = base64.b64decode(given, validate=True).partition(b":")[2]
        except ValueError:
            found = b""
        if kind.lower() == "basic" and hmac.compare_digest(found, password.encode()):
            return app(environ, start_response)
        headers = [("WWW-Authenticate", 'Basic realm="justright"'), ("Content-Type", "text/plain")]
        start_response("401 Unauthorized", headers)
        return [b"a password is needed: JUSTRIGHT_DASHBOARD_PASSWORD of whoever started this\n"]

    return guarded


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        return None


def run_dashboard(settings: Settings, *, host: str, port: int, write: bool) -> None:
    """Serve until interrupted: on the loopback address, or with a password on another.

    Raises:
        JustrightError: optuna-dashboard is not installed, or the port is taken.
        StorageError: the storage refused.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port: found {port}, expected a port: 0 to 65535")
    password = settings.dashboard_password
    if password is None and not is_loopback(host):
        raise UsageError(
            f"--host {host}: others may reach it, and optuna-dashboard has no login. Set "
            "JUSTRIGHT_DASHBOARD_PASSWORD, or leave it on 127.0.0.1 and use ssh -L."
        )
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise JustrightError(
            "optuna-dashboard is not installed: pip install 'justright[dashboard]'."
        ) from None
    app: Application = (
        wsgi(open_for_writing(settings)) if write else read_only(wsgi(open_for_reading(settings)))
    )
    if password is not None:
        app = asks_for(password.get_secret_value(), app)
    try:
        server = make_server(host, port, app, server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise UsageError(
            f"--port: cannot listen on {host}:{port} ({error.strerror}); choose another."
        ) from None
    mode = "may write" if write else "read-only"
    print(f"dashboard ({mode}): http://{host}:{server.server_port}/dashboard", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
