"""What the source of an objective says of its value: whether it rises as a training goes better."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from justright.rising import rises, rising_warning

_MAXIMIZES = (
    "this file asks Optuna to maximize (create_study(direction=...)), and justright looks for the "
    "LOWEST value: it would answer the worst rate. Return what falls, for example 1 - accuracy."
)


def warnings_of(function: Callable[[Any], Any]) -> tuple[str, ...]:
    """What its user should hear of before it is minimized."""
    for name, whose in _given(function):
        if rises(name):
            return (rising_warning(name, f"the objective {whose}"),)
    return (_MAXIMIZES,) if _maximizes(function) else ()


def _given(function: Callable[[Any], Any]) -> Iterator[tuple[str, str]]:
    """The names of what it returns and reports, as far as they are names."""
    tree = _parse(function)
    for node in _own_nodes(tree) if tree else ():
        if isinstance(node, ast.Return) and node.value is not None:
            yield from ((name, "returns") for name in _names(node.value))
    for node in _own_nodes(tree) if tree else ():
        match node:
            case ast.Call(func=ast.Attribute(attr="report"), args=[value, *_]):
                yield from ((name, "reports") for name in _names(value))


def _names(value: ast.expr) -> Iterator[str]:
    """What a value is called where it is one name, a lookup, or the result of a function.

    A difference or a negative is another thing than what it is made from.
    """
    match value:
        case ast.Name(id=name):
            yield name
        case ast.Attribute(attr=name):
            yield name
        case ast.Subscript(value=inner, slice=ast.Constant(value=str(name))):
            yield name
        case ast.Subscript(value=inner):
            yield from _names(inner)
        case ast.Call(func=ast.Name(id="float" | "max" | "round"), args=[inner, *_]):
            yield from _names(inner)
        case ast.Call(func=ast.Attribute(value=inner, attr="item" | "mean" | "compute" | "cpu")):
            yield from _names(inner)
        case ast.BinOp(op=ast.Div(), left=inner):
            yield from _names(inner)  # the share that is correct
        case ast.BinOp(op=ast.Mult(), left=left, right=right):
            yield from _names(left)
            yield from _names(right)
        case ast.Call(func=inner):
            yield from _names(inner)


def _own_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All of a function, without functions that are defined within it."""
    waiting = list(ast.iter_child_nodes(tree))
    while waiting:
        node = waiting.pop(0)
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            waiting += ast.iter_child_nodes(node)


def _maximizes(function: Callable[[Any], Any]) -> bool:
    """Whether its file makes a study that maximizes."""
    module = sys.modules.get(getattr(function, "__module__", None) or type(function).__module__)
    try:
        tree = ast.parse(inspect.getsource(module)) if module else None
    except (OSError, TypeError, SyntaxError, ValueError):
        return False
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg == "direction" and "maximize" in ast.unparse(keyword.value).lower():
                    return True
    return False


def _parse(function: Callable[[Any], Any]) -> ast.AST | None:
    """The function itself; None where its source cannot be had."""
    called = function if inspect.isroutine(function) else type(function).__call__
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(called))))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    return tree.body[0] if tree.body else None
