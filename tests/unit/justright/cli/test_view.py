"""What people see of a study: curves, lines, tables and the answer."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from justright.cli.live import sparkline, status_tables, trial_table
from justright.cli.plain import LineView, print_answer
from justright.failures import Failure, FailureKind
from justright.lifecycle import StudyState, TrialState
from justright.messages import Answer, Snapshot, TrialView, WorkerInfo
from justright.spec import make_spec
from tests.helpers.strategies import FINITE

COUNTS = {"complete": 9, "pruned": 20, "diverged": 5, "failed": 1}
NONE_YET = dict.fromkeys(COUNTS, 0)


def a_trial(number: int, **values: Any) -> TrialView:
    return TrialView(**{"number": number, "state": TrialState.RUNNING, "lr": 0.1, **values})


def complete(number: int, loss: float, **values: Any) -> TrialView:
    return a_trial(number, state=TrialState.COMPLETE, loss=loss, best=loss, step=9, **values)


def an_answer(**values: Any) -> Answer:
    return Answer(
        **{
            "study": "s", "state": StudyState.COMPLETE, "reason": "converged", "best_lr": 0.12345,
            "params": {}, "loss": 0.098765, "loss_interval": (0.096, 0.101),
            "plateau": (0.06, 0.3), "edge_of_stability": 0.9, "trials": COUNTS, "attempts": 34,
            "epochs": 310, "full_trainings": 10.3, "seconds": 14.21, "seed": 0, **values,
        }
    )  # fmt: skip


def a_snapshot(**values: Any) -> Snapshot:
    spec = make_spec({"name": "s", "task": {"target": "/t.py:T"}, "lr": "1e-4:10"})
    return Snapshot(
        **{
            "study": "s", "submission": "1", "spec": spec, "state": StudyState.RUNNING,
            "task": "t.py:T", "total": 30, "horizon": 9, **values,
        }
    )  # fmt: skip


def a_console() -> Console:
    return Console(width=120, record=True, file=io.StringIO(), highlight=False, soft_wrap=True)


def lines_of(shown: RenderableType) -> list[str]:
    console = a_console()
    console.print(shown, soft_wrap=False)
    return [line.rstrip() for line in console.export_text().splitlines()]


def words(lines: list[str]) -> list[str]:
    return [" ".join(line.split()) for line in lines]


def printed(snapshot: Snapshot) -> list[str]:
    console = a_console()
    print_answer(snapshot, console)
    return console.export_text().splitlines()


# -- the curve ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "curve"),
    [
        ([], ""),
        ([None, None], "××"),
        ([2.5, 2.5], "▁▁"),
        ([8, 7, 6, 5, 4, 3, 2, 1], "█▇▆▅▄▃▂▁"),
        ([2, None, 1], "█×▁"),
        ([-1, -3], "█▁"),
    ],
)
def test_a_curve(losses: list[float | None], curve: str) -> None:
    assert sparkline(losses) == curve


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    assert sparkline([9.0] * 99 + [1.0], width=10) == "█████████▁"
    assert sparkline([float(step) for step in range(16)], width=8) == "▁▂▃▄▅▆▇█"


@given(st.lists(st.none() | FINITE, max_size=50), st.integers(min_value=1, max_value=30))
@example([1e308, -1e308], 20)
@example([0.0, 5e-323], 20)
def test_every_loss_can_be_drawn(losses: list[float | None], width: int) -> None:
    curve = sparkline(losses, width)
    assert len(curve) <= width
    assert bool(curve) == bool(losses)
    if losses:
        assert (curve[-1] == "×") == (losses[-1] is None)
    if len(losses) <= width:
        assert curve.count("×") == losses.count(None)


# -- lines --------------------------------------------------------------------------------------


def test_a_line_for_each_trial_that_ends(capsys: pytest.CaptureFixture[str]) -> None:
    failure = Failure(kind=FailureKind.USER, message="ValueError: no\nmore of it")
    trials = (
        complete(0, 0.25, params={"schedule": "cosine"}, reason="the horizon"),
        a_trial(1, step=4, loss=0.5, best=0.5),
        a_trial(2, state=TrialState.PRUNED, step=2, diverged=True, reason="not finite", lr=3.0),
        a_trial(3, state=TrialState.FAILED, failure=failure),
    )
    with LineView() as view:
        view.show(a_snapshot(trials=trials[:2], note="waiting for a worker"))
        view.show(a_snapshot(trials=trials[:2], note="waiting for a worker"))
        view.show(a_snapshot(trials=trials, horizon=None))
    assert words(capsys.readouterr().err.splitlines()) == [
        "waiting for a worker",
        "trial 0 lr 0.1 complete epoch 9/9 loss 0.25 schedule=cosine",
        "trial 2 lr 3 diverged epoch 2/? (not finite)",
        "trial 3 lr 0.1 failed epoch 0/? (ValueError: no)",
    ]


@pytest.mark.parametrize("quiet", [False, True])
def test_a_note_is_told_when_it_comes(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    view = LineView(quiet)
    for note in ("waiting", "waiting", "", "waiting"):
        view.show(a_snapshot(note=note))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("waiting\n") == (0 if quiet else 2)


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_is_told_about_every_tenth(
    capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    view = LineView(quiet)
    for hundredths in range(0, 100, 2):
        view.show(a_snapshot(progress=hundredths / 100))
    view.show(a_snapshot(progress=1.0, state=StudyState.COMPLETE))
    told = [line for line in capsys.readouterr().err.splitlines() if "expected work" in line]
    assert len(told) == (11 if quiet else 10)
    assert "complete, 100% of the expected work" in told[-1]


def test_a_replicate_says_whose_and_with_which_seed(capsys: pytest.CaptureFixture[str]) -> None:
    trials = (complete(0, 0.25), complete(1, 0.3, replicate_of=0, seed=7))
    LineView().show(a_snapshot(trials=trials))
    assert "seed 7 of trial 0" in capsys.readouterr().err
    assert "seed 7 of trial 0" in " ".join(lines_of(trial_table(a_snapshot(trials=trials))))


# -- tables -------------------------------------------------------------------------------------


def test_the_table_of_trials() -> None:
    trials = (
        complete(0, 0.5, losses=(2.0, 1.0, 0.5), lr=0.01234),
        complete(1, 0.25, losses=(2.0, 0.25)),
        a_trial(2, step=1, loss=4.0, best=4.0, losses=(4.0,), lr=1.0),
        a_trial(3, state=TrialState.PRUNED, diverged=True, reason="not finite", losses=(None,)),
    )
    assert words(lines_of(trial_table(a_snapshot(trials=trials), rows=9))) == [
        "trial lr state epoch loss best curve why",
        "0 0.0123 complete 9/9 0.5 0.5 █▃▁",
        "★ 1 0.1 complete 9/9 0.25 0.25 █▁",
        "2 1 running 1/9 4 4 ▁",
        "3 0.1 diverged 0/9 × not finite",
    ]


def test_a_short_table_has_the_best_what_runs_and_the_latest() -> None:
    trials = (*(complete(n, 1.0 if n == 2 else 2.0) for n in range(8)), a_trial(8), a_trial(9))
    lines = lines_of(trial_table(a_snapshot(trials=trials), rows=5))[1:]
    numbers = [line.replace("★", " ").split()[0] for line in lines]
    assert numbers == ["2", "6", "7", "8", "9"]
    assert [line.strip().startswith("★") for line in lines] == [True, *[False] * 4]


def test_the_table_of_studies_and_workers() -> None:
    worker = WorkerInfo(name="h-gpu0-1", pool="p", host="h", pid=1, device="cuda:0", lanes=4)
    busy = worker.model_copy(update={"name": "h-gpu1-2", "study": "s"})
    ended = a_snapshot(trials=(complete(0, 0.5), a_trial(1)), answer=an_answer(), note="soon")
    lines = lines_of(status_tables([ended, a_snapshot()], [worker, busy], "host-1"))
    assert words(lines) == [
        "study state task trials best lr loss note",
        "s running t.py:T 1/30 0.1235 0.09877 soon",
        "s running t.py:T 0/30",
        "",
        "worker pool device lanes works on",
        "h-gpu0-1 p cuda:0 4 idle",
        "h-gpu1-2 p cuda:0 4 s",
        "orchestrator host-1",
    ]
    assert lines_of(status_tables([], [], None)) == [
        "no studies yet", "", "no workers", "no orchestrator is active"
    ]  # fmt: skip


def test_a_failure_without_words_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A message is text, and text may be empty: no reason to stop showing the study."""
    failure = Failure(kind=FailureKind.TASK, message="")
    snapshot = a_snapshot(trials=(a_trial(0, state=TrialState.FAILED, failure=failure),))
    assert "failed" in lines_of(trial_table(snapshot, rows=5))[1]
    LineView().show(snapshot)
    assert "failed" in capsys.readouterr().err


# -- the answer ---------------------------------------------------------------------------------


def test_the_answer() -> None:
    assert printed(a_snapshot(answer=an_answer(params={"schedule": "cosine"}))) == [
        "best learning rate  0.1235, schedule cosine",
        "loss                0.09877  (95 %: 0.096 to 0.101)",
        "as good from        0.06 to 0.3",
        "diverges from       0.9",
        "study s: 9 trials complete, 20 pruned (5 diverged), 1 failed; 310 epochs = 10.3 full "
        "trainings in 14.2 s, ended by: converged",
    ]


def test_an_answer_that_knows_little() -> None:
    little = {
        "loss_interval": None, "plateau": None, "edge_of_stability": None, "reason": None,
        "full_trainings": None,
    }  # fmt: skip
    assert printed(a_snapshot(answer=an_answer(**little))) == [
        "best learning rate  0.1235",
        "loss                0.09877",
        "study s: 9 trials complete, 20 pruned (5 diverged), 1 failed; 310 epochs in 14.2 s",
    ]


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ({}, "no trial has completed."),
        ({"pruned": 1, "diverged": 1}, "no trial has completed."),
        ({"failed": 2}, "2 of 2 trials failed, none completed."),
        ({"pruned": 2, "diverged": 2}, "every trial diverged (2 of 2). The range 0.0001:10 is too"),
    ],
)
def test_why_there_is_no_answer(counts: dict[str, int], why: str) -> None:
    answer = an_answer(best_lr=None, loss=None, trials=NONE_YET | counts)
    [line] = printed(a_snapshot(answer=answer, trials=(a_trial(0), a_trial(1))))
    assert line.startswith(f"no answer for study s: {why}")


def test_not_every_trial_diverged_where_one_failed() -> None:
    counts = NONE_YET | {"pruned": 1, "diverged": 1, "failed": 1}
    answer = an_answer(best_lr=None, loss=None, trials=counts)
    [line] = printed(a_snapshot(answer=answer, trials=(a_trial(0), a_trial(1))))
    assert "every trial" not in line


def test_there_is_no_answer_before_any_training() -> None:
    nothing = ["no answer for study s: nothing has been trained yet."]
    assert printed(a_snapshot()) == nothing
    assert printed(a_snapshot(answer=an_answer(best_lr=None, trials=NONE_YET))) == nothing
    failure = Failure(kind=FailureKind.TASK, message="model() gave None")
    assert printed(a_snapshot(failure=failure)) == ["no answer for study s: model() gave None"]
