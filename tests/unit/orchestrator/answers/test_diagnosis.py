"""What is the matter with a trial, and what an answer means."""

from __future__ import annotations

import pytest

from justright.lifecycle import StudyState, TrialState
from justright.messages import Answer
from justright.spec import StudySpec, TaskRef
from orchestrator.answers.advice import with_words
from orchestrator.answers.answer import Result
from orchestrator.answers.diagnosis import diagnose
from orchestrator.search.loss_curve import LossCurve

INITIAL = 2.3
LEADER = LossCurve.of([INITIAL, 1.0, 0.6, 0.4, 0.35, 0.33, 0.32], lr=0.1)


def course(
    lr: float,
    *losses: float,
    train: tuple[float, ...] = (),
    initial: float | None = INITIAL,
    diverged: bool = False,
) -> LossCurve:
    by_step, trained = (dict(enumerate(values, 1)) for values in (losses, train))
    return LossCurve(lr, by_step, initial, trained, diverged)


@pytest.mark.parametrize(
    ("trial", "expected"),
    [
        (course(1e-5, 2.299, 2.298, 2.297), "underfit"),  # has hardly moved, and is colder
        (course(0.001, 2.1, 1.9, 1.7, 1.5), "underfit"),
        (course(0.05, 1.2, 0.7, 0.45, 0.38, 0.34), "healthy"),
        (course(0.1, *LEADER.by_step.values()), "healthy"),
        (course(0.05, 1.2, 0.5, 0.6, 0.8, 1.0, train=(1.1, 0.5, 0.4, 0.3, 0.2)), "overfit"),
        (course(0.05, 1.2, 0.5, 0.6, 0.8, 1.0, train=(1.1, 0.5, 0.6, 0.8, 1.0)), "healthy"),
        (course(1.0, 2.3, 2.31, 2.3), "unstable"),  # nothing learned, and hotter
        (course(1.0, 1.0, 2.2, 0.9, 2.0), "unstable"),  # it jumps
        (course(1.0, 9.0, 0.8, 0.7), "unstable"),  # from the first epoch on
        (course(10.0, 3.0, diverged=True), "diverged"),
        (course(1.0), ""),
    ],
)
def test_each_kind_has_its_word(trial: LossCurve, expected: str) -> None:
    assert diagnose(trial, LEADER) == expected


HALF_WAY = LossCurve.of([2.0, 1.5, 1.0], lr=0.1)  # has gained 1.0


@pytest.mark.parametrize(
    ("lr", "losses", "expected"),
    [
        (0.01, (1.6, 1.15), "underfit"),  # 0.85 of what the leader has gained
        (0.01, (1.55, 1.05), "healthy"),  # 0.95
        (0.1, (1.0, 1.4, 1.0), "unstable"),  # a jump of 0.4 of what it has gained
        (0.1, (1.0, 1.25, 1.0), "healthy"),  # 0.25
        (0.5, (1.995, 1.99), "unstable"),  # 0.01 of what the leader has gained: nothing is learned
        (0.5, (1.99, 1.97), "healthy"),  # 0.03
        (0.01, (1.995, 1.99), "underfit"),
    ],
)
def test_where_each_word_begins(lr: float, losses: tuple[float, ...], expected: str) -> None:
    assert diagnose(course(lr, *losses, initial=2.0), HALF_WAY) == expected


def test_without_a_leader_or_an_untrained_loss_nothing_is_said() -> None:
    assert diagnose(course(0.1, 1.0), None) == ""
    assert diagnose(course(0.1, 1.0, initial=None), LEADER) == ""


def spec(**values: object) -> StudySpec:
    return StudySpec(name="s", task=TaskRef(target="/t.py:T"), **values)  # type: ignore[arg-type]


def answer(**values: object) -> Answer:
    told: dict[str, object] = {
        "best_lr": 0.1, "loss": 0.5, "loss_interval": (0.49, 0.51), "plateau": (0.07, 0.15)
    }  # fmt: skip
    return Answer.model_validate(
        {
            "study": "s", "state": StudyState.COMPLETE, "reason": "converged", "params": {},
            "edge_of_stability": None, "trials": {}, "attempts": 1, "epochs": 1,
            "full_trainings": 1.0, "seconds": 1.0, "seed": 0, **told, **values,
        }
    )  # fmt: skip


def complete(number: int, lr: float, best: float) -> Result:
    return Result(number=number, lr=lr, state=TrialState.COMPLETE, best=best)


def test_a_plain_bowl_needs_no_words() -> None:
    found = with_words(answer(), spec(lr=(1e-4, 10.0)), [complete(0, 0.1, 0.5)])
    assert (found.shape, found.advice) == ("bowl", ())


@pytest.mark.parametrize(
    ("given", "shape", "said"),
    [((1e-4, 0.1), "edge_high", "hot end"), ((0.09, 10.0), "edge_low", "cold end")],
)
def test_a_rate_at_the_end_of_the_range_that_was_given(
    given: tuple[float, float], shape: str, said: str
) -> None:
    found = with_words(answer(), spec(lr=given), [])
    assert found.shape == shape
    assert said in found.advice[0]
    assert "--lr" in found.advice[0]


def test_the_default_range_has_no_edge_but_what_is_tried_at_all_has() -> None:
    assert with_words(answer(best_lr=10.0), spec(), []).shape == "bowl"
    found = with_words(answer(best_lr=1e-8), spec(), [])
    assert found.shape == "edge_low"
    assert "scale of the loss" in found.advice[0]


def test_a_flat_loss() -> None:
    found = with_words(answer(plateau=(1e-3, 1.0)), spec(), [])
    assert found.shape == "flat"
    assert "hardly matters" in found.advice[0]


def test_rivals_within_the_noise_ask_for_replicates() -> None:
    results = [complete(0, 0.1, 0.5), complete(1, 1.0, 0.505), complete(2, 1e-3, 0.6)]
    found = with_words(answer(), spec(), results)
    assert found.shape == "noisy"
    assert "0.1 from 1 apart" in found.advice[0]
    assert "--replicates 3" in found.advice[0]
    near = [complete(0, 0.1, 0.5), complete(1, 0.12, 0.501)]
    assert with_words(answer(), spec(), near).shape == "bowl"


def test_no_answer_no_words() -> None:
    assert with_words(answer(best_lr=None), spec(), []).advice == ()


@pytest.mark.parametrize(
    ("given", "own", "best", "shape", "words"),
    [
        (None, (1e-5, 1e-3), 1e-3, "edge_high", "hot end of the range that the objective asks for"),
        (None, (1e-5, 1e-3), 1e-5, "edge_low", "beyond 1e-05"),
        (None, (1e-5, 1e-3), 1e-4, "bowl", ""),
        ((1e-5, 1e-3), (1e-5, 1e-3), 1e-3, "edge_high", "the range you gave"),
        ((1e-4, 1.0), (1e-4, 0.1), 0.1, "edge_high", "that the objective asks for"),
        ((1e-4, 1.0), (1e-4, 0.1), 1e-4, "edge_low", "the range you gave"),
        (None, (1e-4, 10.0), 10.0, "edge_high", "searched, 0.0001:10: give a wider --lr"),
    ],
)
def test_the_edge_of_an_objectives_own_range(
    given: tuple[float, float] | None, own: tuple[float, float], best: float, shape: str, words: str
) -> None:
    found = with_words(answer(best_lr=best), spec(lr=given), [], own)
    assert found.shape == shape
    assert words in " ".join(found.advice)
