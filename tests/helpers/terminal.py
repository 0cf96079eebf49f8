"""A terminal for the command line: a real pseudo-terminal, whose output is kept."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios

_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(*arguments: str, columns: int = 120, rows: int = 40) -> tuple[int, str]:
    """Run ``justright`` on a terminal to its end: exit code, and all it showed without colours."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "justright", *arguments],
        env={**os.environ, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := _read(ours):
            shown += piece
        return process.wait(timeout=60), _ESCAPES.sub(b"", shown).decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the last process that had it open is gone
        return b""
