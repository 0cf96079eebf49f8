"""Any program as a trial: real small ones, and every way in which they end."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from justright.errors import TaskError
from justright.messages import Outcome, OutcomeKind, Report, TrialWork
from tests.helpers.wire import STUDY, Wire
from worker.jobs.program import fill_in, run_command

WORK = TrialWork(number=3, lr=0.0125, seed=11, attempt=2)


@pytest.fixture
def wire() -> Wire:
    return Wire(WORK.number)


def run(wire: Wire, program: str, *arguments: str, **options: Any) -> Outcome:
    """Run a Python program given as its text."""
    return run_words(wire, (sys.executable, "-u", "-c", program, *arguments), **options)


def run_words(
    wire: Wire, command: tuple[str, ...], metric: str | None = None, known: str = ""
) -> Outcome:
    """Run any program."""
    return wire.run(
        WORK,
        lambda attempt: run_command(command, attempt, epochs=None, metric=metric, known=known),
    )


# -- the command line -------------------------------------------------------------------------


def test_the_values_of_the_trial_are_filled_in() -> None:
    command = ("train", "--lr={lr}", "{seed}/{trial}", "{epochs}", '{"a": {b}}', "{}", "{LR}")
    assert fill_in(command, WORK, 30) == [
        "train", "--lr=0.0125", "11/3", "30", '{"a": {b}}', "{}", "{LR}"
    ]  # fmt: skip
    assert fill_in(("{epochs}",), WORK, None) == [""]


@given(st.floats(min_value=1e-12, max_value=1e6))
def test_the_rate_is_filled_in_as_every_parser_reads_it(lr: float) -> None:
    work = TrialWork(number=0, lr=lr, seed=0, attempt=1)
    (text,) = fill_in(("{lr}",), work, None)
    assert float(text) == pytest.approx(lr, rel=1e-5)


@given(st.text())
def test_all_else_stays_as_it_is(text: str) -> None:
    if not any(mark in text for mark in ("{lr}", "{seed}", "{trial}", "{epochs}")):
        assert fill_in((text,), WORK, 3) == [text]


# -- how a program ends -----------------------------------------------------------------------

TRAINS = """
import sys
rate = float(sys.argv[1])
print("using", rate)
for epoch in range(1, 4):
    print(f"epoch {epoch}", file=sys.stderr)
    print(f"train_loss: 9 val_loss: {rate / epoch:.6f}")
"""


def test_to_its_end(wire: Wire) -> None:
    outcome = run(wire, TRAINS, "{lr}")
    losses = tuple((step, round(0.0125 / step, 6)) for step in (1, 2, 3))
    assert outcome == Outcome(
        study=STUDY,
        trial=3,
        attempt=2,
        kind=OutcomeKind.COMPLETE,
        step=3,
        losses=losses,
        metric="val loss",
    )
    assert wire.told() == [
        Report(study=STUDY, trial=3, attempt=2, step=step, loss=loss) for step, loss in losses
    ]


def test_a_metric_of_another_name(wire: Wire) -> None:
    run(wire, TRAINS, "{lr}", metric="train_loss")
    assert wire.losses() == [(1, 9.0), (2, 9.0), (3, 9.0)]


def test_output_that_is_no_text_does_not_matter(wire: Wire) -> None:
    program = "import sys; sys.stdout.buffer.write(b'\\xff\\xfe loss: 0.5\\n\\x80')"
    assert run(wire, program).kind is OutcomeKind.COMPLETE
    assert wire.losses() == [(1, 0.5)]


def test_a_program_that_reads_gets_nothing(wire: Wire) -> None:
    assert run(wire, "print('loss:', len(input() if 0 else __import__('sys').stdin.read()))")
    assert wire.losses() == [(1, 0.0)]


# Writes its process id beside its losses, so that the test can see that it has gone.
ENDLESS = """
import os, sys, time
open(sys.argv[1], "w").write(str(os.getpid()))
for step in range(10**9):
    print(f"val_loss: {sys.argv[2]}", flush=True)
    time.sleep(0.01)
"""


def gone(pid_file: Path) -> bool:
    """Whether the program has ended, now or within a moment."""
    pid = int(pid_file.read_text())
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_told_to_stop(wire: Wire, tmp_path: Path) -> None:
    wire.stop(3, attempt=2)
    outcome = run(wire, ENDLESS, str(tmp_path / "pid"), "1.0")
    assert outcome.kind is OutcomeKind.STOPPED
    assert outcome.reason == "worse than the median"
    assert outcome.step >= 1
    assert gone(tmp_path / "pid")
    assert [step for step, _ in wire.losses()] == list(range(1, outcome.step + 1))


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "NaN"])
def test_a_loss_that_is_not_finite_ends_it(wire: Wire, tmp_path: Path, bad: str) -> None:
    outcome = run(wire, ENDLESS, str(tmp_path / "pid"), bad)
    assert (outcome.kind, outcome.step) == (OutcomeKind.DIVERGED, 1)
    assert f"printed val_loss {float(bad)}" in outcome.reason
    assert gone(tmp_path / "pid")
    assert wire.losses() == [(1, None)]


LINGERS = """
import os, time
open("pid", "w").write(str(os.getpid()))
print("loss: nan", flush=True)
time.sleep(3)
open("went-on", "w").close()
"""


def test_what_a_program_has_started_ends_with_it(wire: Wire, tmp_path: Path) -> None:
    """A shell that calls the training: ended alone, it would leave the training behind."""
    (tmp_path / "train.py").write_text(LINGERS)
    script = f"cd '{tmp_path}'; '{sys.executable}' train.py; echo finished"
    outcome = run_words(wire, ("sh", "-c", script))
    assert outcome.kind is OutcomeKind.DIVERGED
    assert gone(tmp_path / "pid")
    assert not (tmp_path / "went-on").exists()


# -- what goes wrong --------------------------------------------------------------------------

FAULTS: dict[str, tuple[str, list[str]]] = {
    "exit-code": ("print('loss: 1'); exit(7)", ["exit code 7", "loss: 1"]),
    "raises": ("raise ValueError('no such data')", ["exit code 1", "ValueError: no such data"]),
    "signal": ("import os; os.kill(os.getpid(), 15)", ["SIGTERM"]),
    "silent": ("print('accuracy: 0.9')", ["never printed val_loss or", "--metric", "accuracy"]),
    "long": ("for i in range(999): print('row', i)", ["never printed", "row 998", "row 969\n"]),
}  # fmt: skip


@pytest.mark.parametrize(("program", "parts"), FAULTS.values(), ids=FAULTS)
def test_what_goes_wrong_is_told(wire: Wire, program: str, parts: list[str]) -> None:
    with pytest.raises(TaskError) as caught:
        run(wire, program)
    for part in parts:
        assert part in str(caught.value)
    assert "row 968" not in str(caught.value), "only the end of the output is shown"


def test_a_metric_that_was_never_printed_is_named(wire: Wire) -> None:
    with pytest.raises(TaskError, match="never printed perplexity; expected"):
        run(wire, TRAINS, "{lr}", metric="perplexity")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("no-such-program", "cannot run 'no-such-program': No such file"),
        (os.devnull, "cannot run '/dev/null': Permission denied"),
    ],
)
def test_a_program_that_cannot_be_run(wire: Wire, program: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        run_words(wire, (program, "{lr}"))


def test_a_program_that_gives_up_on_a_nan_has_diverged(wire: Wire) -> None:
    """Its own exit code, before or after it is ended, does not make that a failure."""
    outcome = run(wire, "import sys; print('loss: 1'); print('loss: nan'); sys.exit(9)")
    assert (outcome.kind, outcome.step) == (OutcomeKind.DIVERGED, 2)


def test_a_silent_program_can_be_stopped(wire: Wire) -> None:
    """It prints its loss only at its end, which it would reach in minutes."""
    wire.stop(3, attempt=2, reason="cancelled")
    outcome = run(wire, "import time; time.sleep(300); print('loss 1')", "{lr}")
    assert outcome.kind == OutcomeKind.STOPPED
    assert outcome.reason == "cancelled"


def test_what_a_program_leaves_behind_ends_with_it(wire: Wire, tmp_path: Path) -> None:
    """It ends while something that it has started holds its output open."""
    pid_file = tmp_path / "pid"
    script = f"sleep 300 & echo $! > {pid_file}; echo loss 0.5 {{lr}}"
    outcome = run_words(wire, ("sh", "-c", script))
    assert outcome.kind == OutcomeKind.COMPLETE
    assert outcome.step == 1
    state = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    deadline = time.monotonic() + 30
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- what it prints, and when -----------------------------------------------------------------


def test_python_does_not_hold_back_what_it_prints(wire: Wire, monkeypatch: Any) -> None:
    """It asks whether its output is buffered, as it would be in a pipe."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    program = "import sys; print('val_loss:', int(not sys.stdout.write_through))"
    assert run_words(wire, (sys.executable, "-c", program)).kind is OutcomeKind.COMPLETE
    assert wire.losses() == [(1, 0.0)]


BARS = """
import sys
for epoch in (1, 2):
    for batch in (1, 2, 3):
        sys.stdout.write(f"\\r{batch * 33}%|##  | {batch}/3 [00:01, 9.1it/s, loss={9 / batch}]")
    if sys.argv[1] == "cleared":
        sys.stdout.write("\\r" + " " * 50 + "\\r")
    else:
        sys.stdout.write("\\n")
"""


@pytest.mark.parametrize("way", ["kept", "cleared"])
def test_a_progress_bar_counts_as_it_stood_last(wire: Wire, way: str) -> None:
    run(wire, BARS, way)
    assert wire.losses() == [(1, 3.0), (2, 3.0)]


def test_lines_that_only_go_back_to_their_beginning_all_count(wire: Wire) -> None:
    run(wire, "for e in (3, 2, 1): print(f'\\repoch {e} val_loss: {e}', end='')")
    assert wire.losses() == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_a_training_loss_is_reported_at_the_end_with_a_word(wire: Wire) -> None:
    run(wire, "for e in (3, 2): print('train loss:', e)")
    *reports, notice = wire.told()
    assert [report.loss for report in reports] == [3.0, 2.0]
    assert "no validation loss: 'train loss' is read" in notice.text


def test_a_metric_that_rises_is_warned_of(wire: Wire) -> None:
    run(wire, "print('accuracy: 0.9')", metric="accuracy")
    notice, report = wire.told()
    assert "'accuracy', which rises" in notice.text
    assert report.loss == 0.9


GIVES_UP: dict[str, str] = {
    "exits": "print('Loss is nan, stopping training'); exit(1)",
    "after a loss": "print('val_loss: 2'); print('non-finite loss, bye'); exit(3)",
    "in good order": "print('val_loss: 2'); print('Loss became NaN: stopping')",
    "raises": "print('val_loss: 2'); raise ValueError('loss is not finite')",
    "asserts": "import math\nloss = math.nan\nassert math.isfinite(loss)",
    "overflows": "print(2.0 ** 5000)",
}


@pytest.mark.parametrize("program", GIVES_UP.values(), ids=GIVES_UP)
def test_a_program_that_ends_itself_on_a_number_that_is_not_finite(
    wire: Wire, tmp_path: Path, program: str
) -> None:
    (tmp_path / "train.py").write_text(program)
    outcome = run_words(wire, (sys.executable, str(tmp_path / "train.py")))
    assert outcome.kind is OutcomeKind.DIVERGED
    assert outcome.reason.startswith("the program ended itself: ")


def test_a_warning_that_training_went_on_from_is_none(wire: Wire) -> None:
    program = "print('loss is nan, batch skipped'); print('val_loss: 2'); print('best loss: inf')"
    assert run(wire, program).kind is OutcomeKind.COMPLETE
