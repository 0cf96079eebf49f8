"""Jobs whose trials are lanes of one stack: what is reported is what each alone would report."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from justright.failures import FailureKind
from justright.lane_plan import LanePlan
from justright.messages import OutcomeKind
from tests.helpers.lane_jobs import (
    ALONE,
    BATCHES,
    EPOCHS,
    EXACT,
    INSANE,
    LANES,
    RATES,
    ROUNDED,
    TASK,
    Apart,
    Stacks,
    Told,
    again,
    assert_near,
    assert_same,
    computed_once,
    files,
    kept,
    noted_stacks,
    run,
    works,
)
from worker.checkpoints.store import Checkpoints
from worker.jobs.task_job import next_group
from worker.lanes.lanes import FusedLanes


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "tiny_for_lanes.py"
    path.write_text(TASK)
    return path


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> Stacks:
    """The trials in each fused step."""
    return noted_stacks(monkeypatch)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Apart:
    """Jobs whose trials are trained one by one, each computed once."""
    return computed_once(tmp_path_factory.mktemp("apart"))


# -- the same as one by one --------------------------------------------------------------------


def test_lanes_report_what_each_trial_alone_reports(task: Path, stacks: Stacks) -> None:
    """With BatchNorm and dropout, one that is stopped and one that is paused on the way."""
    told: Told = {1: ("stop", 2), 3: ("pause", 1)}
    alone = run(task, works(), ALONE, told)
    assert not stacks
    shutil.rmtree(kept(task))
    found = run(task, works(), LANES, told)
    assert_same(found, alone)
    assert found.kinds == ["complete", "stopped", "complete", "paused", "complete"]
    assert found.steps == [EPOCHS, 2, EPOCHS, 1, EPOCHS]
    assert sorted(set(stacks), key=len) == [(0, 2, 4), (0, 1, 2, 4), (0, 1, 2, 3, 4)]
    assert [len(files(task, trial)) for trial in range(5)] == [0, 0, 0, 1, 0]


@pytest.mark.parametrize("insane", [0, 2, 5])
def test_one_that_diverges_touches_nobody(
    task: Path, apart: Apart, stacks: Stacks, insane: int
) -> None:
    rates = (*RATES[:insane], INSANE, *RATES[insane:])
    alone = apart(works(rates), name="Explosive")
    found = run(task, works(rates), name="Explosive")
    assert_same(found, alone, trials=[n for n in range(6) if n != insane])
    ours, theirs = found.outcomes[insane], alone.outcomes[insane]
    assert (ours.kind, ours.step) == (theirs.kind, theirs.step)
    assert ours.kind is OutcomeKind.DIVERGED
    assert len(stacks[0]) == 6
    assert len(stacks[-1]) == 5
    assert insane not in stacks[-1]


def test_all_diverge_at_once(task: Path, stacks: Stacks) -> None:
    found = run(task, works((INSANE, 2 * INSANE, 3 * INSANE)), name="Explosive")
    assert found.kinds == ["diverged"] * 3
    assert len(stacks) == BATCHES


def test_a_small_task_in_single_precision(task: Path, apart: Apart) -> None:
    arguments: dict[str, Any] = {"double": False, "optimizer": "sgd"}
    alone = apart(works(), **arguments)
    assert_same(run(task, works(), **arguments), alone, ROUNDED)


@pytest.mark.parametrize("told", [{}, {0: ("stop", 1)}, {0: ("pause", 3), 2: ("stop", 3)}])
def test_one_that_is_left_of_a_stack_goes_on_alone(
    task: Path, apart: Apart, stacks: Stacks, told: Told
) -> None:
    """Its optimizer's state came from the stack: torch's own step takes it up."""
    plan = LanePlan(lanes=3, stack=3, fuse_from=3)
    alone = apart(works(RATES[:3]), told)
    shutil.rmtree(kept(task), ignore_errors=True)
    assert_same(run(task, works(RATES[:3]), plan, told), alone)
    assert set(stacks) == {(0, 1, 2)}, "fewer than fuse_from are trained one by one"


@pytest.mark.parametrize("told", [{}, {0: ("stop", 1), 1: ("stop", 2)}])
def test_an_optimizer_of_the_users_own(
    task: Path, apart: Apart, stacks: Stacks, told: Told
) -> None:
    alone = apart(works(RATES[:3]), told, name="Counted")
    assert_same(run(task, works(RATES[:3]), LANES, told, name="Counted"), alone)
    assert set(stacks) == ({(0, 1, 2), (1, 2)} if told else {(0, 1, 2)})


# -- who is trained with whom ------------------------------------------------------------------


def standing(*trials: tuple[int, ...]) -> list[Any]:
    """Trials by (mark, step, seed[, batch size]), as far as ``next_group`` looks at them."""
    return [
        SimpleNamespace(
            training=SimpleNamespace(mark=mark, step=step, batch_size=size[0] if size else 32),
            attempt=SimpleNamespace(work=SimpleNamespace(number=number, seed=seed)),
        )
        for number, (mark, step, seed, *size) in enumerate(trials)
    ]


@pytest.mark.parametrize(
    ("trials", "stack", "fuse_from", "expected"),
    [
        ([(0, 0, 1)] * 3, 8, 2, [0, 1, 2]),
        ([(0, 0, 1)] * 9, 8, 2, list(range(8))),
        ([(0, 0, 1)] * 3, 8, 4, [0]),
        ([(0, 0, 1)] * 4, 8, 4, [0, 1, 2, 3]),
        ([(0, 0, 1)] * 9, 1, 2, [0]),
        ([(0, 0, 1), (0, 0, 2), (0, 0, 1), (0, 0, 2)], 8, 2, [0, 2]),
        ([(1, 0, 1), (0, 3, 1), (1, 0, 1), (0, 3, 1)], 8, 2, [1, 3]),
        ([(1, 0, 1), (0, 3, 1), (1, 0, 1), (0, 2, 1)], 8, 2, [3]),
        ([(1, 0, 1), (0, 4, 2), (1, 0, 1)], 8, 2, [1]),
        ([(2, 0, 1)], 8, 2, [0]),
        ([(0, 0, 1, 16), (0, 0, 1, 64), (0, 0, 1, 16), (0, 0, 1, 64)], 8, 2, [0, 2]),
        ([(1, 0, 1, 16), (0, 2, 1, 64), (1, 0, 1, 16)], 8, 2, [1]),
    ],
)
def test_next_group(
    trials: list[tuple[int, ...]], stack: int, fuse_from: int, expected: list[int]
) -> None:
    running = standing(*trials)
    group = next_group(running, LanePlan(lanes=9, stack=stack, fuse_from=fuse_from))
    assert [running.index(one) for one in group] == expected


def test_trials_of_two_seeds_are_never_in_one_stack(
    task: Path, apart: Apart, stacks: Stacks
) -> None:
    mixed = [one.model_copy(update={"seed": 3 + one.number % 2}) for one in works((*RATES, 0.02))]
    alone = apart(mixed)
    assert_same(run(task, mixed), alone)
    assert set(stacks) == {(0, 2, 4), (1, 3, 5)}


def test_no_stack_is_larger_than_planned(task: Path, apart: Apart, stacks: Stacks) -> None:
    check_stack_sizes(task, apart, stacks, 5, 2, {(0, 1), (2, 3)})


def check_stack_sizes(
    task: Path, apart: Apart, stacks: Stacks, count: int, stack: int, expected: set[tuple[int, ...]]
) -> None:
    """So many trials are trained in these stacks, as alone."""
    rates = tuple(0.01 * (n + 1) for n in range(count))
    alone = apart(works(rates))
    assert_same(run(task, works(rates), LanePlan(lanes=count, stack=stack)), alone)
    assert set(stacks) == expected


def test_laggards_catch_up_and_then_join(task: Path, apart: Apart, stacks: Stacks) -> None:
    ahead, new = works(RATES[:2]), works(RATES[2:], first=2)
    alone = apart(ahead + new)
    assert run(task, ahead, until=2).kinds == ["paused"] * 2
    stacks.clear()
    found = run(task, again(ahead) + new)
    assert stacks == [(2, 3, 4)] * 2 * BATCHES + [(0, 1, 2, 3, 4)] * 2 * BATCHES
    assert_same(found, alone, trials=[2, 3, 4])
    assert_same(found, alone, trials=[0, 1], since=2)


@pytest.mark.parametrize("plan", [ALONE, LANES], ids=["alone", "lanes"])
def test_trials_from_several_steps_meet_at_a_rung(task: Path, apart: Apart, plan: LanePlan) -> None:
    trials = works()
    alone = apart(trials)
    assert run(task, trials[:2], plan, until=1).steps == [1, 1]
    assert run(task, again(trials[1:2]), plan, until=2).steps == [2]
    met = run(task, [*again(trials[:1]), *again(trials[1:2], 3), *trials[2:]], plan, until=3)
    assert met.kinds == ["paused"] * 5
    assert met.steps == [3] * 5
    assert [sorted(met.reports[n]) for n in range(5)] == [[2, 3], [3], *[[1, 2, 3]] * 3]
    assert_same(run(task, again(trials, 4), plan), alone, since=3)


@pytest.mark.parametrize("plan", [ALONE, LANES], ids=["alone", "lanes"])
@pytest.mark.parametrize("until", [1, 2])
def test_what_has_reached_its_step_pauses_again(
    task: Path, apart: Apart, plan: LanePlan, until: int
) -> None:
    """As one whose first pause got lost on the way, or that came further than was known."""
    trials = works()
    alone = apart(trials)
    run(task, trials, plan, until=2)
    found = run(task, again(trials), plan, until=until)
    assert found.kinds == ["paused"] * 5
    assert found.steps == [2] * 5
    assert found.reports == {}
    assert_same(run(task, again(trials, 3), plan), alone, since=2)


def test_one_that_diverges_at_a_rung_is_not_paused(task: Path, apart: Apart) -> None:
    rates = (*RATES, INSANE)
    found = run(task, works(rates), until=2, name="Explosive")
    assert found.kinds == ["paused"] * 5 + ["diverged"]
    ended = run(task, again(works(rates))[:5], name="Explosive")
    assert_same(ended, apart(works(), name="Explosive"), since=2)


# -- checkpoints -------------------------------------------------------------------------------


def test_a_paused_lane_goes_on_among_others_and_alone(
    task: Path, apart: Apart, stacks: Stacks
) -> None:
    check_paused_lane(task, apart, stacks, "adam")


def check_paused_lane(task: Path, apart: Apart, stacks: Stacks, optimizer: str) -> None:
    """From the same checkpoint, with lanes that have just begun and by torch's own step."""
    mine, others = works()[1:2], works((0.02, 0.2), first=7)
    whole = apart(mine + others, optimizer=optimizer)
    paused = run(task, works(), told={1: ("pause", 2)}, optimizer=optimizer)
    assert (paused.outcomes[1].kind, paused.outcomes[1].step) == (OutcomeKind.PAUSED, 2)
    [checkpoint] = files(task, 1)
    saved = checkpoint.read_bytes()

    stacks.clear()
    among = run(task, again(mine) + others, optimizer=optimizer)
    assert stacks[-1] == (1, 7, 8)
    assert_same(among, whole, trials=[1], since=2)
    assert_same(among, whole, trials=[7, 8])
    assert not files(task, 1)

    checkpoint.parent.mkdir()
    checkpoint.write_bytes(saved)
    assert_same(run(task, again(mine), ALONE, optimizer=optimizer), whole, trials=[1], since=2)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_file_of_a_lane_holds_that_lane_only(task: Path, optimizer: str) -> None:
    trials = works(tuple(0.01 * (n + 1) for n in range(8)))
    sizes = {}
    for plan in (ALONE, LANES):
        run(task, trials, plan, until=1, hidden=256, optimizer=optimizer)
        sizes[plan.stack] = [files(task, trial)[-1].stat().st_size for trial in range(8)]
        shutil.rmtree(kept(task))
    assert max(sizes[LANES.stack]) <= 1.2 * min(sizes[ALONE.stack])


def test_weights_that_are_shared_are_saved_once(task: Path) -> None:
    sizes = {}
    for plan in (ALONE, LANES):
        run(task, works(), plan, until=1, name="Tied", optimizer="sgd")
        sizes[plan.stack] = [files(task, trial)[-1].stat().st_size for trial in range(5)]
        shutil.rmtree(kept(task))
    assert max(sizes[LANES.stack]) <= 1.2 * min(sizes[ALONE.stack])


@pytest.mark.parametrize("name", ["Tiny", "Tied"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(LANES, LANES), (LANES, ALONE), (ALONE, LANES)],
    ids=["lanes-lanes", "lanes-alone", "alone-lanes"],
)
def test_lanes_that_are_given_back_in_an_epoch_go_on(
    task: Path, apart: Apart, before: LanePlan, after: LanePlan, name: str
) -> None:
    trials = works(RATES[:3])
    whole = apart(trials, name=name)
    left = run(task, trials, before, leave=20, name=name)
    assert left.kinds == ["failed"] * 3
    for outcome in left.outcomes.values():
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.RETURNED
    if before is LANES:
        names = {path.name for trial in range(3) for path in files(task, trial)}
        assert len(names) == 1, "they stand at the same batch"
        assert not names.pop().endswith("-0000000000.pt"), "it is in the middle of an epoch"
    ended = run(task, again(trials), after, name=name)
    for trial, outcome in ended.outcomes.items():
        expected = whole.outcomes[trial]
        assert outcome.kind is OutcomeKind.COMPLETE
        assert_near(dict(outcome.losses), dict(expected.losses), EXACT)
        assert set(ended.reports[trial]) == set(range(left.outcomes[trial].step + 1, EPOCHS + 1))
        assert not files(task, trial)


def test_saving_lanes_at_each_batch_changes_nothing(
    task: Path, apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And from what was saved they go on: tests/numerics."""
    trials = works(RATES[:2])
    alone = apart(trials)
    monkeypatch.setattr(Checkpoints, "due", property(lambda self: True))
    assert_same(run(task, trials), alone)


# -- stacks that fail --------------------------------------------------------------------------


def fail_from(monkeypatch: pytest.MonkeyPatch, error: Exception, lanes: int, after: int) -> Stacks:
    """Stacks of so many lanes or more fail after so many steps; returns those that did."""
    step = FusedLanes.step
    done = [0]
    failed: Stacks = []

    def failing(self: FusedLanes, *args: Any) -> torch.Tensor:
        done[0] += 1
        if len(self.trials) >= lanes and done[0] > after:
            failed.append(tuple(trial.work.number for trial in self.trials))
            raise error
        return step(self, *args)

    monkeypatch.setattr(FusedLanes, "step", failing)
    return failed


def test_a_stack_without_memory_is_halved(
    task: Path, apart: Apart, stacks: Stacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_halved(task, apart, stacks, monkeypatch, after=3)


def check_halved(
    task: Path, apart: Apart, stacks: Stacks, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Of eight lanes there is memory for two, from so many steps on."""
    trials = works(tuple(0.01 * (n + 1) for n in range(8)))
    alone = apart(trials)
    failed = fail_from(monkeypatch, torch.OutOfMemoryError("no memory"), lanes=3, after=after)
    assert_same(run(task, trials), alone)
    assert [len(lanes) for lanes in failed] == [8, 4]
    assert {stack for stack in stacks if len(stack) < 8} == {(0, 1), (2, 3), (4, 5), (6, 7)}


@pytest.mark.parametrize(
    ("error", "after"),
    [(RuntimeError("vmap: no"), 13), (MemoryError(), 0), (ZeroDivisionError(), 0)],
)
def test_a_stack_that_always_fails_is_trained_one_by_one(
    task: Path,
    apart: Apart,
    stacks: Stacks,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    after: int,
) -> None:
    check_always_failing(task, apart, stacks, monkeypatch, error, after)


def check_always_failing(
    task: Path,
    apart: Apart,
    stacks: Stacks,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    after: int,
) -> None:
    """Two or more lanes fail with this error after so many steps."""
    alone = apart(works())
    failed = fail_from(monkeypatch, error, lanes=2, after=after)
    assert_same(run(task, works()), alone)
    assert len(failed) == (2 if isinstance(error, MemoryError) else 1)
    assert len(stacks) == after


def test_what_lanes_cannot_do_in_a_late_batch_is_done_one_by_one(
    task: Path, apart: Apart, stacks: Stacks
) -> None:
    trials = works(seed=4)  # in whose order of samples the one in question comes late
    alone = apart(trials, name="Item")
    assert_same(run(task, trials, name="Item"), alone)
    assert 1 < len(stacks) <= BATCHES, "it failed within the first epoch"
    assert set(stacks) == {(0, 1, 2, 3, 4)}


def test_a_stack_that_fails_goes_on_from_checkpoints(
    task: Path, apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = works()
    alone = apart(trials)
    run(task, trials, until=2)
    fail_from(monkeypatch, RuntimeError("vmap: no"), lanes=2, after=BATCHES + 2)
    found = run(task, again(trials))
    assert_same(found, alone, since=2)


def test_an_error_of_the_user_fails_only_the_trials_that_have_it(task: Path) -> None:
    rates = (0.01, INSANE, 0.03)
    alone = run(task, works(rates), ALONE, name="Picky")
    found = run(task, works(rates), name="Picky")
    assert found.kinds == ["complete", "failed", "complete"]
    assert_same(found, alone, trials=[0, 2])
    failure = found.outcomes[1].failure
    assert failure is not None
    assert failure.kind is FailureKind.USER
    assert failure.message == "ValueError: this is too hot"
    assert "in loss" in failure.traceback
    assert "vmap" not in failure.traceback
    assert failure == alone.outcomes[1].failure


def test_an_error_of_the_user_that_all_have_is_told_as_alone(task: Path) -> None:
    alone = run(task, works(), ALONE, name="Broken")
    found = run(task, works(), name="Broken")
    assert found.kinds == ["failed"] * 5
    assert found.outcomes == alone.outcomes
    failure = found.outcomes[0].failure
    assert failure is not None
    assert failure.message == "ValueError: no such class"
    assert failure.traceback.count("File") == 1
