"""Runs the command line as a user would: the installed ``justright``, in a process of its own, or
here, where it is refused before it starts anything."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from justright.cli.main import main
from justright.signing import Signer

SECRET = "a secret that only tests know"
SIGNER = Signer(SECRET)
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def justright(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 180.0,
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "justright", *arguments],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def justright_here(
    *arguments: str, env: Mapping[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    """The same in this process, for what starts no service: seconds less."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    signals = {number: signal.getsignal(number) for number in ENDING}
    with (
        patch.dict(os.environ, env),
        patch.object(sys, "argv", ["justright", *arguments]),
        chdir(cwd),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        finally:
            for number, handler in signals.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def await_true(condition: Callable[[], bool], patience: float = 90.0, pause: float = 0.02) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(pause)


@contextmanager
def serving(
    *arguments: str, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command that serves, until the block ends; its output goes to ``log``."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "justright", *arguments],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    with ending(process):
        yield process


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a process when the block does."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)  # a worker has its grace, 20 s, and more on a busy machine
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
