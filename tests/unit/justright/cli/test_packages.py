"""A role whose packages are not installed says which extra it needs."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from justright.cli.packages import load_package
from justright.errors import JustrightError

MISSING = {
    "worker.main": ("torch", "justright[worker]"),
    "orchestrator.main": ("optuna", "justright[orchestrator]"),
    "orchestrator.dashboard.server": ("optuna_dashboard", "justright[dashboard]"),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_not_installed_is_named_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing, extra = MISSING[name]
    load = importlib.import_module

    def without(wanted: str, package: str | None = None) -> ModuleType:
        if wanted == name:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=f"{missing}.core")
        return load(wanted, package)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(JustrightError) as told:
        load_package(name)
    assert missing in str(told.value)
    assert extra in str(told.value)
    assert told.value.exit_code == 1
