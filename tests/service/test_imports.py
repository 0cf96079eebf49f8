"""Who imports whom, and what a command may not pay for: torch and Optuna take seconds to load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from tests.helpers.commands import EXAMPLES, SIGNER, serving
from tests.helpers.servers import free_port

ROOT = Path(__file__).resolve().parents[2]

# -- what is loaded ---------------------------------------------------------------------------

_RUN = """
import atexit, json, sys
from pydantic import SecretStr
from justright import settings
# No command of this test may find a Redis that happens to run on the default address.
settings.Settings.model_fields["redis_url"].default = SecretStr(sys.argv.pop(1))
settings.Settings.model_rebuild(force=True)
loaded = sys.argv.pop(1)
atexit.register(lambda: open(loaded, "w").write(json.dumps(sorted(sys.modules))))
from justright.cli.main import main
main()
"""


def modules_after(
    tmp_path: Path, *arguments: str, env: dict[str, str] | None = None
) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run the command line and say which modules it had loaded when it ended."""
    loaded = tmp_path / "modules.json"
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    done = subprocess.run(
        [sys.executable, "-P", "-c", _RUN, nowhere, str(loaded), *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert loaded.is_file(), done.stderr
    return done, set(json.loads(loaded.read_text()))


@pytest.mark.parametrize(
    ("arguments", "shows"),
    [
        (["--help"], "submit"),
        (["submit", "--help"], "--replicates"),
        (["tune", "--help"], "--workers"),
        (["status"], "no studies yet"),
        (["status", "--json"], "[]"),
    ],
    ids=" ".join,
)
def test_a_light_command_loads_neither_torch_nor_optuna(
    tmp_path: Path, arguments: list[str], shows: str
) -> None:
    done, modules = modules_after(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert shows in done.stdout
    assert "justright.cli.main" in modules
    assert not modules & {"torch", "optuna", "numpy", "orchestrator", "worker"}


def test_submit_loads_neither_torch_nor_optuna(tmp_path: Path, clean_redis: str) -> None:
    done, modules = modules_after(
        tmp_path,
        "submit", f"{EXAMPLES / 'digits.py'}:Digits", "--name", "light", "--json",
        env={"JUSTRIGHT_REDIS_URL": clean_redis},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"study": "light", "state": "submitted"}
    [command] = RedisBroker(connect(clean_redis, patient=False), SIGNER).receive(wait=0.001)
    assert command.type == "submit"
    assert not modules & {"torch", "optuna", "numpy", "orchestrator", "worker"}


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "module", ["worker.main", "worker.parent.rq_worker", "worker.child", "justright.local.service"]
)
def test_importing_the_parents_does_not_import_torch(module: str) -> None:
    modules = loaded_by(f"import {module}")
    assert module in modules
    assert not modules & {"torch", "numpy", "optuna"}


def test_a_serving_workers_parent_has_no_torch(tmp_path: Path, clean_redis: str) -> None:
    """The same of a real one: its child has torch mapped, it has not."""
    env = {"JUSTRIGHT_REDIS_URL": clean_redis}
    broker = RedisBroker(connect(clean_redis, patient=False), SIGNER)
    log = tmp_path / "worker.log"
    with serving("worker", "--gpus", "none", log=log, env=env) as parent:
        deadline = time.monotonic() + 120
        while "serves pool" not in log.read_text():  # after the child has loaded torch
            assert parent.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        [worker] = broker.workers()
        assert worker.pid == parent.pid
        [child] = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert "libtorch" in Path(f"/proc/{child}/maps").read_text()
        assert "libtorch" not in Path(f"/proc/{parent.pid}/maps").read_text()
    assert broker.workers() == []


_SEARCH = """
from pathlib import Path
import orchestrator.main
from justright.brokers.memory import MemoryBroker
from justright.messages import Inspection, InspectJob, Outcome, OutcomeKind, Report, Submit
from justright.messages import TrainJob, WorkerInfo
from justright.settings import load_settings
from justright.spec import make_spec
from orchestrator.storage.ledger import open_ledger
from orchestrator.reconcile import Reconciler

broker = MemoryBroker()
books = open_ledger("{journal}")
reconciler = Reconciler(broker, books, load_settings())
spec = make_spec(dict(name="light", task=dict(target="/x.py:T"), trials=14, sampler="{sampler}"))
broker.send(Submit(id="1", spec=spec))
broker.beat(WorkerInfo(name="w", pool="default", host="h", pid=1, device="cpu"), lease=1e9)
for _ in range(100):
    reconciler.turn(wait=0.0)
    job = broker.take("default", "w", lease=1e9)
    if job is None:
        break
    if isinstance(job, InspectJob):
        broker.exchange([Inspection(study="light", job=job.id, epochs=3, initial_loss=2.0)])
    if not isinstance(job, TrainJob):
        continue
    for work in job.trials:
        ids = dict(study="light", trial=work.number, attempt=work.attempt)
        last = job.until or 3
        steps = range(1, last + 1)
        reports = [Report(step=step, loss=work.lr + 1 / step, **ids) for step in steps]
        kind = OutcomeKind.COMPLETE if last == 3 else OutcomeKind.PAUSED
        broker.exchange([*reports, Outcome(kind=kind, step=last, **ids)])
books.close()
snapshot = broker.snapshot("light")
assert snapshot.state == "complete", snapshot
assert len(snapshot.trials) == 14 or "{sampler}" == "auto"
"""


@pytest.mark.parametrize("sampler", ["auto", "tpe"])
def test_the_orchestrator_searches_without_torch(tmp_path: Path, sampler: str) -> None:
    """Past the start: proposals come from what was learnt."""
    modules = loaded_by(_SEARCH.format(journal=tmp_path / "journal.log", sampler=sampler))
    assert (
        "orchestrator.search.freeze_thaw.curve_model"
        if sampler == "auto"
        else "optuna.samplers._tpe.sampler"
    ) in modules
    assert not modules & {"torch", "worker"}
