"""Loads what the command line hands over to, when it is needed, and sees that it is ours.

``orchestrator`` and ``worker`` are not imported by name anywhere in ``justright``: a client has
neither, and torch and Optuna take seconds to load.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from justright.errors import JustrightError, UsageError

_HOME = Path(__file__).resolve().parents[2]  # where our packages lie side by side


def load_package(name: str) -> ModuleType:
    """Import a module of one of our other packages, such as ``worker.main``.

    Raises:
        UsageError: the user's PYTHONPATH or folder has a module of that name before ours.
        JustrightError: a package that it needs is not installed.
    """
    package = name.partition(".")[0]
    found = importlib.import_module(package).__file__ or ""
    if Path(found).resolve().parent != _HOME / package:
        raise UsageError(
            f"found a module {package!r} at {found}, which hides justright's own package of that "
            "name. Rename it, or take its folder off PYTHONPATH."
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in (package, "justright"):
            raise
        extra = "dashboard" if "dashboard" in name else package
        raise JustrightError(
            f"this needs the Python package {missing}, which is not installed here: "
            f"pip install 'justright[{extra}]'. On a machine without a GPU, torch comes as the "
            "smaller CPU build with --extra-index-url https://download.pytorch.org/whl/cpu"
        ) from None
