"""The long-lived child of a worker: it keeps torch, the data and the user's code loaded.

It is started as ``python -m worker.child FD``; FD is a socket to its parent on which each side
writes lines of JSON. The parent's end closes when the parent dies, however that happens; the child
then ends as well, so no orphan keeps a GPU.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
from typing import Any

from justright.broker import RedisBroker, connect
from justright.messages import Job, decode_as
from justright.processes import die_with_parent
from justright.settings import load_settings

RECYCLE = 75  # exit code: start me again with a fresh process, then give me the same job


def main(descriptor: int, allow_commands: bool) -> None:
    """Serve jobs until the parent goes."""
    die_with_parent(signal.SIGKILL)  # the reading thread needs the GIL to notice its end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker %(message)s")
    line = socket.socket(fileno=descriptor)
    jobs: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(line, jobs), daemon=True).start()

    import torch

    threads = os.environ.get("JUSTRIGHT_THREADS")
    if threads:
        torch.set_num_threads(int(threads))
    from worker.channel import Channel
    from worker.jobs import JobRunner
    from worker.training import pick_device

    url = load_settings().redis_url.get_secret_value()
    runner = JobRunner(Channel(RedisBroker(connect(url, patient=True))), allow_commands)
    _write(line, {"ready": {"device": pick_device().type, "torch": torch.__version__}})
    while True:
        job = decode_as(Job, jobs.get())
        if runner.outdated(job):
            os._exit(RECYCLE)
        runner.run(job)
        _write(line, {"done": job.id})


def _read(line: socket.socket, jobs: queue.Queue[str]) -> None:
    with line.makefile("r", encoding="utf-8") as stream:
        for text in stream:
            jobs.put(json.loads(text)["job"])
    os._exit(0)


def _write(line: socket.socket, message: dict[str, Any]) -> None:
    line.sendall((json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), "--allow-commands" in sys.argv[2:])
