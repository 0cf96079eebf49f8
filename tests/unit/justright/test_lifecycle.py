"""The life of a trial, walked arrow by arrow."""

from __future__ import annotations

from contextlib import suppress
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from justright.errors import LifecycleError
from justright.lifecycle import (
    ACTIVE,
    DISPATCHED,
    FINISHED,
    STUDY_FINISHED,
    TRANSITIONS,
    StudyState,
    TrialState,
    transition,
)

QUEUED, RUNNING, PAUSED = TrialState.QUEUED, TrialState.RUNNING, TrialState.PAUSED
COMPLETE, PRUNED, FAILED = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED

# The letters stand in stored studies and in people's notes: none is ever used for something else.
ARROWS: dict[str, tuple[set[TrialState | None], TrialState]] = {
    "a": ({None}, QUEUED),
    "b": ({QUEUED}, RUNNING),
    "c": ({RUNNING}, PAUSED),
    "d": ({PAUSED}, QUEUED),
    "e": ({RUNNING}, COMPLETE),
    "f": ({RUNNING}, PRUNED),
    "g": ({QUEUED, RUNNING}, QUEUED),
    "h": ({QUEUED, RUNNING, PAUSED}, FAILED),
    "i": ({PAUSED}, PRUNED),
    "j": ({QUEUED}, PRUNED),
}
BEGINNINGS: list[TrialState | None] = [None, *TrialState]
EVERY_STEP = [(state, letter) for state in BEGINNINGS for letter in TRANSITIONS]


def reachable(begin: TrialState | None) -> set[TrialState]:
    """All states that any walk from there comes to."""
    found: set[TrialState] = set()
    edge: set[TrialState | None] = {begin}
    while edge:
        reached: set[TrialState] = set()
        for state, letter in product(edge, TRANSITIONS):
            with suppress(LifecycleError):
                reached.add(transition(state, letter))
        edge = set(reached - found)
        found |= reached
    return found


def test_every_letter_is_known_here() -> None:
    assert set(TRANSITIONS) == set(ARROWS)
    assert all(arrow.letter == letter for letter, arrow in TRANSITIONS.items())


@pytest.mark.parametrize(("state", "letter"), EVERY_STEP)
def test_an_arrow_leads_from_its_sources_only(state: TrialState | None, letter: str) -> None:
    sources, target = ARROWS[letter]
    if state in sources:
        assert transition(state, letter) == target
        return
    with pytest.raises(LifecycleError, match=rf"transition {letter} .*but the trial is {state}"):
        transition(state, letter)


def test_a_refusal_says_where_the_arrow_begins() -> None:
    with pytest.raises(LifecycleError, match=r"its job was lost.* leads from queued/running, but"):
        transition(COMPLETE, "g")
    with pytest.raises(LifecycleError, match=r"the sampler proposed it.* leads from nothing, but"):
        transition(RUNNING, "a")


def test_every_state_is_reached_from_the_beginning() -> None:
    assert reachable(None) == set(TrialState)


@pytest.mark.parametrize("state", sorted(ACTIVE))
def test_every_active_trial_can_end_in_every_way(state: TrialState) -> None:
    assert reachable(state) >= FINISHED


@pytest.mark.parametrize("state", sorted(FINISHED))
def test_a_finished_state_has_no_exit(state: TrialState) -> None:
    assert reachable(state) == set()


@given(st.lists(st.sampled_from(sorted(ARROWS))))
def test_a_walk_ends_where_it_finished(letters: list[str]) -> None:
    """Whatever is delivered, in whatever order, a trial finishes at most once."""
    state: TrialState | None = None
    finished: list[TrialState] = []
    for letter in letters:
        try:
            state = transition(state, letter)
        except LifecycleError:
            continue
        finished += [state] if state in FINISHED else []
    assert len(finished) <= 1
    assert not finished or state == finished[0]


def test_the_sets_of_states() -> None:
    assert {QUEUED, RUNNING, PAUSED} == ACTIVE
    assert {COMPLETE, PRUNED, FAILED} == FINISHED
    assert {QUEUED, RUNNING} == DISPATCHED, "a paused trial is in no job"
    unfinished = {StudyState.INSPECTING, StudyState.RUNNING, StudyState.PAUSED}
    assert unfinished <= set(StudyState) - STUDY_FINISHED
    assert {StudyState.COMPLETE, StudyState.CANCELLED, StudyState.FAILED} == STUDY_FINISHED
