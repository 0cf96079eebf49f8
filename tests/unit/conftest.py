from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _disks_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug here; to wait for the disk took a third of some tests."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def few_surfaces() -> Iterator[None]:
    """Searches on an eighth of the library of real surfaces, which cost an eighth of the time."""
    from orchestrator.search.freeze_thaw import planner
    from orchestrator.search.freeze_thaw.library import Library, library

    whole, each = library(), slice(None, None, 8)
    few = Library(whole.surfaces[each], whole.log_weights[each], whole.noise[each])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "library", lambda: few)
        yield
