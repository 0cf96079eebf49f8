"""Processes that end together."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as <malloc.h> numbers them
_MOST_MMAP_THRESHOLD = 32 * 2**20  # bytes; glibc takes no more
_MOST_KEPT = 2**31 - 1  # bytes; what a C int holds
_MEMORY_SHARE = 0.8  # of the machine's memory that its trainings may hold
_PATIENCE = 10.0  # seconds that a process has to end by itself
_LAST_LINES = 12  # of a log, that explain how it ended
# Found here: between fork and exec, where it is used, no library may be looked for.
_LIBC = cast(Any, ctypes.CDLL(None)) if sys.platform == "linux" else None
_PRCTL = _LIBC.prctl if _LIBC is not None else None


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel to signal this process when its parent dies, however that happens.

    Linux only; elsewhere a parent that is killed outright leaves its children to themselves.
    """
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, up to 2 GiB, for the next use.

    By default it gives large blocks back to the system at once, which hands them out page by page:
    a training step that allocates the same megabytes each time then spends half its time on that.
    glibc only; elsewhere nothing is changed.
    """
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)


def start(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> subprocess.Popen[bytes]:
    """Start a service of ours, its output in ``log``, that does not outlive us.

    A session of its own keeps Ctrl-C from it, so that whoever started it ends it in good order.
    """
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )
    if stdin is not None:
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
    return process


def stop(processes: Sequence[subprocess.Popen[bytes]], patience: float = _PATIENCE) -> None:
    """Ask all to end, together, and make sure that they have."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    until = time.monotonic() + patience
    for process in processes:
        try:
            process.wait(timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def kill_session(leader: int) -> None:
    """Kill a session's leader, its group and, on Linux, all that others have started in it."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass  # the leader was gone already; what it has started may not be
    for entry in Path("/proc").glob("[0-9]*") if sys.platform == "linux" else ():
        pid = int(entry.name)
        try:
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def end_within(seconds: float) -> None:
    """Be gone by then, whatever this process waits for: a Redis that is away, say.

    For whoever was told to end. Nothing is lost by it: what was not committed is sent again.
    """
    timer = threading.Timer(seconds, os._exit, args=(1,))
    timer.daemon = True
    timer.start()


def how_it_ended(code: int) -> str:
    """A return code of ``subprocess``, for people."""
    if code >= 0:
        return f"exit code {code}"
    known = {number.value: number.name for number in signal.Signals}
    return f"signal {known.get(-code, -code)}"


def last_lines(log: Path, count: int = _LAST_LINES) -> str:
    """The end of a log, to explain why its process ended."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return ""


def machine_memory() -> float:
    """Bytes of memory that this machine, or the container that we are in, has."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        return min(pages, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return float(pages)


def memory_for_each(workers: int) -> float:
    """Bytes of memory that the training process of each of so many workers here may hold."""
    return _MEMORY_SHARE * machine_memory() / workers
