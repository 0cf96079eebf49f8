"""Finds the user's code and loads it: a Task, an Optuna objective, or a command line."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from justright.errors import TaskError, UsageError, UserCodeError
from justright.spec import TaskRef
from justright.task import Task
from worker.user_code.guard import HOUSE, OWN_NAMES, user_code


@dataclass
class Objective:
    """A function of an Optuna trial, and the values of the parameters it may not search."""

    function: Callable[[Any], Any]
    arguments: dict[str, Any]


@dataclass
class CommandLine:
    """A program that takes the learning rate as an argument and prints its metric."""

    command: tuple[str, ...]


Loaded = Task | Objective | CommandLine


def load(ref: TaskRef) -> Loaded:
    """Load what ``ref`` names.

    Raises:
        UsageError: there is no such file, module or attribute.
        TaskError: it is there, but is no task.
        UserCodeError: the user's code raised while it was imported or constructed.
    """
    if ref.target is None:
        return CommandLine(ref.command)
    place, _, name = ref.target.rpartition(":")
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place, ref.folder)
    if not hasattr(module, name):
        names = sorted(n for n in vars(module) if not n.startswith("_"))
        raise UsageError(f"{place} has no {name!r}. It has: {', '.join(names) or 'nothing'}.")
    found = getattr(module, name)
    if isinstance(found, type) and issubclass(found, Task):
        return user_code(lambda: _construct(found, ref.arguments))
    if isinstance(found, Task):
        instance = copy.copy(found)
        instance._configure(ref.arguments)
        return instance
    if inspect.isfunction(found) or (callable(found) and not isinstance(found, type)):
        return Objective(found, dict(ref.arguments))
    raise TaskError(
        f"{name} in {place} is a {_kind(found)}, expected a subclass of justright.Task or an "
        "Optuna objective: a function of one trial."
    )


def _construct(task: type[Task], arguments: dict[str, Any]) -> Task:
    try:
        inspect.signature(task).bind(**arguments)
    except TypeError as error:
        given = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise UsageError(f"{task.__name__}({given}) cannot be called: {error}.") from None
    return task(**arguments)


def _kind(found: Any) -> str:
    if isinstance(found, type):
        return "class that does not derive from justright.Task"
    return type(found).__name__


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(
            f"no file {path} on this worker. Tasks given as files must lie on a path that every "
            "worker sees; or install the task as a package and name it package.module:Name."
        )
    _refuse_hidden_names(path.parent)
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = path.stem if path.stem not in sys.modules else f"justright_task_{path.stem}"
    sys.argv = [str(path)]  # a script that reads its arguments must not see ours
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader = spec.loader
    try:
        user_code(lambda: loader.exec_module(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_module(name: str, folder: str | None) -> ModuleType:
    if name.partition(".")[0] in OWN_NAMES:
        raise UsageError(
            f"the module name {name!r} is taken by justright's own package of that name. "
            "Rename yours, or give the task as a file: path/to/file.py:Name."
        )
    if folder is not None and Path(folder).is_dir() and folder not in sys.path:
        _refuse_hidden_names(Path(folder))
        sys.path.append(folder)  # last: what is installed comes first
    sys.argv = [name]  # as for a file
    try:
        return user_code(lambda: importlib.import_module(name))
    except UserCodeError as error:
        if isinstance(error.__cause__, ModuleNotFoundError) and error.__cause__.name in (
            name,
            name.partition(".")[0],
        ):
            raise UsageError(
                f"no module {name!r} on this worker. Install it there, or give the task as a "
                "file: path/to/file.py:Name."
            ) from None
        raise


def _refuse_hidden_names(folder: Path) -> None:
    """A user's ``worker.py`` would be hidden by ours: say so instead of importing the wrong one."""
    if folder == HOUSE:
        return
    for name in OWN_NAMES:
        if (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists():
            raise UsageError(
                f"{folder} has a module named {name!r}, as justright itself has: importing it "
                "from your task would give you ours. Rename it, or move the task to a folder "
                "of its own."
            )
