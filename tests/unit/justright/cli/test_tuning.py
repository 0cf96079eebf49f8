"""What ends a ``tune`` on the command line, and what is said then."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from justright.cli import tuning
from justright.cli.signals import Terminated, ignore_signals, raise_on_signals
from justright.client.tune import Watcher
from justright.messages import Snapshot
from justright.spec import StudySpec, make_spec

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SPEC = make_spec({"name": "mine", "task": {"target": "/x.py:T"}})


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def raise_signal(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


# -- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_exception_with_the_code_of_a_shell(number: signal.Signals) -> None:
    raise_on_signals()
    with pytest.raises(Terminated) as caught:
        raise_signal(number)
    assert caught.value.code == 128 + number


def test_what_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise_on_signals()
    raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


def test_who_ends_already_is_not_to_be_disturbed() -> None:
    raise_on_signals()
    ignore_signals()
    for number in ENDING:
        raise_signal(number)


# -- a tune ---------------------------------------------------------------------------------------


def run_with(monkeypatch: pytest.MonkeyPatch, ends: Callable[[], None], kept: bool) -> None:
    """Run a ``tune`` that starts nothing, and ends as the function does."""

    def tune(
        spec: StudySpec, *, gpus: list[str], workers: int | None, watcher: Watcher
    ) -> Snapshot:
        try:
            watcher.started()
            ends()
            raise AssertionError("it goes on")
        finally:
            watcher.ending()
            raise_signal(signal.SIGINT)  # while it ends
            watcher.ended(kept)

    monkeypatch.setattr(tuning, "tune", tune)
    tuning.run(SPEC, workers=None, quiet=True)


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("kept", [True, False])
def test_an_interrupted_study_says_how_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    kept: bool,
) -> None:
    ours = KeyboardInterrupt if number == signal.SIGINT else Terminated
    with pytest.raises(ours):
        run_with(monkeypatch, lambda: raise_signal(number), kept)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("\nstopping: "), "nothing is said while it stops"
    said = "stopped; to go on: justright resume mine (or the same command with --name mine)\n"
    assert err.endswith(said) == kept


def test_what_fails_by_itself_says_so_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        run_with(monkeypatch, fail, kept=True)
    assert capsys.readouterr() == ("", "")
