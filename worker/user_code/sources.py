"""The user's code that is loaded, as fingerprints: one study must not mix losses of two codes."""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from justright.spec import Scalar, TaskRef
from worker.user_code.guard import is_users

_DIGITS = 16  # of a fingerprint
_SETTINGS = (".py", ".json", ".toml", ".yaml", ".yml", ".ini", ".cfg")  # what a task is set by
_PROGRAMS = (".py", ".sh")  # of a command: other files may be what it writes
_LARGEST = 64 * 2**20  # bytes of a file that is read whole; of a larger one its size counts


class Sources:
    """Remembers each module of the user's as it was when this process loaded it."""

    def __init__(self) -> None:
        self._others = set(sys.modules)  # modules that are not the user's, by name
        self._stamps: dict[str, float] = {}
        self._prints: dict[str, str] = {}

    def remember(self) -> None:
        """Note the state of all of the user's modules that are loaded now."""
        for name, module in list(sys.modules.items()):
            if name in self._others:  # torch alone has thousands, and this is asked for each job
                continue
            path = getattr(module, "__file__", None)
            if path and not is_users(path):
                self._others.add(name)
            elif path and path not in self._stamps:
                self._stamps[path] = _stamp(path)
                self._prints[path] = fingerprint(Path(path))

    def changed(self) -> bool:
        """Whether a loaded module is no longer what is on the disk."""
        return any(_stamp(path) != stamp for path, stamp in self._stamps.items())

    def of(self, ref: TaskRef) -> dict[str, str]:
        """The fingerprints of a task: of its modules that are loaded, and of files that it names.

        By path, seen from the task's folder, so that they are alike on machines that keep it in
        different places.
        """
        self.remember()
        home = home_of(ref)
        found = {_seen_from(home, path): mark for path, mark in self._prints.items()}
        return found | _named(ref.arguments) | _in_command(ref)


def differing(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """The files that are in both, and not the same."""
    return sorted(name for name, mark in expected.items() if found.get(name, mark) != mark)


def fingerprint(path: Path) -> str:
    """What a file says: of Python the code, without comments and layout; else its bytes."""
    try:
        if path.stat().st_size > _LARGEST:
            return f"{path.stat().st_size} bytes"
        content = path.read_bytes()
    except OSError:
        return ""
    if path.suffix == ".py":
        try:
            content = ast.dump(ast.parse(content)).encode()
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass  # then it is compared as it is
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def home_of(ref: TaskRef) -> str:
    """Where the modules of a task come from: its file's folder, or its top package."""
    place = (ref.target or "").rpartition(":")[0]
    return str(Path(place).parent) if place.endswith(".py") else place.partition(".")[0]


def _seen_from(home: str, path: str) -> str:
    if os.sep in home:
        beside = os.path.relpath(os.path.realpath(path), os.path.realpath(home))
        return beside if not beside.startswith(os.pardir) else os.path.basename(path)
    parts = Path(path).parts
    return "/".join(parts[parts.index(home) :]) if home in parts else os.path.basename(path)


def _named(arguments: Mapping[str, Scalar]) -> dict[str, str]:
    """Files that ``--set`` names."""
    return {
        f"--set {name}={value}": fingerprint(Path(value))
        for name, value in arguments.items()
        if isinstance(value, str) and value.endswith(_SETTINGS) and _is_file(value)
    }


def _in_command(ref: TaskRef) -> dict[str, str]:
    """The programs that a command names."""
    parts = [part for part in ref.command if part.endswith(_PROGRAMS) and _is_file(part)]
    return {part: fingerprint(Path(part)) for part in parts}


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _stamp(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
