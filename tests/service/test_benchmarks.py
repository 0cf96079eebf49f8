"""The benchmarks run and print what they promise. Speed is theirs to measure, not a test's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.scripts import optuna_digits
from justright.spec import DEFAULT_LR, TaskRef
from justright.task import Task
from tests.helpers.commands import EXAMPLES
from tests.helpers.servers import postgres_programs
from worker.user_code.loading import load

ROOT = Path(__file__).resolve().parents[2]


def test_dispatch_prints_one_object_with_every_figure() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.service.dispatch", "--quick", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert set(figures) == {"gap_ms", "reports_per_second"}
    gaps, rates = figures["gap_ms"], figures["reports_per_second"]
    assert {"justright", "rq_worker", "ratio"} <= set(gaps)
    assert {"justright", "sqlite", "postgresql", "redis_journal"} <= set(rates)
    if postgres_programs() is None:
        assert rates.pop("postgresql") is None
        assert "PostgreSQL" in done.stderr
    assert all(figure > 0 for figure in [*gaps.values(), *rates.values()])


@pytest.mark.parametrize("index_batches", [False, True])
def test_the_script_to_compare_with_trains_the_example(index_batches: bool) -> None:
    task = load(TaskRef(target=f"{EXAMPLES / 'digits.py'}:Digits"))
    assert isinstance(task, Task)
    script = optuna_digits
    assert task.optimizer == "sgd"
    assert task.schedule == "constant"
    ours = (task.epochs, task.batch_size, DEFAULT_LR)
    assert ours == (script.EPOCHS, script.BATCH_SIZE, script.LR)

    training, validation = script.load_data(index_batches)
    shuffled = torch.cat([inputs for inputs, _ in training])
    assert torch.equal(_sorted(shuffled), _sorted(task.train_data()[0]))
    ((inputs, targets),) = validation
    assert torch.equal(inputs, task.validation_data()[0])
    assert torch.equal(targets, task.validation_data()[1])

    torch.manual_seed(0)
    model = script.make_model()
    torch.manual_seed(0)
    their_output = task.model()(inputs)
    assert torch.equal(model(inputs), their_output)
    assert script.loss_of(their_output, targets) == task.loss(their_output, targets)


def _sorted(rows: torch.Tensor) -> torch.Tensor:
    """Rows in an order that does not depend on how they were shuffled."""
    return torch.tensor(sorted(rows.tolist()))
