"""``tune`` as a function, called where signals, a terminal and the main thread are the caller's."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from justright.client.tune import Watcher, tune
from justright.errors import UsageError
from justright.lifecycle import StudyState
from justright.messages import Snapshot
from justright.spec import StudySpec, make_spec
from tests.helpers.leftovers import processes_of, studies_in

TINY = """
import torch

import justright


class Tiny(justright.Task):
    epochs = 2

    def model(self):
        return torch.nn.Linear(4, 2)

    def train_data(self):
        inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        return inputs, (inputs.sum(dim=1) > 0).long()
"""


class Notes(Watcher):
    """Notes what it is told, and how many processes there are at each turn."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self.told: list[tuple[str, bool]] = []
        self.seen: list[Snapshot] = []

    def _note(self, what: str) -> None:
        self.told.append((what, bool(processes_of(self._state))))

    def started(self) -> None:
        self._note("started")

    def show(self, snapshot: Snapshot) -> None:
        self.seen.append(snapshot)

    def ending(self) -> None:
        self._note("ending")

    def ended(self, kept: bool) -> None:
        self._note(f"ended, kept: {kept}")


@pytest.fixture
def state() -> Path:
    return Path(os.environ["JUSTRIGHT_STATE"])


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    (tmp_path / "task.py").write_text(TINY)
    task = {"target": f"{tmp_path}/task.py:Tiny"}
    return make_spec({"name": "called", "task": task, "trials": 2})


def test_it_runs_in_any_thread_and_prints_nothing(
    spec: StudySpec, state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where it set a signal handler, Python would raise: that is for the main thread alone."""
    notes = Notes(state)
    with ThreadPoolExecutor(1) as pool:
        snapshot = pool.submit(tune, spec, gpus=[], watcher=notes).result(timeout=120)
    assert snapshot.state == StudyState.COMPLETE
    assert notes.seen[-1] == snapshot
    assert notes.told == [("started", True), ("ending", True), ("ended, kept: True", False)]
    assert studies_in(state) == ["called"]
    assert capfd.readouterr() == ("", "")
    with pytest.raises(UsageError, match="another seed"):
        tune(spec.model_copy(update={"seed": 1}), gpus=[])


class Interrupts(Notes):
    def started(self) -> None:
        super().started()
        raise KeyboardInterrupt


def test_what_its_caller_raises_ends_it(
    spec: StudySpec, state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing was trained, so nothing is kept; no signal means anything else than before."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    notes = Interrupts(state)
    with pytest.raises(KeyboardInterrupt):
        tune(spec, gpus=[], watcher=notes)
    assert notes.told == [("started", True), ("ending", True), ("ended, kept: False", False)]
    assert studies_in(state) == []
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
    assert capfd.readouterr() == ("", "")
