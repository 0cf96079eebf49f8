"""Runs the user's code so that an error of theirs is told from one of ours, in their own frames."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from justright.errors import JustrightError, TaskError, UserCodeError

HOUSE = Path(__file__).resolve().parents[2]  # the folder that our packages are in
OWN_NAMES = ("justright", "orchestrator", "worker")

# What lies in such a folder, or is frozen into Python, is a library's, not the user's.
_LIBRARIES = re.compile(r"[/\\](site-packages|dist-packages)[/\\]|^<frozen")

T = TypeVar("T")


class guarded:
    """Runs the user's code: ``with guarded(): ...``.

    Raises:
        UserCodeError: it raised; the traceback is theirs.
        TaskError: a library raised below us with none of their frames between, such as torch on a
            shape that does not fit; ``doing`` says what was tried.
    """

    def __init__(self, doing: str = "") -> None:
        self._doing = doing

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, JustrightError) or not isinstance(error, (Exception, SystemExit)):
            return  # it is raised as it is
        frames = traceback.extract_tb(error.__traceback__)
        if self._doing and not any(is_users(frame.filename) for frame in frames):
            raise TaskError(f"{self._doing} does not work: {_headline(error)}") from error
        raise UserCodeError(_headline(error), trimmed_traceback(error)) from error


def user_code(call: Callable[[], T], doing: str = "") -> T:
    """The result of one call of the user's code, ``guarded``."""
    with guarded(doing):
        return call()


def _headline(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]


def trimmed_traceback(error: BaseException) -> str:
    """The traceback with only the user's frames: neither ours, nor a library's, nor Python's."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if is_users(frame.filename)]
    if not mine and not isinstance(error, SyntaxError):  # which names its place itself
        mine = list(frames)
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(mine)]
    lines += traceback.format_exception_only(error)
    return "".join(lines).rstrip()


_FRAME = re.compile(r'  File "(.*)", line \d+ in ')
_THREAD = re.compile(r"(Current thread|Thread) 0x\w+.*\(most recent call first\):")


def users_frames(stacks: str) -> str:
    """What faulthandler says of all threads, with only the user's frames, and what is printed
    beside it. Threads that are nowhere in the user's code are left out.
    """
    kept: list[str] = []
    for line in stacks.splitlines():
        frame = _FRAME.match(line)
        if frame is not None and not is_users(frame.group(1)):
            continue
        if frame is None and kept and _THREAD.match(kept[-1]):
            kept.pop()  # nothing of it is the user's
        kept.append(line)
    if kept and _THREAD.match(kept[-1]):
        kept.pop()
    return "\n".join(kept).strip()


def is_users(filename: str) -> bool:
    """Whether a source file is the user's own."""
    path = os.path.abspath(filename)
    own = any(path.startswith(str(HOUSE / name) + os.sep) for name in OWN_NAMES)
    standard = path.startswith(os.path.dirname(os.__file__) + os.sep)
    return not own and not standard and not _LIBRARIES.search(filename)
