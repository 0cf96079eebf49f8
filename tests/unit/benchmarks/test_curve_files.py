"""Files of curves by steps: even shares, cooldowns that branched off, what a training is worth."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.search.curve_files import CurvesError, Training, read_trainings
from benchmarks.search.replay import COSTS, replay
from benchmarks.search.replay_curves import read_tasks

HORIZON = 400


def entry(lr: float, steps: list[int], losses: list[float | None], **more: Any) -> dict[str, Any]:
    about = {"problem": "lm", "optimizer": "adamw", "batch_size": 8, "num_steps": HORIZON}
    return {**about, "lr": lr, "steps": steps, "loss": losses, **more}


def read(tmp_path: Path, *entries: dict[str, Any]) -> list[Training]:
    path = tmp_path / "c.json.gz"
    path.write_bytes(gzip.compress(json.dumps(entries).encode()))
    return read_trainings(path)


EVEN = [0, 100, 200, 300, 400]


def test_steps_become_even_shares_in_any_order(tmp_path: Path) -> None:
    [one] = read(tmp_path, entry(1e-3, [200, 0, 400, 100, 300], [2.0, 8.0, 1.0, 4.0, 1.5]))
    assert one.curve == pytest.approx((8.0, 4.0, 2.0, 1.5, 1.0))


def test_between_far_steps_it_is_linear_over_log_step(tmp_path: Path) -> None:
    [one] = read(tmp_path, entry(1e-3, [0, 100, 400], [8.0, 4.0, 2.0]))
    assert one.curve == pytest.approx((8.0, 4.0, 3.0, 4 - 2 * math.log(3) / math.log(4), 2.0))


def test_what_is_not_finite_has_diverged(tmp_path: Path) -> None:
    [one] = read(tmp_path, entry(1.0, EVEN, [8.0, 4.0, None, 3.0, 2.0]))
    assert one.curve[1] == pytest.approx(4.0)
    assert one.curve[2:] == (math.inf,) * 3


def test_where_a_file_ends_early_it_is_not_made_up(tmp_path: Path) -> None:
    [one] = read(tmp_path, entry(1.0, EVEN[:3], [8.0, 4.0, 2.0]))
    assert one.curve[-1] == math.inf


def test_a_cooldown_begins_with_the_run_that_it_branched_off(tmp_path: Path) -> None:
    constant = entry(1e-3, EVEN, [8.0, 4.0, 3.0, 2.9, 2.8])
    cooled = entry(1e-3, [300, 400], [2.7, 2.0], schedule="linear 0.4")
    other = entry(2e-3, [300, 400], [2.7, 2.0], schedule="linear 0.4")
    found = read(tmp_path, constant, cooled, other)
    assert [one.lr for one in found] == [1e-3, 1e-3], "of the last one the beginning is missing"
    assert found[1].curve == pytest.approx((8.0, 4.0, 3.0, 2.7, 2.0))


def test_a_curve_ends_at_what_it_is_worth(tmp_path: Path) -> None:
    whole = entry(1e-3, EVEN, [8.0, 4.0, 3.0, 2.5, 2.0], final=2.1)
    cut = entry(2e-3, EVEN[:4], [8.0, 4.0, 3.0, 2.5], final=2.2)
    first, second = read(tmp_path, whole, cut)
    assert first.curve == pytest.approx((8.0, 4.1, 3.1, 2.6, 2.1))
    assert second.curve == pytest.approx((8.0, 4.1, 3.1, 2.6, 2.2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss": [1.0]}, "5 steps, expected 1"),
        ({"steps": [0, 1, 2, 3, 401]}, "above num_steps"),
        ({"num_steps": None}, "neither num_epochs nor num_steps"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(CurvesError, match=said):
        read(tmp_path, entry(1e-3, EVEN, [8.0, 4.0, 3.0, 2.5, 2.0]) | change)


def test_it_is_searched_like_any_other(tmp_path: Path) -> None:
    ends = {1e-4: 6.0, 1e-3: 3.0, 1e-2: 2.0, 1e-1: 2.5, 1.0: 7.0}
    shares = (1.0, 0.5, 0.25, 0.1, 0.0)
    curves = {lr: [end + (8.0 - end) * share for share in shares] for lr, end in ends.items()}
    read(tmp_path, *(entry(lr, EVEN, list(losses)) for lr, losses in curves.items()))
    [task] = read_tasks(tmp_path / "c.json.gz")
    found = replay(task, "auto", seed=0, lanes=1)
    assert set(found.regret) == {f"{c:g}" for c in COSTS}
    assert found.answer < 0.5
