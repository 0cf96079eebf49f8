"""The service in real processes: orchestrator, two workers, a client, and the dashboards."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.commands import EXAMPLES, justright, serving
from tests.servers import free_port

DIGITS = f"{EXAMPLES / 'digits.py'}:Digits"


def run_study(tmp_path: Path, env: dict[str, str]) -> dict[str, Any]:
    """Orchestrator, two workers and ``submit --wait``, as four processes."""
    with ExitStack() as stack:
        stack.enter_context(serving("orchestrator", log=tmp_path / "orchestrator.log", env=env))
        for number in range(2):
            log = tmp_path / f"worker{number}.log"
            stack.enter_context(serving("worker", "--threads", "1", log=log, env=env))
        done = justright(
            "submit", DIGITS, "--trials", "12", "--epochs", "6", "--pruner", "median",
            "--name", "e2e", "--wait", "--json", env=env,
        )  # fmt: skip
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
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
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
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


def test_a_fleet_answers_on_postgresql(tmp_path: Path, clean_redis: str, postgres_url: str) -> None:
    env = {"JUSTRIGHT_REDIS_URL": clean_redis, "JUSTRIGHT_STORAGE": postgres_url}
    answer = run_study(tmp_path, env)
    storage = optuna.storages.RDBStorage(postgres_url)
    check_ledger(optuna.load_study(study_name="e2e", storage=storage), answer)
    password = postgres_url.split(":")[2].split("@")[0]
    assert all(password not in path.read_text() for path in tmp_path.glob("*.log"))
