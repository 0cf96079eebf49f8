"""The service in real processes: orchestrator, two workers, a client, and the dashboards."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from tests.helpers.commands import EXAMPLES, SIGNER, await_true, justright, serving
from tests.helpers.servers import Postgres, free_port

DIGITS = f"{EXAMPLES / 'digits.py'}:Digits"
WORKER = ["worker", "--threads", "1", "--tasks", str(EXAMPLES)]


def run_study(tmp_path: Path, env: dict[str, str]) -> dict[str, Any]:
    """Orchestrator, two workers and ``submit --wait``, as four processes."""
    with ExitStack() as stack:
        stack.enter_context(serving("orchestrator", log=tmp_path / "orchestrator.log", env=env))
        for number in range(2):
            log = tmp_path / f"worker{number}.log"
            stack.enter_context(serving(*WORKER, log=log, env=env))
        done = justright(
            "submit", DIGITS, "--trials", "12", "--epochs", "6", "--pruner", "median",
            "--name", "e2e", "--wait", "--json", env=env,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr + logs_in(tmp_path)
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["state"] == "complete"
    assert answer["reason"] == "trials"
    assert 1e-6 <= answer["best_lr"] <= 10
    assert sum(answer["trials"][kind] for kind in ("complete", "pruned", "failed")) == 12
    assert answer["trials"]["failed"] == 0
    assert answer["attempts"] == 12
    return answer


def check_ledger(study: optuna.Study, answer: dict[str, Any]) -> None:
    """The study holds what the answer says, readable by stock Optuna."""
    assert study.user_attrs["answer"] == answer
    assert study.best_value == pytest.approx(answer["loss"])
    assert study.best_params["lr"] == pytest.approx(answer["best_lr"])
    states = [trial.state.name for trial in study.trials]
    assert states.count("PRUNED") == answer["trials"]["pruned"]
    assert all(trial.intermediate_values for trial in study.trials)


def test_a_fleet_answers_on_the_journal(tmp_path: Path, clean_redis: str) -> None:
    journal = tmp_path / "journal.log"
    env = {"JUSTRIGHT_REDIS_URL": clean_redis, "JUSTRIGHT_STORAGE": str(journal)}
    answer = run_study(tmp_path, env)
    backend = JournalFileBackend(str(journal))
    storage = optuna.storages.JournalStorage(backend)
    check_ledger(optuna.load_study(study_name="e2e", storage=storage), answer)

    best = justright("best", "e2e", "--json", env=env)
    assert json.loads(best.stdout) == answer
    port = free_port()
    with serving("dashboard", "--port", str(port), log=tmp_path / "ours", env=env):
        check_dashboard(port, answer)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(
                urllib.request.Request(f"http://127.0.0.1:{port}/api/studies/0", method="DELETE")
            )
    stock_port = free_port()
    stock = subprocess.Popen(
        [Path(sys.executable).parent / "optuna-dashboard", journal, "--port", str(stock_port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        check_dashboard(stock_port, answer)
    finally:
        stock.terminate()
        stock.wait(timeout=20)


def check_dashboard(port: int, answer: dict[str, Any]) -> None:
    """The real optuna-dashboard shows the study, its pruned trials, their losses and the note."""
    base = f"http://127.0.0.1:{port}"
    summary = get_json(f"{base}/api/studies")["study_summaries"][0]
    assert summary["study_name"] == "e2e"
    detail = get_json(f"{base}/api/studies/{summary['study_id']}")
    assert f"{answer['best_lr']:.3g}" in detail["note"]["body"]
    pruned = [trial for trial in detail["trials"] if trial["state"] == "Pruned"]
    assert len(pruned) == answer["trials"]["pruned"]
    assert all(trial["intermediate_values"] for trial in pruned)
    page = urllib.request.urlopen(f"{base}/dashboard").read()
    assert b"<html" in page.lower()


def get_json(url: str) -> Any:
    deadline = time.monotonic() + 60
    while True:
        try:
            return json.load(urllib.request.urlopen(url))
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_a_fleet_answers_on_postgresql(
    tmp_path: Path, clean_redis: str, postgres_server: Postgres
) -> None:
    env = {"JUSTRIGHT_REDIS_URL": clean_redis, "JUSTRIGHT_STORAGE": postgres_server.url}
    answer = run_study(tmp_path, env)
    storage = optuna.storages.RDBStorage(postgres_server.url)
    check_ledger(optuna.load_study(study_name="e2e", storage=storage), answer)
    assert postgres_server.password not in logs_in(tmp_path)


def test_a_database_that_goes_away_and_comes_back(
    tmp_path: Path, clean_redis: str, postgres_server: Postgres
) -> None:
    """The orchestrator waits for it and goes on, with nothing lost and nothing twice."""
    env = {"JUSTRIGHT_REDIS_URL": clean_redis, "JUSTRIGHT_STORAGE": postgres_server.url}
    log = tmp_path / "orchestrator.log"
    with (
        serving("orchestrator", log=log, env=env),
        serving(*WORKER, log=tmp_path / "worker.log", env=env),
        ThreadPoolExecutor(1) as pool,
    ):
        command = [
            "submit", DIGITS, "--trials", "20", "--epochs", "12", "--sampler", "tpe",
            "--name", "e2e",
        ]  # fmt: skip
        future = pool.submit(justright, *command, "--wait", "--json", env=env)
        broker = RedisBroker(connect(clean_redis, patient=False), SIGNER)
        while not future.done():
            seen = broker.snapshot("e2e")
            if seen is not None and len(seen.trials) > 4:
                break
        assert not future.done(), future.result().stderr
        postgres_server.stop()
        while "trying again" not in log.read_text():
            assert not future.done(), future.result().stderr
            time.sleep(0.05)
        postgres_server.start()
        done = future.result()
    assert done.returncode == 0, done.stderr + log.read_text()
    answer = json.loads(done.stdout)
    assert answer["trials"]["complete"] + answer["trials"]["pruned"] == 20
    storage = optuna.storages.RDBStorage(postgres_server.url)
    check_ledger(optuna.load_study(study_name="e2e", storage=storage), answer)
    assert "Traceback" not in log.read_text()
    assert postgres_server.password not in logs_in(tmp_path)


def test_a_standby_outlives_a_leader_that_pauses(tmp_path: Path, clean_redis: str) -> None:
    """The journal is the paused one's; it goes on when it wakes, and the other stands by."""
    env = {
        "JUSTRIGHT_REDIS_URL": clean_redis,
        "JUSTRIGHT_STORAGE": str(tmp_path / "journal.log"),
        "JUSTRIGHT_LEASE": "3",
    }
    broker = RedisBroker(connect(clean_redis, patient=False), SIGNER)
    with serving("orchestrator", log=tmp_path / "first.log", env=env) as first:
        await_true(lambda: broker.leader() is not None)
        with serving("orchestrator", log=tmp_path / "second.log", env=env) as second:
            name = broker.leader()
            first.send_signal(signal.SIGSTOP)
            await_true(lambda: broker.leader() != name)
            # The other leads for as long as it tries the journal: a blink, so look without a pause.
            await_true(lambda: broker.leader() not in (None, name), pause=0.0)
            time.sleep(1.0)  # it leaves the journal alone
            first.send_signal(signal.SIGCONT)
            await_true(lambda: broker.leader() is not None)
            assert second.poll() is None, (tmp_path / "second.log").read_text()
            assert first.poll() is None, (tmp_path / "first.log").read_text()
            with serving(*WORKER, log=tmp_path / "worker.log", env=env):
                done = justright("submit", DIGITS, "--trials", "2", "--wait", "--json", env=env)
    assert done.returncode == 0, done.stderr + logs_in(tmp_path)


def logs_in(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("*.log"))
