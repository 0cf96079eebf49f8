"""The dashboard's password, over HTTP, on a real ``justright dashboard``."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest

from orchestrator.storage.ledger import open_ledger
from tests.helpers.commands import await_true, justright, serving
from tests.helpers.servers import free_port

PASSWORD = "for those who: may look"  # a colon may be in it, though it parts it from the name


class Asked:
    """An answer: its status, headers (names in lower case) and body."""

    def __init__(self, port: int, method: str, path: str, authorization: str | None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"Content-Type": "application/json"}
        if authorization is not None:
            headers["Authorization"] = authorization
        try:
            connection.request(method, path, json.dumps({}), headers)
            answer = connection.getresponse()
            self.status, self.body = answer.status, answer.read()
            self.headers = {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()


def basic(password: str, name: str = "me") -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal with one study."""
    place = tmp_path / "journal.log"
    ledger = open_ledger(str(place))
    optuna.create_study(study_name="kept", storage=ledger.storage)
    ledger.commit()
    ledger.close()
    return place


@contextmanager
def dashboard(journal: Path, *options: str, password: str = PASSWORD) -> Iterator[int]:
    """It runs on the loopback address; yields its port."""
    port = free_port()
    env = {"JUSTRIGHT_STORAGE": str(journal), "JUSTRIGHT_DASHBOARD_PASSWORD": password}
    arguments = ("dashboard", "--host", "127.0.0.1", "--port", str(port), *options)
    with serving(*arguments, log=journal.parent / "dashboard.txt", env=env) as process:
        await_true(lambda: process.poll() is not None or listens(port))
        assert process.poll() is None, (journal.parent / "dashboard.txt").read_text()
        yield port
        assert process.poll() is None


def listens(port: int) -> bool:
    try:
        Asked(port, "GET", "/", None)
    except OSError:
        return False
    return True


def studies(port: int) -> list[str]:
    found = json.loads(Asked(port, "GET", "/api/studies", basic(PASSWORD)).body)
    return [summary["study_name"] for summary in found["study_summaries"]]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "somewhere.example"])
def test_without_a_password_others_do_not_reach_it(journal: Path, host: str) -> None:
    port = free_port()
    done = justright(
        "dashboard", "--host", host, "--port", str(port), env={"JUSTRIGHT_STORAGE": str(journal)}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "JUSTRIGHT_DASHBOARD_PASSWORD" in done.stderr
    assert not listens(port)


WRONG = [
    None,
    "",
    "Basic",
    "Basic ",
    "Basic !!!",
    "Basic " + base64.b64encode(PASSWORD.encode()).decode(),  # no name before it
    basic(""),
    basic(PASSWORD[:-1]),
    basic(PASSWORD + "x"),
    basic("wrong"),
    basic("wröng"),
    "Bearer " + base64.b64encode(f"me:{PASSWORD}".encode()).decode(),
    PASSWORD,
]


def test_only_the_right_password_opens_it(journal: Path) -> None:
    with dashboard(journal) as port:
        for path in ("/", "/dashboard", "/api/studies", "/api/meta", "/nothing"):
            for authorization in WRONG:
                asked = Asked(port, "GET", path, authorization)
                assert asked.status == 401, (path, authorization)
                assert asked.headers["www-authenticate"].startswith("Basic realm=")
                assert b"kept" not in asked.body
        for name in ("me", "", "anybody"):
            asked = Asked(port, "GET", "/api/studies", basic(PASSWORD, name))
            assert (asked.status, studies(port)) == (200, ["kept"])
            assert "www-authenticate" not in asked.headers
        assert b"<html" in Asked(port, "GET", "/dashboard", basic(PASSWORD)).body.lower()


def test_with_the_password_it_is_still_read_only(journal: Path) -> None:
    before = journal.read_bytes()
    changes = [
        ("DELETE", "/api/studies/0"),
        ("POST", "/api/studies"),
        ("POST", "/api/studies/0/rename"),
        ("PUT", "/api/studies/0/note"),
        ("PATCH", "/api/studies/0"),
    ]
    with dashboard(journal) as port:
        for method, path in changes:
            assert Asked(port, method, path, None).status == 401
            assert Asked(port, method, path, basic("wrong")).status == 401
            asked = Asked(port, method, path, basic(PASSWORD))
            assert (asked.status, json.loads(asked.body)["reason"][:9]) == (403, "read-only")
        assert studies(port) == ["kept"]
    assert journal.read_bytes() == before


def test_with_write_the_password_is_asked_for_first(journal: Path) -> None:
    with dashboard(journal, "--write") as port:
        for authorization in WRONG:
            assert Asked(port, "DELETE", "/api/studies/0", authorization).status == 401
        assert studies(port) == ["kept"]
        assert Asked(port, "DELETE", "/api/studies/0", basic(PASSWORD)).status == 204
        assert studies(port) == []
