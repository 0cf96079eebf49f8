"""The long-lived child of a worker: it keeps torch, the data and the user's code loaded.

It is started as ``python -m worker.child FD``; FD is a socket to its parent on which each side
writes lines of JSON. The parent's end closes when the parent dies, however that happens; the child
then ends as well, so no orphan keeps a GPU.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from justright.failures import FailureKind
from justright.logs import configure
from justright.messages import decode_job
from justright.processes import die_with_parent, keep_freed_memory
from justright.settings import load_settings
from worker.user_code.permission import Permission, read_permission

if TYPE_CHECKING:
    from worker.jobs.channel import Channel

_ALIVE_EVERY = 0.5  # seconds between two signs of life


def main(
    descriptor: int, permission: Permission, worker: str | None, lanes: int | None = None
) -> None:
    """Serve jobs until the parent goes. ``worker``: the name of ours; ``lanes``: its own limit."""
    die_with_parent(signal.SIGKILL)  # the reading thread needs the GIL to notice its end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_it_to_the_parent(os.getpid()))
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # where does it hang?
    keep_freed_memory()
    settings = load_settings()
    configure(settings.log)
    line = _Line(socket.socket(fileno=descriptor))
    line.start()

    import torch

    threads = os.environ.get("JUSTRIGHT_THREADS")
    if threads:
        torch.set_num_threads(int(threads))
    from worker.jobs.channel import Channel
    from worker.jobs.runner import JobRunner
    from worker.training.device import pick_device

    url = settings.redis_url.get_secret_value()
    channel = Channel(RedisBroker(connect(url, patient=True)))
    line.serve(channel)
    runner = JobRunner(channel, permission, settings, line.alive, worker, lanes)
    line.write({"ready": {"device": pick_device().type, "torch": torch.__version__}})
    while True:
        job = decode_job(line.jobs.get())
        if runner.outdated(job):
            line.write({"recycle": job.id})
            os._exit(0)
        refused = runner.run(job)
        line.write({"done": job.id, "refused": refused})


class _Line(threading.Thread):
    """The line to the parent: jobs in, signs of life out."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(name="line", daemon=True)
        self._connection = connection
        self._alive = 0.0
        self.jobs: queue.Queue[str] = queue.Queue()
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._leave: dict[str, str] | None = None

    def run(self) -> None:
        with self._connection.makefile("r", encoding="utf-8") as stream:
            for text in stream:
                message = json.loads(text)
                if "job" in message:
                    self.jobs.put(message["job"])
                    continue
                with self._lock:
                    self._leave = message
                    self._pass_on()
        os._exit(0)

    def serve(self, channel: Channel) -> None:
        """Pass on to this channel that its trials shall leave, also if it was said before now."""
        with self._lock:
            self._channel = channel
            self._pass_on()

    def _pass_on(self) -> None:
        if self._channel is not None and self._leave is not None:
            self._channel.leave(self._leave["leave"], FailureKind(self._leave["failure"]))

    def alive(self) -> None:
        """Called from the training itself, however often: what hangs does not call it."""
        now = time.monotonic()
        if now - self._alive > _ALIVE_EVERY:
            self._alive = now
            self.write({"alive": True})

    def write(self, message: dict[str, Any]) -> None:
        self._connection.sendall((json.dumps(message) + "\n").encode())


def _leave_it_to_the_parent(own: int) -> Callable[[int, Any], None]:
    """What SIGTERM does here: nothing, since the parent, which gets it as well, says what to do.

    A process that the user's code has forked inherits this, and shall end as ever.
    """

    def ignore(number: int, _frame: Any) -> None:
        if os.getpid() != own:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    return ignore


if __name__ == "__main__":
    _options = list(pairwise(sys.argv[1:]))
    _tasks = [text for before, text in _options if before == "--tasks"]
    _worker = next((text for before, text in _options if before == "--worker"), None)
    _lanes = next((int(text) for before, text in _options if before == "--lanes"), None)
    _permission = read_permission(_tasks, "--allow-commands" in sys.argv)
    main(int(sys.argv[1]), _permission, _worker, _lanes)
