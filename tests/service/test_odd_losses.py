"""Programs and objectives as people have them, through the real command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.helpers.commands import justright

# Begins with a best loss of inf, overfits as it says first, writes for people, buffers what it
# prints, and ends itself where its loss is lost.
PROGRAM = """
import math, sys
lr = float(sys.argv[1])
distance = math.log10(lr) + 2
print("training begins, best val loss: inf")
for epoch in range(1, 4):
    if lr > 0.3:
        sys.exit("Loss is nan, stopping training")
    print(f"Epoch {epoch}/3 - train loss: {2 / (1 + 50 * lr * epoch):.4f}")
    loss = 1000 + 700 * distance**2 + 50 / epoch
    print(f"Epoch {epoch}/3 - val loss: \\x1b[32m{loss:,.2f}\\x1b[0m")
"""


def answer(*words: str) -> tuple[dict[str, Any], str]:
    done = justright("tune", "--json", *words)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found, done.stderr


def test_a_program_that_writes_for_people(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    options = ["--lr", "1e-4:10", "--trials", "14", "--sampler", "grid"]
    found, said = answer(*options, "--", sys.executable, f"{tmp_path}/train.py", "{lr}")
    assert 0.005 < found["best_lr"] < 0.02
    assert 1016 < found["loss"] < 1100
    assert found["metric"] == "val loss"
    assert 0.3 < found["edge_of_stability"] < 1
    assert found["trials"]["failed"] == 0
    assert found["trials"]["diverged"] > 2
    assert found["warnings"] == []
    assert "warning" not in said


OBJECTIVE = """
import math

import torch


def objective(trial):
    lr = trial.suggest_float("lr", 1e-6, 1e-2, log=True)
    for epoch in range(3):
        scores = torch.tensor(math.nan if lr > 1e-4 else -math.log10(lr))
        accuracy = torch.distributions.Normal(scores, 1.0).mean / (3 - epoch)
        trial.report(accuracy.item(), epoch)
    return accuracy
"""


def test_an_objective_whose_value_rises_and_is_lost_at_hot_rates(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OBJECTIVE)
    found, said = answer(f"{tmp_path}/mine.py:objective", "--trials", "9", "--sampler", "grid")
    assert found["trials"]["failed"] == 0
    assert found["trials"]["diverged"] > 2
    assert 1e-4 < found["edge_of_stability"] < 1e-3
    assert "returns 'accuracy', which rises" in found["warnings"][0]
    assert "warning: the objective returns 'accuracy'" in said
