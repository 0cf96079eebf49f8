"""What user code does to a worker: each told apart, none takes the worker with it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from justright.failures import FailureKind
from justright.lifecycle import STUDY_FINISHED, TrialState
from justright.messages import Snapshot
from tests.helpers.commands import SIGNER, await_true, justright, serving
from tests.helpers.servers import running_redis

TASK = """
import os, signal, sys, time
import torch, justright

HERE = os.path.dirname(os.path.abspath(__file__))


def once(name):
    path = os.path.join(HERE, name)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


class Tiny(justright.Task):
    epochs = 3
    batch_size = 16
    fault = ""
    again = False
    pause = 0.0
    patience = 0.0

    def model(self):
        return torch.nn.Linear(4, 2)

    def train_data(self):
        return torch.ones(64, 4), torch.arange(64) % 2

    def loss(self, output, target):
        if output.requires_grad and self.batches() == 6 and (self.again or once(self.fault)):
            getattr(self, self.fault)()
        time.sleep(self.pause)
        return torch.nn.functional.cross_entropy(output, target)

    count = 0

    def batches(self):
        Tiny.count += 1
        return Tiny.count

    def nothing(self): ...
    def raises(self): raise KeyError("the user's own")
    def hangs(self): time.sleep(3600)
    def gpu(self): raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    def disk(self): raise OSError(28, "No space left on device")
    def leaves(self):
        time.sleep(self.patience)
        os._exit(7)
    def kills(self):
        print("last words of the task", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    def prints(self):
        for _ in range(300): print("x" * 100_000)
    def leaks(self):
        Tiny.kept = bytearray(700 << 20)
        time.sleep(1)
"""


@contextmanager
def service(url: str, folder: Path, *options: str, **settings: str) -> Iterator[dict[str, str]]:
    """An orchestrator and a worker on a Redis; yields the environment of their clients."""
    (folder / "task.py").write_text(TASK)
    env = {"JUSTRIGHT_REDIS_URL": url, "JUSTRIGHT_LEASE": "2", **settings}
    work = ("worker", "--gpus", "none", "--threads", "1", "--tasks", str(folder), *options)
    with (
        serving("orchestrator", log=folder / "orchestrator.log", env=env),
        serving(*work, log=folder / "worker.log", env=env),
    ):
        yield env


def run(env: dict[str, str], folder: Path, fault: str, *options: str) -> Snapshot:
    """Submit a study of the task with this fault and follow it to its end."""
    done = justright(
        "submit", f"{folder}/task.py:Tiny", "--name", "s", "--lr", "1e-3:1e-1", "--sampler", "grid",
        "--pruner", "none", "--lanes", "1", "--wait", "--json", "--set", f"fault={fault}",
        *options, env=env,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return snapshot_of(env)


def snapshot_of(env: dict[str, str]) -> Snapshot:
    found = RedisBroker(connect(env["JUSTRIGHT_REDIS_URL"], patient=False), SIGNER).snapshot("s")
    assert found is not None
    return found


MENDED = {
    "hangs": (FailureKind.STALLED, "no sign of life for 8 s"),
    "gpu": (FailureKind.MEMORY, "CUDA out of memory"),
    "disk": (FailureKind.DISK, "No space left on device"),
    "leaves": (FailureKind.CRASHED, "exit code 7"),
    "kills": (FailureKind.CRASHED, "SIGKILL"),
}


@pytest.mark.parametrize("fault", MENDED)
def test_what_another_try_mends_is_tried_again(
    clean_redis: str, tmp_path: Path, fault: str
) -> None:
    """The first attempt fails in the middle; the second one completes; its way is remembered."""
    kind, words = MENDED[fault]
    with service(clean_redis, tmp_path) as env:
        snapshot = run(env, tmp_path, fault, "--trials", "2", "--stall", "8")
        status = justright("status", "s", env=env)
    states = {trial.state for trial in snapshot.trials}
    assert states == {TrialState.COMPLETE}
    hit = [trial for trial in snapshot.trials if trial.failure is not None]
    assert [trial.attempt for trial in hit] == [2]
    failure = hit[0].failure
    assert failure is not None
    assert failure.kind == kind
    assert words in failure.message
    assert f"trial {hit[0].number} failed once ({kind})" in status.stderr
    if fault == "kills":
        assert "last words of the task" in failure.output
    if fault == "hangs":
        assert "task.py" in failure.output, "where it hangs"
        assert "in hangs" in failure.output


def test_what_raises_is_final_and_shown_with_its_traceback(
    clean_redis: str, tmp_path: Path
) -> None:
    with service(clean_redis, tmp_path) as env:
        snapshot = run(env, tmp_path, "raises", "--trials", "2")
        status = justright("status", "s", env=env)
    failed = [trial for trial in snapshot.trials if trial.state == TrialState.FAILED]
    assert len(failed) == 1
    assert failed[0].attempt == 1
    assert failed[0].failure is not None
    assert failed[0].failure.kind == FailureKind.USER
    assert 'KeyError: "the user\'s own"' in status.stderr
    assert "task.py" in status.stderr


def test_a_trial_that_crashes_each_time_is_failed_for_good(
    clean_redis: str, tmp_path: Path
) -> None:
    """And the study, whose trials all do, gives up instead of trying them all."""
    with service(clean_redis, tmp_path) as env:
        # Its first epoch is reported before the process is gone, on a busy machine as well: where
        # no trial gets anywhere, a study gives up sooner.
        repeated = ("--set", "again=true", "--set", "patience=4.0")
        snapshot = run(env, tmp_path, "leaves", "--trials", "20", *repeated)
    ended = [trial for trial in snapshot.trials if trial.state == TrialState.FAILED]
    assert len(ended) == 3
    assert [trial.attempt for trial in ended] == [3, 3, 3]
    assert snapshot.state == "failed"
    assert snapshot.failure is not None
    assert "exit code 7" in snapshot.failure.message


def test_a_flood_of_output_is_cut_short_and_does_no_harm(clean_redis: str, tmp_path: Path) -> None:
    with service(clean_redis, tmp_path) as env:
        snapshot = run(env, tmp_path, "prints", "--trials", "2")
    assert {trial.state for trial in snapshot.trials} == {TrialState.COMPLETE}
    assert (tmp_path / "worker.log").stat().st_size < 2_000_000
    assert "bytes more that the training printed" in (tmp_path / "worker.log").read_text()


def test_a_training_that_leaks_is_recycled_and_goes_on(clean_redis: str, tmp_path: Path) -> None:
    """Its process is replaced past the limit; the trial goes on from its checkpoint."""
    with service(clean_redis, tmp_path, "--memory", "0.7") as env:
        snapshot = run(env, tmp_path, "leaks", "--trials", "2")
    assert {trial.state for trial in snapshot.trials} == {TrialState.COMPLETE}
    hit = [trial for trial in snapshot.trials if trial.attempt > 1]
    assert len(hit) == 1
    assert hit[0].failure is not None
    assert "limit is 0.7 GiB" in hit[0].failure.message


# -- leaving and resting --------------------------------------------------------------------------


EPOCH = 4  # batches


def await_snapshot(env: dict[str, str], true: Any) -> Snapshot:
    """The first snapshot of the study for which it holds."""
    broker = RedisBroker(connect(env["JUSTRIGHT_REDIS_URL"], patient=False), SIGNER)
    found: list[Snapshot] = []

    def look() -> bool:
        snapshot = broker.snapshot("s")
        if snapshot is not None and true(snapshot):
            found.append(snapshot)
        return bool(found)

    await_true(look)
    return found[0]


def submit_slow(env: dict[str, str], folder: Path, trials: int = 2, pause: float = 0.3) -> None:
    done = justright(
        "submit", f"{folder}/task.py:Tiny", "--name", "s", "--lr", "1e-3:1e-1", "--sampler", "grid",
        "--pruner", "none", "--trials", str(trials), "--lanes", "1", "--set", "fault=nothing",
        "--set", f"pause={pause}",
        env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def epochs_of(snapshot: Snapshot) -> int:
    return sum(trial.step for trial in snapshot.trials) // EPOCH


@pytest.mark.parametrize("group", [False, True])
def test_a_drained_worker_saves_and_gives_its_trials_back(
    clean_redis: str, tmp_path: Path, group: bool
) -> None:
    """In the middle of an epoch; another worker goes on from that batch."""
    with service(clean_redis, tmp_path) as env:
        submit_slow(env, tmp_path)
        await_snapshot(env, lambda s: any(t.step == EPOCH for t in s.trials))
        broker = RedisBroker(connect(clean_redis, patient=False), SIGNER)
        pid = broker.workers()[0].pid
        child = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        for process in (pid, child) if group else (pid,):
            os.kill(process, signal.SIGTERM)
        await_true(lambda: not broker.workers())
        left = await_snapshot(env, lambda s: any(t.attempt == 2 for t in s.trials))
        place = next((tmp_path / "state" / "artifacts").glob("s-*/*/*.pt"))
        work = ("worker", "--gpus", "none", "--threads", "1", "--tasks", str(tmp_path))
        with serving(*work, log=tmp_path / "second.log", env=env):
            ended = await_snapshot(env, lambda s: s.state in STUDY_FINISHED)
    _, mark, step = map(int, place.stem.split("-"))
    assert mark == EPOCH
    assert step > mark, "saved between two batches of an epoch"
    assert {trial.state for trial in ended.trials} == {TrialState.COMPLETE}
    assert max(trial.attempt for trial in ended.trials) == 2
    assert left.answer is not None
    assert re.search(rf"trial goes on .*step={EPOCH}\b", (tmp_path / "second.log").read_text())
    assert ended.answer is not None
    assert ended.answer.epochs == 6, "no epoch was trained twice"
    assert not list((tmp_path / "state" / "artifacts").glob("s-*/*/*.pt")), "none is kept"


def test_a_paused_study_goes_on_from_its_checkpoints(clean_redis: str, tmp_path: Path) -> None:
    with service(clean_redis, tmp_path) as env:
        submit_slow(env, tmp_path, trials=3, pause=1.0)
        await_snapshot(env, lambda s: any(t.step == EPOCH for t in s.trials))
        assert justright("pause", "s", env=env).returncode == 0
        paused = await_snapshot(
            env, lambda s: s.state == "paused" and any(t.state == "paused" for t in s.trials)
        )
        before = epochs_of(paused)
        time.sleep(2.0)
        assert epochs_of(snapshot_of(env)) == before, "nothing is trained"
        assert "paused" in justright("status", env=env).stdout
        resumed = justright("resume", "s", env=env)
        assert "resumed s" in resumed.stdout
        ended = await_snapshot(env, lambda s: s.state in STUDY_FINISHED)
    assert {trial.state for trial in ended.trials} == {TrialState.COMPLETE}
    assert ended.answer is not None
    assert ended.answer.epochs == 9
    again = justright("pause", "s", env=env)
    assert again.returncode == 2
    assert "ended already" in again.stderr


def test_a_paused_tune_ends_and_is_resumed_another_day(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(TASK)
    env = {"JUSTRIGHT_STATE": str(tmp_path / "state")}
    log = tmp_path / "tune.log"
    options = [
        "tune", f"{tmp_path}/task.py:Tiny", "--name", "s", "--trials", "4", "--set",
        "fault=nothing", "--set", "pause=0.2", "--pruner", "none",
    ]  # fmt: skip
    with serving(*options, log=log, env=env) as process:

        def begun() -> bool:
            shown = justright("status", "s", "--json", env=env)
            return shown.returncode == 0 and bool(json.loads(shown.stdout)["trials"])

        await_true(begun)
        assert justright("pause", "s", env=env).returncode == 0
        process.wait(timeout=60)
    assert "to go on: justright resume s" in log.read_text()
    assert json.loads(justright("status", "s", "--json", env=env).stdout)["state"] == "paused"
    done = justright("resume", "s", "--json", env=env)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["state"] == "complete"
    assert answer["trials"]["complete"] == 4
    assert answer["epochs"] == 12, "no epoch was trained twice"
    assert not (tmp_path / "state" / "studies" / "s" / "artifacts").exists()


def test_a_worker_whose_job_was_taken_back_stops_at_once(clean_redis: str, tmp_path: Path) -> None:
    with service(clean_redis, tmp_path) as env:
        submit_slow(env, tmp_path)
        await_snapshot(env, lambda s: any(t.step == EPOCH for t in s.trials))
        broker = RedisBroker(connect(clean_redis, patient=False), SIGNER)
        worker = broker.workers()[0]
        child = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()[0]
        assert worker.job is not None
        began = time.monotonic()
        broker.revoke([worker.job])
        await_true(lambda: not Path(f"/proc/{child}").exists())
        assert time.monotonic() - began < 30
        ended = await_snapshot(env, lambda s: s.state in STUDY_FINISHED)
    assert {trial.state for trial in ended.trials} == {TrialState.COMPLETE}
    assert "was taken back" in (tmp_path / "worker.log").read_text()


def test_a_full_disk_under_the_journal_ends_the_orchestrator_with_clear_words(
    clean_redis: str, tmp_path: Path
) -> None:
    """A limit on the size of its files: the write fails in the middle, as on a full disk."""
    (tmp_path / "task.py").write_text(TASK)
    env = {"JUSTRIGHT_REDIS_URL": clean_redis, "JUSTRIGHT_LEASE": "2"}
    work = ("worker", "--gpus", "none", "--threads", "1", "--tasks", str(tmp_path))
    journal = tmp_path / "state" / "journal.log"
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
        "sys.argv = ['justright', 'orchestrator'];"
        "from justright.cli.main import main; main()"
    )
    with serving(*work, log=tmp_path / "worker.log", env=env):
        submit = ("submit", f"{tmp_path}/task.py:Tiny", "--name", "s", "--set", "fault=nothing")
        assert justright(*submit, "--pruner", "none", env=env).returncode == 0
        done = subprocess.run(
            [sys.executable, "-P", "-c", limited], env=os.environ | env, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "Make room, then start the orchestrator again" in done.stderr
        assert "Traceback" not in done.stderr
        content = journal.read_bytes()
        assert content.endswith(b"\n"), "nothing half-written"
        assert len(content) <= 9000
        with serving("orchestrator", log=tmp_path / "orchestrator.log", env=env):
            ended = await_snapshot(env, lambda s: s.state in STUDY_FINISHED)
    assert ended.state == "complete"


def test_a_redis_that_keeps_nothing_is_told(tmp_path: Path) -> None:
    with running_redis(tmp_path, durable=False) as url:
        env = {"JUSTRIGHT_REDIS_URL": url}
        redis.Redis.from_url(url).config_set("maxmemory-policy", "allkeys-lru")
        log = tmp_path / "orchestrator.log"
        with serving("orchestrator", log=log, env=env):
            await_true(lambda: "noeviction" in log.read_text())
        assert "Redis keeps no append-only file" in log.read_text()
        found = justright("doctor", env=env)
    assert found.returncode == 1
    assert "appendonly yes" in found.stdout
    assert "allkeys-lru" in found.stdout
