"""The answer: the best rate, its interval, the plateau and the edge of stability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from justright.lifecycle import StudyState, TrialState
from justright.messages import Answer
from justright.spec import StudySpec, TaskRef
from orchestrator.answers.advice import with_words
from orchestrator.answers.answer import Result, as_note, make_answer

COMPLETE, PRUNED = TrialState.COMPLETE, TrialState.PRUNED


def answer_of(results: list[Result], **values: Any) -> Answer:
    about: dict[str, Any] = {"horizon": 10, "initial_loss": None, "seconds": 1.0, "seed": 0}
    state, reason = StudyState.COMPLETE, "trials"
    return make_answer("s", state, reason, results, **{**about, **values})


def done(losses: Mapping[float, float | list[float]], **values: Any) -> list[Result]:
    """Complete trials: a loss for each rate, or one for each of its replicates."""
    results: list[Result] = []
    for lr, found in losses.items():
        original: int | None = None
        for loss in found if isinstance(found, list) else [found]:
            number = len(results)
            results.append(
                Result(number, lr, COMPLETE, loss, replicate_of=original, trained=10, **values)
            )
            original = number if original is None else original
    return results


def ended(number: int, lr: float, **values: Any) -> Result:
    """A trial that was pruned after some epochs."""
    return Result(
        **{"number": number, "lr": lr, "state": PRUNED, "best": 9.0, "trained": 2, **values}
    )


def diverged(number: int, lr: float) -> Result:
    return ended(number, lr, diverged=True)


def test_everything_is_counted() -> None:
    results = [
        *done({0.01: 0.5, 0.1: 0.3}, params={"schedule": "cosine"}),
        ended(2, 1e-5),
        diverged(3, 3.0),
        diverged(4, 1.5),
        Result(5, 0.2, TrialState.FAILED, None, attempt=3, trained=7),
        Result(6, 0.05, TrialState.RUNNING, 0.1, trained=4),  # not to the end: no candidate
    ]
    answer = answer_of(results, seconds=1.239, seed=7)
    assert answer.best_lr == 0.1
    assert answer.loss == 0.3
    assert answer.params == {"schedule": "cosine"}
    assert answer.edge_of_stability == 1.5
    assert answer.trials == {"complete": 2, "pruned": 3, "diverged": 2, "failed": 1}
    assert answer.attempts == 9
    assert answer.epochs == 37
    assert answer.full_trainings == 3.7
    assert (answer.study, answer.state, answer.reason) == ("s", "complete", "trials")
    assert (answer.seconds, answer.seed) == (1.24, 7)


def test_without_a_complete_trial_there_is_no_answer() -> None:
    answer = answer_of([diverged(0, 0.1), ended(1, 0.01)], horizon=None)
    assert (answer.best_lr, answer.loss, answer.loss_interval, answer.plateau) == (None,) * 4
    assert answer.params == {}
    assert answer.edge_of_stability == 0.1
    assert answer.full_trainings is None
    assert answer_of([]).best_lr is None
    assert answer_of([]).edge_of_stability is None


def test_a_mean_of_replicates_beats_one_lucky_training() -> None:
    lucky = done({0.01: [0.40, 0.44, 0.42], 0.1: [0.35, 0.70, 0.60], 1.0: 0.30})
    answer = answer_of(lucky)
    assert answer.best_lr == 0.01
    assert answer.loss == pytest.approx(0.42)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=40))
def test_the_interval_of_replicates_is_students(losses: list[float]) -> None:
    answer = answer_of(done({0.1: losses, 1.0: [20.0] * len(losses)}))
    half = stats.t.ppf(0.975, len(losses) - 1) * np.std(losses, ddof=1) / math.sqrt(len(losses))
    assert answer.loss_interval is not None
    low, high = answer.loss_interval
    assert high - low == pytest.approx(2 * half, rel=0.005, abs=1e-9)
    assert (low + high) / 2 == pytest.approx(np.mean(losses))


def test_the_interval_without_replicates_is_the_scatter_around_a_parabola() -> None:
    decades = np.array([-3, -2.6, -2.2, -2, -1.7, -1.2, -1])
    noise = np.array([1, -2, 1.5, -1, 0.5, -1, 1]) / 100
    losses = 1 + (decades + 2) ** 2 / 10 + noise
    far = {10.0: 500.0, 1e-9: 800.0}  # beyond the seven nearest: not part of the fit
    rates: dict[float, Any] = {float(10**x): float(y) for x, y in zip(decades, losses, strict=True)}
    answer = answer_of(done(rates | far))
    fit = np.polyval(np.polyfit(decades, losses, 2), decades)
    half = stats.t.ppf(0.975, 4) * math.sqrt(np.sum((losses - fit) ** 2) / 4)
    assert answer.best_lr == pytest.approx(0.01)
    assert answer.loss is not None
    expected = (answer.loss - half, answer.loss + half)
    assert answer.loss_interval == pytest.approx(expected, rel=1e-3)


def test_too_few_rates_tell_no_interval() -> None:
    assert answer_of(done({0.01: 2.0, 0.1: 1.0, 1.0: 2.0})).loss_interval is None
    four = done({0.01: 2.0, 0.1: 1.0, 1.0: 2.0, 0.03: 1.6})
    assert answer_of(four).loss_interval is not None
    four[0].params["schedule"] = "cosine"  # another training, not another rate of the same
    assert answer_of(four).loss_interval is None


# Beside a best loss of 1.0 and an untrained one of 2.0, 1.01 is as good as the best.
BAND: dict[float, Any] = {0.001: 1.5, 0.01: 1.005, 0.1: 1.0, 1.0: 1.02}


def halfway(a: float, b: float, share: float = 0.5) -> float:
    """Between two rates on the log scale."""
    return float(a * (b / a) ** share)


@pytest.mark.parametrize(
    ("losses", "others", "expected"),
    [
        (BAND, [], (halfway(0.01, 0.001, 0.005 / 0.495), halfway(0.1, 1.0, 0.5))),
        ({0.1: 1.0}, [], (0.1, 0.1)),  # nothing else is known
        ({0.01: 1.009, 0.1: 1.0, 1.0: 1.001}, [], (0.01, 1.0)),  # all that was tried
        ({0.1: 1.0}, [ended(8, 0.01), diverged(9, 10.0)], (halfway(0.1, 0.01), 1.0)),
        (BAND, [diverged(9, 0.16)], (halfway(0.01, 0.001, 0.005 / 0.495), halfway(0.1, 0.16))),
        (BAND, [ended(9, 3.0)], (halfway(0.01, 0.001, 0.005 / 0.495), halfway(0.1, 1.0, 0.5))),
        ({0.1: 1.0, 1.0: 1.001}, [ended(9, 0.5)], (0.1, 1.0)),  # 1.0 did well, whatever 0.5 did
        (BAND, [ended(9, 0.11, params={"schedule": "step"})],
         (halfway(0.01, 0.001, 0.005 / 0.495), halfway(0.1, 1.0, 0.5))),
    ],
    ids=["on the line", "alone", "all", "between stopped", "stopped nearer", "stopped farther",
         "stopped inside", "stopped with another schedule"],
)  # fmt: skip
def test_the_plateau(
    losses: dict[float, Any], others: list[Result], expected: tuple[float, float]
) -> None:
    answer = answer_of([*done(losses), *others], initial_loss=2.0)
    assert answer.plateau == pytest.approx(expected)


def test_a_trial_that_never_began_does_not_bound_the_plateau() -> None:
    """A timeout withdraws what is queued: that tells nothing of its rate."""
    withdrawn = Result(9, 0.11, PRUNED, None, trained=0)
    known = answer_of(done(BAND), initial_loss=2.0).plateau
    assert answer_of([*done(BAND), withdrawn], initial_loss=2.0).plateau == known


def test_the_scale_of_the_plateau_is_what_training_gains() -> None:
    losses: dict[float, Any] = {0.1: 1.0, 1.0: 1.5, 10.0: 51.0}
    hot = halfway(1.0, 10.0, 0.5 / 49.5)  # where the line from 1.5 to 51 is at 2
    assert answer_of(done(losses), initial_loss=101.0).plateau == pytest.approx((0.1, hot))
    # Without it, the worst that has completed stands for the untrained loss.
    assert answer_of(done(losses)).plateau == (0.1, 1.0)
    assert answer_of(done(losses), initial_loss=0.5).plateau == (0.1, 0.1)


@given(
    st.dictionaries(
        st.floats(-6, 1).map(lambda x: round(x, 2)), st.floats(0, 100), min_size=1, max_size=12
    ),
    st.lists(st.floats(-6, 1), max_size=4),
    st.none() | st.floats(0, 100),
)
def test_the_band_holds_the_best_and_keeps_to_what_was_tried(
    losses: dict[float, float], stopped: list[float], initial: float | None
) -> None:
    results = done({10**decades: loss for decades, loss in losses.items()})
    results += [ended(100 + index, 10**decades) for index, decades in enumerate(stopped)]
    answer = answer_of(results, initial_loss=initial)
    assert answer.plateau is not None
    assert answer.best_lr is not None
    low, high = answer.plateau
    rates = [result.lr for result in results]
    assert min(rates) * 0.999999 <= low <= answer.best_lr * 1.000001
    assert answer.best_lr * 0.999999 <= high <= max(rates) * 1.000001
    if answer.loss_interval is not None:
        assert answer.loss_interval[0] <= min(losses.values()) <= answer.loss_interval[1]


def test_the_note_says_it_all() -> None:
    near = {0.08: 1.001, 0.09: 1.001, 0.12: 1.001}
    results = [*done(BAND | near), diverged(9, 5.0)]
    note = as_note(answer_of(results, initial_loss=2.0), "digits.py:Digits")
    for part in (
        "**Best learning rate: 0.1** for `digits.py:Digits`, loss 1",
        "complete, ended by: trials",
        "95 % interval: ",
        "plateau: 0.00977 to 0.328",
        "edge of stability: 5",
        "7 complete, 1 pruned, 1 diverged, 0 failed; 72 epochs in 1 s",
    ):
        assert part in note
    in_steps = answer_of(results, initial_loss=2.0, unit_of_time="step")
    assert f"0 failed; {in_steps.steps} steps in 1 s" in as_note(in_steps, "t")
    bare = as_note(answer_of(done({0.1: 1.0})), "t")
    assert "interval" not in bare
    assert "edge" not in bare


def test_the_note_of_no_answer_says_why() -> None:
    answer = answer_of([diverged(0, 1.0)])
    assert as_note(answer, "t") == "**No answer** for `t`: trials."


def test_rates_far_from_the_best_tell_nothing_of_its_noise() -> None:
    """Over five decades the loss is no parabola: what does not fit is not noise."""
    rates = {1e-6: 90.0, 1e-5: 9.0, 1e-4: 2.0, 0.1: 1.0, 5.0: 7.0}
    assert answer_of(done(rates)).loss_interval is None


def test_a_pruned_rate_that_was_good_enough_is_within_the_band() -> None:
    """Its lowest loss is what it would have reached at worst."""
    good = Result(9, 0.2, TrialState.PRUNED, best=1.005, trained=4)
    answer = answer_of([*done({0.1: 1.0, 1.0: 3.0}), good], initial_loss=2.0)
    assert answer.plateau is not None
    assert answer.plateau[1] > 0.2
    bad = Result(9, 0.2, TrialState.PRUNED, best=1.5, trained=4)
    answer = answer_of([*done({0.1: 1.0, 1.0: 3.0}), bad], initial_loss=2.0)
    assert answer.plateau is not None
    assert answer.plateau[1] < 0.2


@pytest.mark.parametrize(
    ("replicates", "best"),
    [
        ({0.1: "....", 0.2: "...."}, 0.1),
        ({0.1: "..x.", 0.2: "...."}, 0.1),  # one failed: it says nothing of the rate
        ({0.1: ".xxx", 0.2: "...."}, 0.1),
        ({0.1: "..x.", 0.2: ".xx."}, 0.1),
        ({0.1: "..d.", 0.2: "...."}, 0.2),  # one diverged: the rate cannot be relied on
        ({0.1: ".", 0.2: "...."}, 0.2),  # was not among the best
    ],
)
def test_a_failed_replicate_does_not_change_the_answer(
    replicates: dict[float, str], best: float
) -> None:
    """``.`` a run that completed, ``x`` one that failed, ``d`` one that diverged."""
    results: list[Result] = []
    for lr, runs in replicates.items():
        original = len(results)
        for run in runs:
            of = None if len(results) == original else original
            state = {".": COMPLETE, "x": TrialState.FAILED, "d": PRUNED}[run]
            loss = lr if run == "." else None
            results.append(
                Result(len(results), lr, state, loss, replicate_of=of, diverged=run == "d")
            )
    assert answer_of(results).best_lr == best


def test_a_trial_that_diverged_does_not_meet_the_target() -> None:
    """It had been low enough before it blew up: its rate is no answer."""
    results = [ended(0, 0.5, best=0.1, diverged=True), *done({0.1: 0.3})[:0]]
    assert answer_of(results, target=0.2).best_lr is None
    assert answer_of([ended(0, 0.5, best=0.1)], target=0.2).best_lr == 0.5


def test_one_piece_of_advice_does_not_contradict_another() -> None:
    """Where the rate hardly matters, nobody is told to find out which is better."""
    spec = StudySpec(name="s", task=TaskRef(target="/t.py:T"), lr=(1e-6, 1e2))
    results = done({1e-4: 0.5, 1e-3: 0.501, 1e-2: 0.5005, 0.1: 0.502, 1.0: 0.7})
    answer = answer_of(results, initial_loss=2.3)
    answer = answer.model_copy(update={"loss_interval": (0.4, 0.6)})
    assert with_words(answer, spec, results).shape == "flat"
    assert len(with_words(answer, spec, results).advice) == 1
    narrow = answer.model_copy(update={"plateau": (1e-4, 1e-3)})
    assert with_words(narrow, spec, results).shape == "noisy"
