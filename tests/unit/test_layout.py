"""The house: who may import whom, and how large a room may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT

#: Each package's rooms, from the bottom up: a room imports those before it, never those after it.
#: "" are the modules that lie in the package itself and are no room's, named one by one below.
ROOMS = {
    "justright": ("base", "brokers", "local", "client", "cli", "door"),
    "orchestrator": (
        "base", "storage", "search", "answers", "studies", "dashboard", "reconcile", "door",
    ),
    "worker": (
        "base", "user_code", "checkpoints", "lanes", "training", "jobs", "parent", "child", "door",
    ),
}  # fmt: skip
#: Within rooms of search, likewise.
SEARCH = ("base", "freeze_thaw", "optuna", "choice")
LOOSE = {
    "justright.__main__": "door",
    "orchestrator.reconcile": "reconcile",
    "orchestrator.main": "door",
    "worker.child": "child",
    "worker.main": "door",
}
BASE_FOLDERS = {"messages"}  # folders that belong to the base
LAZY = ("import_module", "__import__", "load_package")  # functions that import by name

MOST_LINES, MOST_FUNCTION, MOST_METHODS = 400, 60, 25


@dataclass(frozen=True)
class Import:
    """One import of one of our modules."""

    module: str
    line: int
    lazy: bool  #: By a function that is given the name.
    inside: bool  #: In a function, so only when that is called.


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


EVERY = [path for package in ROOMS for path in sources(package)]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imports(path: Path) -> Iterator[Import]:
    tree = parse(path)
    inner = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.Lambda))
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        lazy = False
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here, so that this test can read them"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            lazy = called in LAZY
            names = [str(node.args[0].value)] if lazy else []
        for name in names:
            if name.partition(".")[0] in ROOMS:
                yield Import(name, getattr(node, "lineno", 0), lazy, id(node) in inner)


def room(module: str) -> str:
    """The room that a module, or a name in one, is in."""
    parts = module.split(".")
    for known, its in LOOSE.items():
        if module == known or module.startswith(known + "."):
            return its
    if len(parts) > 1 and parts[1] in ROOMS[parts[0]]:
        return parts[1]
    return "base"


def search_room(module: str) -> str:
    """Within the search."""
    part = module.split(".")[2] if module.count(".") > 1 else "base"
    return part if part in SEARCH else "choice" if part in ("choosing", "rate_first") else "base"


@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_folders_import_in_one_direction(path: Path) -> None:
    own = name_of(path)
    package = own.partition(".")[0]
    order = ROOMS[package]
    for found in imports(path):
        other = found.module.partition(".")[0]
        where = f"{path.relative_to(ROOT)}:{found.line} imports {found.module}"
        if other != package:
            to_contract = other == "justright" and room(found.module) in ("base", "brokers")
            if package == "justright":
                assert found.lazy, f"{where}: the front door hands over by name"
                assert found.inside, f"{where} when it is imported itself"
                assert room(own) == "cli", f"{where}: only the command line hands over"
            else:
                allowed = to_contract or (package, room(own)) == ("orchestrator", "dashboard")
                assert allowed, f"{where}: it may know the contract"
            continue
        assert order.index(room(found.module)) <= order.index(room(own)), f"{where}, above it"
        if own.startswith("orchestrator.search") and found.module.startswith("orchestrator.search"):
            theirs, ours = search_room(found.module), search_room(own)
            below = SEARCH.index(theirs) <= SEARCH.index(ours)
            beside = {theirs, ours} == {"freeze_thaw", "optuna"}
            assert below, f"{where}, above it"
            assert not beside, f"{where}, beside it"


@pytest.mark.parametrize("package", ROOMS)
def test_every_folder_is_a_room(package: str) -> None:
    folders = {path.name for path in (ROOT / package).iterdir() if (path / "__init__.py").exists()}
    assert folders - BASE_FOLDERS == set(ROOMS[package]) & folders
    assert len(folders) > 3


def test_the_front_door_reaches_all() -> None:
    reached = {found.module.partition(".")[0] for p in sources("justright") for found in imports(p)}
    assert reached == set(ROOMS)


# -- size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_nothing_is_too_large(path: Path) -> None:
    """A module says in its docstring, a function or class in a comment, why it must be: "Long:"."""
    text = path.read_text()
    lines = text.splitlines()
    assert len(lines) <= MOST_LINES or "Long:" in text, f"{path}: {len(lines)} lines"
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef):
            size = (node.end_lineno or 0) - node.lineno + 1
            reason = "Long:" in "\n".join(lines[node.lineno - 1 : node.end_lineno])
            assert size <= MOST_FUNCTION or reason, f"{path}: {node.name} has {size} lines"
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(child, ast.FunctionDef) for child in node.body)
            assert methods <= MOST_METHODS, f"{path}: {node.name} has {methods} methods"
