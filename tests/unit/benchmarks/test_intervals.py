"""Whether answers know how sure they are: what is counted, on a task whose truth is known."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.search.intervals import Check, main, summary

HORIZON = 30


def entry(lr: float, end: float, seed: int = 1) -> dict[str, Any]:
    about = {"problem": "p", "optimizer": "sgd", "batch_size": 8, "num_epochs": HORIZON}
    losses = [end + (2.0 - end) * 0.7**epoch for epoch in range(HORIZON)]
    return {**about, "lr": lr, "seed": seed, "loss": [*losses, end]}


ENDS = {1e-4: 1.6, 1e-3: 1.1, 1e-2: 0.5, 1e-1: 0.9, 1.0: 1.9}


def test_it_says_what_share_was_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.json.gz"
    trainings = [entry(lr, end) for lr, end in ENDS.items()]
    trainings += [entry(1e-2, 0.5 + off, seed) for seed, off in ((2, 0.02), (3, -0.02), (4, 0.0))]
    path.write_bytes(gzip.compress(json.dumps(trainings).encode()))
    monkeypatch.setattr(sys, "argv", ["intervals", str(path), "--jobs", "1", "--json"])
    main()
    found = json.loads(capfd.readouterr().out)
    assert set(found["interval"]) == {"coverage", "width"}
    assert {"precision", "recall", "decades"} < set(found["plateau"])
    # The noise over seeds is 0.02, 1 % of the scale 0.015: only the nearest rates are good.
    assert found["plateau"]["true_decades"] <= 0.2
    monkeypatch.setattr(sys, "argv", ["intervals", str(path), "--jobs", "1"])
    main()
    assert capfd.readouterr().out.startswith("1 answers")


def test_shares_are_of_rates_not_of_answers() -> None:
    about: dict[str, Any] = {"width": 0.1, "holds_best": True, "decades": 0.5, "true_decades": 0.3}
    narrow = Check(interval=True, band=2, good_in_band=2, good=4, found=1, **about)
    wide = Check(interval=None, band=8, good_in_band=3, good=4, found=4, **about)
    found = summary([narrow, wide])
    assert found["interval"]["coverage"] == 1.0
    assert found["plateau"]["precision"] == 5 / 10
    assert found["plateau"]["recall"] == 5 / 8
    assert summary([wide])["interval"]["coverage"] is None
