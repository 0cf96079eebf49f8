"""Loading the user's code: what is found, what is refused, and whose traceback it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from justright.errors import JustrightError, TaskError, UsageError, UserCodeError
from justright.spec import TaskRef
from justright.task import Task
from worker.user_code.guard import HOUSE
from worker.user_code.loading import CommandLine, Objective, load

SOURCE = """
import functools

import torch

import justright
{imports}


class Tiny(justright.Task):
    epochs = 2
    hidden = 4

    def model(self):
        return torch.nn.Sequential(torch.nn.Linear(3, self.hidden), torch.nn.Linear(self.hidden, 2))

    def train_data(self):
        return torch.ones(8, 3), torch.zeros(8, dtype=torch.long)


class Strict(Tiny):
    def __init__(self, depth, width=2):
        self.depth, self.width = depth, width


class Broken(Tiny):
    def __init__(self):
        raise RuntimeError("the licence has run out")


class Unrelated:
    pass


class Callable:
    def __call__(self, trial):
        return 1.0


def objective(trial, scale=1.0):
    return scale


tiny = Tiny(hidden=8)
bound = functools.partial(objective, scale=2.0)
called = Callable()
seven = 7
"""


@pytest.fixture(autouse=True)
def _own_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a test imports is forgotten: each test is a process that has loaded nothing yet."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def write(
    folder: Path, name: str = "tiny_task.py", imports: str = "", source: str = SOURCE
) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source.replace("{imports}", imports))
    return path


def ref(target: str, **arguments: Any) -> TaskRef:
    return TaskRef(target=target, arguments=arguments)


# -- what is found -----------------------------------------------------------------------------


def test_a_task_class_with_arguments(tmp_path: Path) -> None:
    path = write(tmp_path)
    task = load(ref(f"{path}:Tiny", hidden=16, epochs=5))
    assert isinstance(task, Task)
    assert (task.epochs, task.hidden) == (5, 16)  # type: ignore[attr-defined]
    again = load(ref(f"{path}:Tiny"))
    assert isinstance(again, Task)
    assert (again.epochs, again.hidden) == (2, 4), "the class is untouched"  # type: ignore[attr-defined]
    strict: Any = load(ref(f"{path}:Strict", depth=3))
    assert (strict.depth, strict.width) == (3, 2)


def test_a_task_instance_takes_arguments_as_well(tmp_path: Path) -> None:
    path = write(tmp_path)
    plain: Any = load(ref(f"{path}:tiny"))
    assert (plain.hidden, plain.epochs) == (8, 2)
    changed: Any = load(ref(f"{path}:tiny", epochs=7))
    assert (changed.hidden, changed.epochs) == (8, 7)


@pytest.mark.parametrize("name", ["objective", "bound", "called"])
def test_an_objective(tmp_path: Path, name: str) -> None:
    found = load(ref(f"{write(tmp_path)}:{name}", depth=3))
    assert isinstance(found, Objective)
    assert found.arguments == {"depth": 3}
    assert found.function(None) == (2.0 if name == "bound" else 1.0)


def test_a_command_line() -> None:
    command = ("python", "train.py", "--lr", "{lr}")
    assert load(TaskRef(command=command)) == CommandLine(command)


def test_a_module_and_the_modules_beside_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "installed", "tinypack/tasks.py")
    write(tmp_path / "installed", "tinypack/__init__.py", source="")
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    assert isinstance(load(ref("tinypack.tasks:Tiny")), Task)
    write(tmp_path / "file", "tiny_widths.py", source="WIDTH = 32\n")
    path = write(tmp_path / "file", imports="import tiny_widths\n")
    assert isinstance(load(ref(f"{path}:Tiny")), Task)


def test_a_file_named_like_a_loaded_module_hides_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "json.py")
    before = sys.modules["json"]
    assert isinstance(load(ref(f"{path}:Tiny")), Task)
    assert sys.modules["json"] is before


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hiden", "_hidden", "model", "loss"])
@pytest.mark.parametrize("target", ["Tiny", "tiny"])
def test_an_unknown_argument_is_named(tmp_path: Path, target: str, name: str) -> None:
    """Nor may an argument put itself in the place of a method."""
    with pytest.raises(UsageError, match=rf"'{name}'.*batch_size, .*hidden") as caught:
        load(ref(f"{write(tmp_path)}:{target}", **{name: 3}))
    assert "model," not in str(caught.value)


WRONG: dict[str, tuple[str, type[JustrightError], str]] = {
    "file": ("{folder}/nowhere.py:Tiny", UsageError, r"no file .*nowhere\.py.* every worker sees"),
    "name": ("{folder}/tiny_task.py:Tyni", UsageError, r"no 'Tyni'\. It has: .*Tiny"),
    "module": ("no_such_package.x:Tiny", UsageError, r"no module 'no_such_package\.x'"),
    "submodule": ("email.no_such:Tiny", UsageError, r"no module 'email\.no_such'"),
    "own": ("worker.training.trainer:Tiny", UsageError, r"taken by justright's own package"),
    "class": ("{folder}/tiny_task.py:Unrelated", TaskError, r"does not derive from justright"),
    "number": ("{folder}/tiny_task.py:seven", TaskError, r"seven in .* is a int, expected a sub"),
    "missing": ("{folder}/tiny_task.py:Strict", UsageError, r"Strict\(\).*'depth'"),
    "raises": ("{folder}/tiny_task.py:Broken", UserCodeError, "RuntimeError: the licence"),
}


@pytest.mark.parametrize(("target", "kind", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_loaded(
    tmp_path: Path, target: str, kind: type[JustrightError], message: str
) -> None:
    write(tmp_path)
    with pytest.raises(kind, match=message):
        load(ref(target.replace("{folder}", str(tmp_path))))


@pytest.mark.parametrize("hidden", ["worker.py", "orchestrator/__init__.py", "justright.py"])
def test_a_module_that_ours_would_hide_is_refused(tmp_path: Path, hidden: str) -> None:
    write(tmp_path, hidden, source="")
    name = hidden.partition("/")[0].removesuffix(".py")
    with pytest.raises(UsageError, match=f"a module named '{name}', as justright itself has"):
        load(ref(f"{write(tmp_path)}:Tiny"))


# -- whose traceback ---------------------------------------------------------------------------

TROUBLE: dict[str, tuple[str, list[str]]] = {
    "own-error": ("def dig():\n    raise ValueError('deep')\ndig()\n", ["line 2, in dig"]),
    "in-a-library": ("import torch\ntorch.ones(2) @ torch.ones(3)\n", ["line 2, in <module>"]),
    "in-python": ("import json\njson.loads('{')\n", ["line 2, in <module>", "JSONDecodeError"]),
    "no-library": ("import no_such_library\n", ["line 1", "No module named 'no_such_library'"]),
    "no-python": ("def half(:\n", ["line 1", "SyntaxError"]),
    "exits": ("import sys\nsys.exit('usage: train.py --data DIR')\n", ["usage: train.py"]),
}  # fmt: skip


@pytest.mark.parametrize(("source", "parts"), TROUBLE.values(), ids=TROUBLE)
def test_a_traceback_is_the_users_alone(tmp_path: Path, source: str, parts: list[str]) -> None:
    path = write(tmp_path, "trouble_task.py", source=source)
    with pytest.raises(UserCodeError) as caught:
        load(ref(f"{path}:Tiny"))
    shown = caught.value.traceback
    for part in [*parts, "trouble_task.py"]:
        assert part in shown
    for place in (str(HOUSE / "worker"), "site-packages", os.path.dirname(os.__file__), "<frozen"):
        assert place not in shown
    assert "trouble_task" not in sys.modules, "it can be loaded again once it is mended"
