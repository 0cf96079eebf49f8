"""The replay of real curves: its definitions, by hand, and what it prints."""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.search import leave_one_out
from benchmarks.search.curve_files import CurvesError
from benchmarks.search.replay import COSTS, main, replay
from benchmarks.search.replay_curves import CurveTask, read_tasks
from orchestrator.search.freeze_thaw.library import library

HORIZON = 4


def entry(lr: float, losses: list[float | None], seed: int = 1) -> dict[str, Any]:
    about = {"problem": "p", "optimizer": "sgd", "batch_size": 8, "num_epochs": HORIZON}
    return {**about, "lr": lr, "seed": seed, "loss": losses}


# From 1e-4 to 1: cold, better, best, good, diverged at once.
ENTRIES = [
    entry(1e-4, [2.0, 1.9, 1.8, 1.7, 1.6]),
    entry(1e-3, [2.0, 1.5, 1.3, 1.2, 1.1]),
    entry(1e-2, [2.0, 1.2, 0.8, 0.6, 0.5]),
    entry(1e-1, [2.0, 1.0, 0.7, 0.9, 0.9]),
    entry(1.0, [2.0, 5.0, None]),
    entry(1e-2, [2.0, 1.2, 0.9, 0.7, 0.6], seed=2),
]


def write(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_bytes(gzip.compress(json.dumps(entries).encode()))
    return path


@pytest.fixture
def task(tmp_path: Path) -> CurveTask:
    [task] = read_tasks(write(tmp_path / "c.json.gz", ENTRIES))
    return task


def test_regret_is_over_the_scale_of_the_median(task: CurveTask) -> None:
    # Qualities 1.6, 1.1, 0.55 over two seeds, 0.7, inf: the median is 1.1.
    assert task.usable
    assert task.regret(1e-2) == pytest.approx(0)
    assert task.regret(1e-1) == pytest.approx(0.15 / 0.55)
    assert task.regret(1e-3) == pytest.approx(1)
    assert task.regret(1e-4) == task.regret(1.0) == task.regret(None) == 1


def test_between_two_rates_curves_are_mixed_in_log_rate(task: CurveTask) -> None:
    middle = task.curve(10**-2.5)
    assert middle == pytest.approx([2.0, 1.35, 1.05, 0.9, 0.8])
    assert task.regret(10**-2.5) == pytest.approx(0.5)


def test_beside_a_diverged_one_the_nearer_counts(task: CurveTask) -> None:
    assert task.curve(10**-0.6) == task.curve(0.1)
    assert math.inf in task.curve(10**-0.4)


def test_another_seed_is_used_where_there_is_one(task: CurveTask) -> None:
    assert task.curve(1e-2, other=1)[-1] == 0.6
    assert task.curve(1e-3, other=1) == task.curve(1e-3)
    assert task.repeated == 1e-2


@pytest.mark.parametrize("policy", ["auto", "tpe+median", "halving", "spread"])
@pytest.mark.parametrize("lanes", [1, 4])
def test_a_search_finds_the_best_of_a_small_task(task: CurveTask, policy: str, lanes: int) -> None:
    found = replay(task, policy, seed=0, lanes=lanes)
    assert set(found.regret) == {f"{c:g}" for c in COSTS}
    assert found.answer < 0.6
    assert 1 <= found.spent <= 13
    assert found.rounds <= found.spent + 1e-9
    again = replay(task, policy, seed=0, lanes=lanes)
    assert (again.regret, again.spent) == (found.regret, found.spent)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Its command line, here: exit code, output, and errors. Its jobs are processes."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["replay", *arguments, "--jobs", "1"])
        code = 0
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        return code, *capfd.readouterr()

    return run


def test_what_it_prints(tmp_path: Path, run: Run) -> None:
    path = write(tmp_path / "c.json.gz", ENTRIES)
    code, out, err = run(str(path), "--policy", "auto", "--policy", "spread", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found["policies"]) == {"auto", "spread"}
    about = found["policies"]["auto"]
    assert set(about) == {"regret", "stop", "seconds_per_decision"}
    assert set(about["regret"]) == {"0.25", "0.5", "1", "2", "4", "8"}
    assert set(about["stop"]) == {"full_trainings", "regret", "p90_regret"}
    [first, _] = found["tasks"]
    assert set(first) == {"task", "policy", "regret", "stop"}
    _, out, _ = run(str(path), "--policy", "auto", "--lanes", "4", "--seeds", "2")
    assert "rounds" in out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no list of trainings"),
        (b"x", "cannot read"),
        (gzip.compress(b"{}", mtime=0), "no list of trainings"),
    ],
    ids=["empty", "not packed", "no list"],
)
def test_a_file_that_is_none(tmp_path: Path, run: Run, content: bytes, said: str) -> None:
    path = tmp_path / "c.json.gz"
    path.write_bytes(content)
    with pytest.raises(CurvesError):
        read_tasks(path)
    code, _, err = run(str(path))
    assert code == 2
    assert said in err


def test_an_unknown_policy(tmp_path: Path, run: Run) -> None:
    code, _, err = run(str(write(tmp_path / "c.json.gz", ENTRIES)), "--policy", "best")
    assert code == 2
    assert "expected one of auto" in err


def test_a_problem_is_left_out_of_its_own_search(task: CurveTask) -> None:
    whole = library()
    assert len(leave_one_out.library_without(task.name.split("/")[0]).noise) == len(whole.noise)
    assert 0 < len(leave_one_out.library_without("wine").noise) < len(whole.noise)
    judged = leave_one_out.search(task)
    assert judged[-1].cost == "end"
    assert judged[-1].regret == replay(task, "auto", seed=0, lanes=1).answer
    assert all(0 <= one.expected <= 1 and 0 <= one.doubt <= 1 for one in judged)
