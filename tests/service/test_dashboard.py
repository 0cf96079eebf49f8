"""The real optuna-dashboard over HTTP, started as a user does, on journals of ours."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution

from justright.errors import StorageError
from orchestrator.storage.ledger import open_ledger
from tests.helpers.commands import justright, serving
from tests.helpers.servers import free_port

SPACE: dict[str, BaseDistribution] = {"lr": FloatDistribution(1e-6, 10.0, log=True)}


def train(study: optuna.Study, loss: float) -> None:
    """One trial of two epochs that ends with this loss."""
    trial = study.ask(SPACE)
    trial.report(loss + 1, 1)
    trial.report(loss, 2)
    study.tell(trial, loss)


class Dashboard:
    """A client of a dashboard that was just started."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and body; waits until the server listens."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}{path}", data, method=method)
        request.add_header("Content-Type", "application/json")
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request) as response:
                    return response.status, response.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()
            except urllib.error.URLError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def get(self, path: str) -> Any:
        status, body = self.send("GET", path)
        assert status == 200, body
        return json.loads(body)

    def studies(self) -> dict[str, list[Any]]:
        """Losses of the trials of every study, by its name."""
        found = {}
        for summary in self.get("/api/studies")["study_summaries"]:
            trials = self.get(f"/api/studies/{summary['study_id']}")["trials"]
            assert [trial["number"] for trial in trials] == list(range(len(trials)))
            found[summary["study_name"]] = [trial["values"][0] for trial in trials]
        return found


@contextlib.contextmanager
def dashboard(folder: Path, *options: str, **env: Path) -> Iterator[Dashboard]:
    port, log = free_port(), folder / "dashboard.txt"
    settings = {f"JUSTRIGHT_{name.upper()}": str(value) for name, value in env.items()}
    with serving("dashboard", "--port", str(port), *options, log=log, env=settings) as process:
        client = Dashboard(port)
        client.send("GET", "/api/meta")
        yield client
        assert process.poll() is None
    assert f"http://127.0.0.1:{port}/dashboard" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_read_only_refuses_every_change(tmp_path: Path) -> None:
    place = tmp_path / "journal.log"
    ledger = open_ledger(str(place))
    study = ledger.create("mine", {})
    train(study, 0.5)
    study.ask(SPACE)
    ledger.commit()  # the orchestrator goes on running: its lock is no hindrance to readers
    before = place.read_bytes()
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/api/studies", {"study_name": "new", "directions": ["minimize"]}),
        ("POST", "/api/studies/0/rename", {"study_name": "yours"}),
        ("POST", "/api/trials/1/tell", {"state": "Complete", "values": [0.0]}),
        ("POST", "/api/trials/1/user-attrs", {"user_attrs": {"state": "complete"}}),
        ("PUT", "/api/studies/0/note", {"body": "changed", "version": 1}),
        ("PUT", "/api/studies/0/0/note", {"body": "changed", "version": 1}),
        ("PATCH", "/api/studies/0", {}),
        ("DELETE", "/api/studies/0", {}),
        ("delete", "/api/studies/0", {}),
    ]
    with dashboard(tmp_path, storage=place) as client:
        detail = client.get("/api/studies/0")
        for method, path, body in requests:
            status, said = client.send(method, path, body)
            assert (method, path, status) == (method, path, 403)
            assert "--write" in json.loads(said)["reason"]
        assert client.send("HEAD", "/dashboard")[0] == 200
        assert client.get("/api/studies/0") == detail
        assert [trial["state"] for trial in detail["trials"]] == ["Complete", "Running"]
    assert place.read_bytes() == before
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files == {"journal.log", "dashboard.txt"}


def test_all_journals_of_this_machine_are_shown_while_one_grows(tmp_path: Path) -> None:
    state = tmp_path / "state"
    service = open_ledger(str(state / "journal.log"))
    for name, losses in (("first", [0.1]), ("second", [0.2, 0.3])):
        study = service.create(name, {})
        for loss in losses:
            train(study, loss)
    service.commit()
    tune = open_ledger(str(state / "studies" / "digits" / "journal.log"))
    digits = tune.create("digits", {})
    train(digits, 0.4)
    tune.commit()
    expected = {"first": [0.1], "second": [0.2, 0.3], "digits": [0.4]}
    with dashboard(tmp_path, state=state) as client:
        assert client.studies() == expected
        train(digits, 0.5)
        tune.commit()
        train(service.create("third", {}), 0.6)
        later = open_ledger(str(state / "studies" / "later" / "journal.log"))
        train(later.create("first", {}), 0.8)  # a name that the service has used, too
        service.commit()
        later.commit()
        expected = {**expected, "digits": [0.4, 0.5], "third": [0.6], "first'": [0.8]}
        deadline = time.monotonic() + 30  # optuna-dashboard keeps trials for 2 seconds
        while client.studies() != expected and time.monotonic() < deadline:
            time.sleep(0.2)
        assert client.studies() == expected
        status, said = client.send("PUT", "/api/studies/0/note", {"body": "x", "version": 1})
        assert status == 403, said


def test_write_lets_a_note_be_changed_and_keeps_orchestrators_away(tmp_path: Path) -> None:
    place = tmp_path / "journal.log"
    ledger = open_ledger(str(place))
    ledger.create("mine", {})
    ledger.close()
    with dashboard(tmp_path, "--write", storage=place) as client:
        version = client.get("/api/studies/0")["note"]["version"]
        body = {"body": "**mine**", "version": version + 1}
        assert client.send("PUT", "/api/studies/0/note", body)[0] == 204
        assert client.get("/api/studies/0")["note"]["body"] == "**mine**"
        with pytest.raises(StorageError, match="another process writes"):
            open_ledger(str(place))
    attributes = open_ledger(str(place)).storage.get_study_system_attrs(0)
    assert attributes["dashboard:note_str:0"] == "**mine**"


def test_write_is_refused_while_an_orchestrator_writes(tmp_path: Path) -> None:
    place = tmp_path / "journal.log"
    ledger = open_ledger(str(place))
    command = ["dashboard", "--port", str(free_port()), "--write"]
    done = justright(*command, env={"JUSTRIGHT_STORAGE": str(place)})
    assert done.returncode == 1
    assert "another process writes" in done.stderr
    assert "Traceback" not in done.stderr
    ledger.close()


def test_a_storage_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    place = tmp_path / "none" / "journal.log"
    env = {"JUSTRIGHT_STORAGE": str(place)}
    done = justright("dashboard", "--port", str(free_port()), env=env)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"there is no study journal {place} yet" in done.stderr
    assert "Traceback" not in done.stderr
    assert not place.parent.exists()


def test_write_says_which_journals_there_are(tmp_path: Path) -> None:
    state = tmp_path / "state"
    command = ["dashboard", "--port", str(free_port()), "--write"]
    none = justright(*command)
    assert none.returncode == 1
    assert "there is no study journal" in none.stderr
    assert not state.exists(), "nothing is made in order to be shown"
    places = [state / "studies" / name / "journal.log" for name in ("one", "two")]
    for place in places:
        open_ledger(str(place)).close()
    several = justright(*command)
    assert several.returncode == 2
    assert "JUSTRIGHT_STORAGE" in several.stderr
    assert all(str(place) in several.stderr for place in places)
