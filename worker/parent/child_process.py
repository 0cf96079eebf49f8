"""The training process as its parent sees it: started, spoken to, listened to, ended."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Any

from justright.errors import JustrightError
from justright.processes import how_it_ended, kill_session
from justright.settings import SECRETS

log = logging.getLogger(__name__)

START_PATIENCE = 300.0  # seconds for a child to import torch

_PASSED_ON = 256 * 1024  # bytes of output of one job that go on to our log
_TAIL_BYTES = 8 * 1024  # of output that are kept to explain a failure ...
_TAIL_LINES = 30  # ... of which so many lines at most are told
_PIECE = 64 * 1024  # bytes that are read at once
_PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes
_DEATH_PATIENCE = 5.0  # seconds for a process to end once it has closed its line
_LAST_OUTPUT = 1.0  # seconds for the last words of a process that has ended
_STACKS_LOOK, _STACKS_LOOKS = 0.05, 20  # seconds between looks for its stacks, and their number
_STACKS_REST = 0.1  # seconds for what is left of them, once they have begun


class ChildDied(JustrightError):
    """The training process ended in the middle of its work."""


class Output(threading.Thread):
    """Reads what the process prints: the beginning goes to our log, the end is remembered.

    It is read always, however much there is, so that nothing waits for us.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(name="output", daemon=True)
        self._pipe = pipe
        self._lock = threading.Lock()
        self._recent: deque[bytes] = deque()
        self._kept = self._passed = self._dropped = 0

    def run(self) -> None:
        while piece := os.read(self._pipe.fileno(), _PIECE):
            with self._lock:
                self._take(piece)

    def _take(self, piece: bytes) -> None:
        self._recent.append(piece[-_TAIL_BYTES:])
        self._kept += len(self._recent[-1])
        while self._kept - len(self._recent[0]) >= _TAIL_BYTES:
            self._kept -= len(self._recent.popleft())
        room = max(0, _PASSED_ON - self._passed)
        self._passed += len(piece[:room])
        self._dropped += len(piece[room:])
        sys.stderr.buffer.write(piece[:room])
        sys.stderr.flush()

    def begin_job(self) -> None:
        """What comes from now on belongs to another job."""
        with self._lock:
            if self._dropped:
                log.info("%d bytes more that the training printed are not shown", self._dropped)
            self._recent.clear()
            self._kept = self._passed = self._dropped = 0

    def tail(self) -> str:
        """The last lines of this job."""
        with self._lock:
            text = b"".join(self._recent)[-_TAIL_BYTES:]
        lines = text.decode("utf-8", "replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])


class Child:
    """The training process and the line to it."""

    def __init__(self, environment: dict[str, str], options: list[str]) -> None:
        self._environment, self._options = environment, options
        ours, theirs = socket.socketpair()
        # Its user's code need not know what signs jobs, nor what opens the storage.
        withheld = {*SECRETS} - {"JUSTRIGHT_REDIS_URL", "JUSTRIGHT_ARTIFACTS"}
        inherited = {k: v for k, v in os.environ.items() if k not in withheld}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.child", str(theirs.fileno()), *options],
                pass_fds=[theirs.fileno()],
                env=inherited | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        self.output = Output(self.process.stdout)
        self.output.start()
        self._line = ours
        self._pending = b""
        self._ended = False
        self.ready = False  #: Whether it has loaded torch, and can be expected to do something.

    def fresh(self) -> Child:
        """End this process and start another one like it."""
        self.kill()
        return Child(self._environment, self._options)

    def send(self, message: dict[str, Any]) -> None:
        """Write one line to the child; a dead child is noticed by the next ``receive``."""
        try:
            self._line.sendall((json.dumps(message) + "\n").encode())
        except OSError:
            log.warning("the training process does not listen")

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The child's next line, or None where there is none within ``seconds``.

        Raises:
            ChildDied: the process has ended; the message says how.
        """
        end = time.monotonic() + seconds
        while b"\n" not in self._pending:
            left = max(0.0, end - time.monotonic())
            if not select.select([self._line], [], [], left)[0]:
                return None
            try:
                piece = self._line.recv(_PIECE)
            except ConnectionResetError:  # it died with a line of ours unread
                piece = b""
            if not piece:
                self._explain_death()
            self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError:
            # The user's code has broken its own process, or writes on our line.
            self.kill()
            raise ChildDied(
                "the training process spoke nonsense on its line to the worker: the user's code "
                "has changed what it needs (json, open files), so it was ended"
            ) from None
        self.ready = self.ready or "ready" in message
        return message

    def _explain_death(self) -> None:
        try:
            code = self.process.wait(timeout=_DEATH_PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self.process.returncode
        self.output.join(_LAST_OUTPUT)  # its last words
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        raise ChildDied(f"the training process ended with {how_it_ended(code)}{hint}")

    def stacks(self) -> str:
        """Where each of its threads is, in the words of faulthandler; "" if it cannot say."""
        before = self.output.tail()
        self.process.send_signal(signal.SIGUSR1)
        for _ in range(_STACKS_LOOKS):
            time.sleep(_STACKS_LOOK)
            if self.output.tail() != before:
                time.sleep(_STACKS_REST)
                return self.output.tail()
        return before

    def memory(self) -> int:
        """Bytes of memory that it holds now; 0 where the system does not say (not on Linux)."""
        try:
            pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * _PAGE

    def kill(self) -> None:
        """End the process and everything it started, now. Once: its id may be another's later."""
        if self._ended:
            return
        self._ended = True
        kill_session(self.process.pid)
        self.process.wait()
        self._line.close()
