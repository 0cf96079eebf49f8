"""What a user types as TASK, turned into a TaskRef without importing their code."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import re
import secrets
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from justright.errors import UsageError
from justright.spec import Scalar, StudySpec

_EXPECTED = (
    "expected path/to/file.py:Name, package.module:Name, a study file study.toml, "
    "or a command after --"
)
_ALIKE = 0.5  # of 1: how near a name must be to be suggested
_SUFFIX, _LETTERS = 8, "abcdefghijkmnpqrstuvwxyz23456789"  # of 40 random bits, easy to read aloud
_LONGEST_STEM = 40  # characters of a task's name in that of its study
_FILE_ONLY = {"set", "command", "workers"}  # keys of a study file that are no fields of a spec


def read_target(parts: Sequence[str], *, is_command: bool) -> dict[str, Any]:
    """The spec values that TASK stands for: a task, a command, or all that a study file says.

    Raises:
        UsageError: no such file, no such name in it, or none of the known forms.
    """
    if is_command:
        return {"task": {"command": list(parts)}}
    if len(parts) != 1:
        raise UsageError(f"found TASK {' '.join(parts)!r}, {_EXPECTED}.")
    text = parts[0]
    if text.endswith(".toml"):
        return _read_study_file(Path(text))
    return {"task": _located(text, Path.cwd())}


def _located(text: str, folder: Path) -> dict[str, Any]:
    """A task, and for a module that lies in ``folder`` and is not installed, that folder."""
    task: dict[str, Any] = {"target": resolve(text, folder)}
    place = text.partition(":")[0]
    if not place.endswith(".py") and _lies_in(folder, place.partition(".")[0]):
        task["folder"] = str(folder.resolve())
    return task


def resolve(text: str, folder: Path) -> str:
    """``file.py:Name`` with its absolute path, or ``package.module:Name``, checked as far as is
    possible without running it."""
    place, colon, name = text.rpartition(":")
    module = all(part.isidentifier() for part in place.split("."))
    if not colon or not name.isidentifier() or not (module or place.endswith(".py")):
        hint = ""
        if text.endswith(".py"):
            hint = f" Which class or function of {text}? For example {text}:{_guess(folder / text)}"
        raise UsageError(f"found TASK {text!r}, {_EXPECTED}.{hint}")
    if not place.endswith(".py"):
        _check_module(place, folder)
        return text
    try:
        path = (folder / Path(place).expanduser()).resolve()
        there = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, nobody's home
        raise UsageError(f"found TASK {text!r}, which names no file: {error}.") from None
    if not there:
        raise UsageError(f"found TASK {text!r}, but there is no file {path}.")
    names = _names_in(path)
    if name not in names and "*" not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=_ALIKE)
        meant = f" Did you mean {near[0]}?" if near else ""
        has = ", ".join(sorted(names)) or "nothing"
        raise UsageError(f"{place} has no {name!r}.{meant} It has: {has}.")
    return f"{path}:{name}"


def _check_module(name: str, folder: Path) -> None:
    """Only the top package is looked for: looking further would import the user's code."""
    top = name.partition(".")[0]
    found = top in sys.modules or importlib.util.find_spec(top) is not None
    if not found and not _lies_in(folder, top):
        raise UsageError(
            f"no module {top!r} is installed here. Install it, or give the task as a file: "
            "path/to/file.py:Name."
        )


def _lies_in(folder: Path, module: str) -> bool:
    try:
        return (folder / module).is_dir() or (folder / f"{module}.py").is_file()
    except OSError:  # a name that is too long for a file
        return False


def _names_in(path: Path) -> set[str]:
    """Names that a file defines at its top level; "*" where that cannot be told by reading."""
    tree = _parse(path)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name) if node in tree.body else None
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)) and node in tree.body:
            names.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    return {name for name in names if not name.startswith("_")}


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        at = f" at line {line}" if line else ""
        raise UsageError(f"{path} is not Python{at}: {getattr(error, 'msg', error)}.") from None
    except (OSError, RecursionError, MemoryError) as error:
        raise UsageError(f"{path} cannot be read as Python: {error}.") from None


def _guess(path: Path) -> str:
    """A name that is likely meant, for the error message."""
    try:
        if not path.is_file():
            return "Name"
    except (OSError, ValueError):  # what cannot be a path
        return "Name"
    classes = [node for node in _parse(path).body if isinstance(node, ast.ClassDef)]
    tasks = [c for c in classes if any(ast.unparse(base).endswith("Task") for base in c.bases)]
    return next((found.name for found in (*tasks, *classes)), "Name")


def _read_study_file(path: Path) -> dict[str, Any]:
    """The values of a study file. A task's path in it is relative to the file."""
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"there is no study file {path}.") from None
    # Beside TOML's own errors: numbers of thousands of digits, brackets of thousands of levels.
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"the study file {path} cannot be read as TOML: {error}.") from None
    known = set(StudySpec.model_fields) | _FILE_ONLY
    unknown = sorted(set(values) - known)
    if unknown:
        raise UsageError(
            f"{path}: no such key: {', '.join(unknown)}. A study file has: "
            f"{', '.join(sorted(known))}."
        )
    arguments = values.pop("set", {})
    if not isinstance(arguments, dict):
        raise UsageError(f"{path}: set: found {arguments!r}, expected a table: [set].")
    task: dict[str, Any] = {"arguments": arguments}
    target, command = values.pop("task", None), values.pop("command", None)
    if target is not None:
        if not isinstance(target, str):
            raise UsageError(f"{path}: task: found {target!r}, {_EXPECTED}.")
        task |= _located(target, path.parent)
    if command is not None:
        if not isinstance(command, list) or not all(isinstance(part, str) for part in command):
            raise UsageError(f"{path}: command: found {command!r}, expected a list of strings.")
        task["command"] = command
    return values | {"task": task}


def read_arguments(pairs: Sequence[str]) -> dict[str, Scalar]:
    """``--set key=value``: the value as TOML where it is that (numbers, booleans), else text.

    Raises:
        UsageError: there is no "=".
    """
    arguments: dict[str, Scalar] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--set: found {pair!r}, expected key=value, for example hidden=256.")
        arguments[key] = _scalar(value)
    return arguments


def read_search(pairs: Sequence[str]) -> dict[str, str]:
    """``--search name``, ``name=LOW:HIGH`` or ``name=A,B,C``: the text by name.

    Raises:
        UsageError: nothing stands after the "=", or one name is given twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if (equals and not value) or name in found:
            raise UsageError(
                f"--search: found {pair!r}, expected each name once, with LOW:HIGH or A,B,C, for "
                "example weight_decay=1e-5:0.1, or alone."
            )
        found[name] = value
    return found


def fresh_name(task: Mapping[str, Any]) -> str:
    """A name for a study of this task that has been given none."""
    target = task.get("target") or Path((task.get("command") or ["study"])[0]).name
    stem = re.sub(r"[^A-Za-z0-9]+", "-", target.rpartition(":")[2]).strip("-").lower()
    suffix = "".join(secrets.choice(_LETTERS) for _ in range(_SUFFIX))
    return f"{stem[:_LONGEST_STEM] or 'study'}-{suffix}"


def _scalar(text: str) -> Scalar:
    try:
        # In brackets, so that neither a comment nor a second line is taken for the end.
        [[value]] = tomllib.loads(f"value = [{text}]").values()
    except (ValueError, RecursionError):
        try:
            return float(text)  # 1e-4 and .5, which TOML does not know
        except ValueError:
            return text
    return value if isinstance(value, (bool, int, float, str)) else text


def merge(file_values: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags that were given win over the study file; those of its tables add to them."""
    merged = dict(file_values)
    for key, value in flags.items():
        if key == "arguments":
            task = dict(merged["task"])
            task["arguments"] = {**task.get("arguments", {}), **value}
            merged["task"] = task
        elif key == "search":
            merged[key] = _also(merged.get(key, {}), value)
        elif value is not None:
            merged[key] = value
    return merged


def _also(table: Any, more: Mapping[str, str]) -> Any:
    """What a file says beside what the flags say; what is no table is left to be refused."""
    return {**table, **more} if isinstance(table, Mapping) else table
