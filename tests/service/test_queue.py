"""Whatever is put on the queue, a worker runs its own training or nothing."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq import callbacks as rq_callbacks
from rq.exceptions import DeserializationError
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty
from rq.webhook import Webhook

from justright.brokers.connection import connect
from justright.brokers.queue import FUNCTION, TrainingJob, enqueue, pool_queue, withdraw
from justright.brokers.redis import RedisBroker
from justright.errors import RefusedJob
from justright.messages import Event, Inspection, InspectJob, Job, Refused, TrainJob, TrialWork
from justright.signing import VALID, Signer
from justright.spec import TaskRef
from tests.helpers.commands import SECRET, SIGNER, serving

TASK = """
import torch

import justright


class Tiny(justright.Task):
    epochs = 3

    def model(self):
        return torch.nn.Linear(4, 2)

    def train_data(self):
        return torch.ones(32, 4), torch.ones(32, dtype=torch.long)
"""


class Trap:
    """A module that leaves a mark when it is imported, and another one when it is called."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "trap"
        self.path.mkdir()
        self.mark = folder / "mark"
        source = f"open({str(self.mark)!r}, 'a').close()\ndef spring(*_, **__):\n    pass\n"
        (self.path / "a_trap_for_workers.py").write_text(source)
        self.name = "a_trap_for_workers.spring"

    def __reduce__(self) -> Any:
        """Unpickled, it leaves the mark as well."""
        return os.mkdir, (str(self.mark),)

    def check_untouched(self) -> None:
        assert not self.mark.exists()


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    trap = Trap(tmp_path)
    monkeypatch.syspath_prepend(trap.path)
    yield trap
    sys.modules.pop("a_trap_for_workers", None)


@pytest.fixture
def queue(clean_redis: str) -> Queue:
    return pool_queue("default", connect(clean_redis, patient=False))


def a_job(number: int = 0, target: str = "/tasks/t.py:T", **values: Any) -> Job:
    about: dict[str, Any] = {"id": f"job-{number}", "study": "s", "task": TaskRef(target=target)}
    return TrainJob(**about, **values) if "trials" in values else InspectJob(**about, **values)


def sealed(job: Job, signer: Signer = SIGNER) -> str:
    """What a job's one argument is."""
    return signer.seal("job", job.encode())


def put(queue: Queue, job_id: str, function: str, *arguments: Any, **options: Any) -> None:
    """What anybody can do who reaches Redis."""
    queue.enqueue_call(function, args=arguments, job_id=job_id, **options)


def fetch(queue: Queue, job_id: str) -> TrainingJob:
    job = TrainingJob.fetch(job_id, connection=queue.connection, serializer=JSONSerializer)
    assert isinstance(job, TrainingJob)
    return job


# -- what is on the queue -----------------------------------------------------------------------


def test_a_job_comes_back_as_it_was_put(queue: Queue) -> None:
    work = TrialWork(number=3, lr=0.1, seed=0, attempt=2)
    enqueue(queue, a_job(trials=(work,), epochs=9), SIGNER)
    assert queue.get_job_ids() == ["job-0"]
    job = fetch(queue, "job-0")
    trained: list[str] = []
    job.bind(trained.append)
    job.perform()
    [envelope] = trained
    assert SIGNER.open("job", envelope) == a_job(trials=(work,), epochs=9).encode()
    assert job.timeout == -1, "a training may take its time"


def test_all_of_a_job_is_json_and_signed(queue: Queue) -> None:
    enqueue(queue, a_job(), SIGNER)
    [function, instance, [envelope], named] = json.loads(fetch(queue, "job-0").data)
    assert (function, instance, named) == (FUNCTION, None, {})
    assert set(json.loads(envelope)) == {"purpose", "expires", "body", "mac"}
    assert SIGNER.open("job", envelope) == a_job().encode()


def test_a_job_is_withdrawn_while_it_waits(queue: Queue) -> None:
    for number in range(2):
        enqueue(queue, a_job(number), SIGNER)
    taken: Any = Queue.dequeue_any(
        [queue], None, queue.connection, job_class=TrainingJob, serializer=JSONSerializer
    )
    assert taken[0].id == "job-0"
    for job in ("job-0", "job-1", "job-1", "unheard-of"):
        withdraw(queue, job)
    [envelope] = fetch(queue, "job-0").args
    assert SIGNER.open("job", envelope) == a_job(0).encode(), "its worker goes on with it"
    assert queue.get_job_ids() == []
    assert not queue.connection.exists("rq:job:job-1")


# -- what a job may not be ----------------------------------------------------------------------

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "another function": ("os.system", {"args": ("true",)}),
    "without arguments": (FUNCTION, {}),
    "with two arguments": (FUNCTION, {"args": ("{}", "{}")}),
    "with named arguments": (FUNCTION, {"args": ("{}",), "kwargs": {"force": True}}),
}


@pytest.mark.parametrize(("function", "call"), REFUSED.values(), ids=REFUSED)
def test_another_call_is_refused(queue: Queue, function: str, call: dict[str, Any]) -> None:
    queue.enqueue_call(function, job_id="strange", **call)
    job = fetch(queue, "strange")
    job.bind(lambda payload: pytest.fail(f"was given {payload}"))
    with pytest.raises(RefusedJob, match=rf"calls '{function}': this worker runs {FUNCTION} only"):
        job.perform()


def test_a_job_runs_in_a_worker_only(queue: Queue) -> None:
    """A stock ``rq worker`` that is set to this class has nothing to call."""
    enqueue(queue, a_job(), SIGNER)
    with pytest.raises(RefusedJob, match="outside of a justright worker"):
        fetch(queue, "job-0").perform()


def test_the_trap_works(trap: Trap) -> None:
    """Else the tests below would pass for nothing."""
    importlib.import_module(trap.name.partition(".")[0])
    assert trap.mark.exists()
    trap.mark.unlink()
    pickle.loads(pickle.dumps(trap))
    assert trap.mark.exists()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where webhooks would arrive."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def extras(trap: Trap, listener: socket.socket) -> dict[str, Any]:
    """All that RQ would import, call and send for a job's sake."""
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    hooks = [Webhook(url, "finished", timeout=1), Webhook(url, "failed", timeout=1)]
    names = ("on_success", "on_failure", "on_stopped")
    return {name: rq_callbacks.Callback(trap.name) for name in names} | {"webhooks": hooks}


def test_callbacks_are_not_even_imported(queue: Queue, trap: Trap, listener: socket.socket) -> None:
    put(queue, "job-0", FUNCTION, sealed(a_job()), **extras(trap, listener))
    job = fetch(queue, "job-0")
    assert job._success_callback_name == trap.name, "it is there, and left alone"
    rq_callbacks.execute_success_callback(job, BaseDeathPenalty, None)
    rq_callbacks.execute_failure_callback(job, BaseDeathPenalty, ValueError, ValueError(), None)
    rq_callbacks.execute_stopped_callback(job, BaseDeathPenalty)
    job.send_webhooks("failed")
    trap.check_untouched()
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("field", ["data", "meta", "result"])
def test_pickles_are_never_loaded(queue: Queue, trap: Trap, field: str) -> None:
    enqueue(queue, a_job(), SIGNER)
    queue.connection.hset("rq:job:job-0", field, pickle.dumps(trap))
    job = fetch(queue, "job-0")
    if field == "data":
        with pytest.raises(DeserializationError):
            job.perform()
    if field == "meta":
        with pytest.raises(ValueError, match="codec can't decode"):
            job.get_meta()
    job.return_value()
    trap.check_untouched()


# -- a worker of flesh and blood ----------------------------------------------------------------


class Listener:
    """What a worker tells the orchestrator."""

    def __init__(self, url: str, log: Path) -> None:
        self._broker = RedisBroker(connect(url, patient=False), SIGNER)
        self._log = log
        self.refusals: dict[str, str] = {}  #: job -> why

    def await_event(self, kind: type[Event], job: str) -> Any:
        """The next event of that kind about a job."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = None
            for message in self._broker.receive(wait=0.2):
                if isinstance(message, Refused):
                    self.refusals[message.job] = message.reason
                if isinstance(message, kind) and getattr(message, "job", None) == job:
                    found = message
            if found is not None:
                return found
        raise AssertionError(self._log.read_text())


def late() -> Signer:
    """Ours, as it signed so long ago that it holds no more."""
    return Signer(SECRET, lambda: time.time() - VALID["job"] - 60)


def test_a_worker_refuses_what_is_not_its_own_and_goes_on(
    clean_redis: str, queue: Queue, trap: Trap, listener: socket.socket, tmp_path: Path
) -> None:
    (tmp_path / "task.py").write_text(TASK)
    log = tmp_path / "worker.log"
    put(queue, "system", "os.system", f"touch {trap.mark}")
    put(queue, "import", trap.name, **extras(trap, listener))
    put(queue, "pickle", FUNCTION, "")
    queue.connection.hset("rq:job:pickle", "data", pickle.dumps(trap))
    put(queue, "garbage", FUNCTION, "no message")
    put(queue, "no-message", FUNCTION, SIGNER.seal("job", "no message"))
    target = f"{tmp_path}/task.py:Tiny"
    put(queue, "unsigned", FUNCTION, a_job(target=target).encode())
    put(queue, "forged", FUNCTION, sealed(a_job(target=target), Signer("a guess of somebody else")))
    put(queue, "altered", FUNCTION, sealed(a_job()).replace("/tasks/t.py:T", target))
    put(queue, "command", FUNCTION, SIGNER.seal("command", a_job(target=target).encode()))
    put(queue, "expired", FUNCTION, sealed(a_job(target=target), late()))
    put(queue, "renamed", FUNCTION, sealed(a_job(7, target=target)))
    good = sealed(a_job(target=target))
    put(queue, "job-0", FUNCTION, good, **extras(trap, listener))
    env = {"JUSTRIGHT_REDIS_URL": clean_redis, "PYTHONPATH": str(trap.path)}
    command = ["worker", "--gpus", "none", "--threads", "1", "--tasks", str(tmp_path)]
    heard = Listener(clean_redis, log)
    with serving(*command, log=log, env=env) as worker:
        inspection = heard.await_event(Inspection, "job-0")
        put(queue, "job-0", FUNCTION, good)  # what was recorded on its way, once more
        heard.await_event(Refused, "job-0")
        assert worker.poll() is None
    assert (inspection.job, inspection.epochs, inspection.failure) == ("job-0", 3, None)
    trap.check_untouched()
    with pytest.raises(BlockingIOError):
        listener.accept()
    refused = FailedJobRegistry(queue=queue).get_job_ids()
    unreadable = {
        "garbage": "without a signature",
        "no-message": "unreadable message",
        "unsigned": "without a signature",
        "forged": "signature is wrong",
        "altered": "signature is wrong",
        "command": "signature is wrong",
        "expired": "a job that expired",
        "renamed": "its content is that of another one",
        "job-0": "it was begun before",
    }
    assert set(refused) == {"system", "import", "pickle"} | set(unreadable)
    results = {job: fetch(queue, job).latest_result() for job in refused}
    why = {job: str(result.exc_string) for job, result in results.items() if result}
    assert "refused a job that calls 'os.system'" in why["system"]
    assert f"refused a job that calls '{trap.name}'" in why["import"]
    assert set(heard.refusals) == set(unreadable), "the orchestrator hears of them"
    for job, reason in unreadable.items():
        assert reason in heard.refusals[job]
        assert reason in why[job]
    assert queue.get_job_ids() == []
