"""How a ``tune`` can end, and what it leaves for the next one of the same name."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.helpers.commands import await_true, justright
from tests.helpers.leftovers import processes_of, studies_in

COUNTS = ("complete", "pruned", "failed")


def answer_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON object on stdout, and nothing else there."""
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(lines[0])
    return answer


def ended(answer: dict[str, Any]) -> int:
    return sum(answer["trials"][kind] for kind in COUNTS)


# -- no answer --------------------------------------------------------------------------------

DIVERGES = """
import torch

import justright


class Diverges(justright.Task):
    epochs = 4

    def model(self):
        return torch.nn.Linear(4, 2)

    def train_data(self):
        return torch.ones(32, 4), torch.ones(32, dtype=torch.long)

    def loss(self, output, target):
        return super().loss(output, target) * float("nan")
"""


def test_every_trial_diverges(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(DIVERGES)
    task = f"{tmp_path}/task.py:Diverges"
    done = justright("tune", task, "--trials", "5", "--name", "hot", "--json")
    assert done.returncode == 3, done.stderr
    answer = answer_of(done)
    assert answer["best_lr"] is None
    assert answer["loss"] is None
    assert answer["trials"] == {"complete": 0, "pruned": 5, "diverged": 5, "failed": 0}
    assert answer["epochs"] == 5, "each was stopped in the epoch in which it diverged"
    assert "every trial diverged (5 of 5)" in done.stderr
    assert "--lr" in done.stderr
    assert "Traceback" not in done.stderr
    best = justright("best", "hot")
    assert best.returncode == 3
    assert "every trial diverged (5 of 5)" in best.stdout


def test_every_trial_of_a_command_fails(tmp_path: Path) -> None:
    program = "import sys; print('reading'); sys.exit('there is no data at all')"
    done = justright(
        "tune", "--trials", "9", "--json", "--", sys.executable, "-c", program, "--lr={lr}"
    )
    assert done.returncode == 3, done.stderr
    answer = answer_of(done)
    assert answer["best_lr"] is None
    assert answer["trials"]["failed"] == 3, "it gives up long before the ninth"
    assert "exit code 1" in done.stderr
    assert "there is no data at all" in done.stderr
    assert "Traceback" not in done.stderr


# -- an answer --------------------------------------------------------------------------------

TINY = """
import torch

import justright


class Tiny(justright.Task):
    epochs = 2

    def model(self):
        return torch.nn.Linear(4, 2)

    def train_data(self):
        inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        return inputs, (inputs.sum(dim=1) > 0).long()
"""


def test_a_timeout_answers_with_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(TINY)
    task = f"{tmp_path}/task.py:Tiny"
    done = justright(
        "tune", task, "--trials", "100000", "--sampler", "random", "--pruner", "none",
        "--timeout", "8", "--name", "short",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "best learning rate" in done.stdout
    assert "ended by: timeout" in done.stdout
    answer = answer_of(justright("best", "short", "--json"))
    assert answer["reason"] == "timeout"
    assert answer["state"] == "complete"
    assert answer["seconds"] >= 8
    assert 0 < ended(answer) < 100000
    assert f"{answer['best_lr']:.4g}" in done.stdout


def test_a_study_like_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(TINY)
    task = f"{tmp_path}/task.py:Tiny"
    first = justright("tune", task, "--name", "first", "--json")
    assert first.returncode == 0, first.stderr
    second = justright("tune", task, "--like", "first", "--json")
    assert second.returncode == 0, second.stderr
    assert answer_of(second)["best_lr"] is not None
    unknown = justright("tune", task, "--like", "nobody")
    assert unknown.returncode == 2
    assert "no study 'nobody'" in unknown.stderr


def test_a_study_file_with_a_pool_of_its_own(tmp_path: Path) -> None:
    """The same file serves ``submit`` and ``tune``; here all workers are in its pool."""
    (tmp_path / "task.py").write_text(TINY)
    study = tmp_path / "study.toml"
    study.write_text('task = "task.py:Tiny"\ntrials = 2\npool = "big"\nname = "pooled"\n')
    done = justright("tune", str(study), "--json", timeout=60)
    assert done.returncode == 0, done.stderr
    assert ended(answer_of(done)) == 2


def test_a_module_of_the_folder_that_one_is_in(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tasks.py").write_text(TINY)
    done = justright("tune", "mine.tasks:Tiny", "--trials", "2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ended(answer_of(done)) == 2


RAISES_LATE = TINY.replace(
    "def model(self):",
    "def loss(self, output, target):\n"
    "        if self.training_step() > 3: raise ValueError('no more of this')\n"
    "        return super().loss(output, target)\n\n"
    "    seen = 0\n\n"
    "    def training_step(self):\n"
    "        self.seen += 1\n"
    "        return self.seen\n\n"
    "    def model(self):",
)


def test_code_that_raises_later_is_given_up_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(RAISES_LATE)
    done = justright("tune", f"{tmp_path}/task.py:Tiny", "--trials", "30", "--name", "late")
    assert done.returncode == 3, done.stderr
    assert "ValueError: no more of this" in done.stderr
    assert "in loss" in done.stderr
    answer = answer_of(justright("best", "late", "--json"))
    assert answer["state"] == "failed"
    assert ended(answer) <= 6, "it does not burn all thirty"


def test_a_regression_with_the_loss_of_a_classification(tmp_path: Path) -> None:
    task = TINY.replace("Linear(4, 2)", "Linear(4, 1)")
    (tmp_path / "task.py").write_text(task)
    done = justright("tune", f"{tmp_path}/task.py:Tiny", "--trials", "2")
    assert done.returncode == 1, done.stdout
    assert "one output" in done.stderr
    assert "mse_loss" in done.stderr


OBJECTIVE = """
import math
import time

import optuna


def objective(trial):
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    for step in range(9):
        time.sleep(0.03)  # as training would take
        loss = 0.1 * (math.log10(lr) + 3) ** 2 + 1 / (step + 1)
        trial.report(loss, step)
        if trial.should_prune():
            raise optuna.TrialPruned()
    return loss
"""


def test_an_optuna_objective_works_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "objective.py"
    path.write_text(OBJECTIVE)
    names: dict[str, Any] = {}
    exec(OBJECTIVE, names)
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
    study.optimize(names["objective"], n_trials=5)
    assert len(study.trials) == 5, "this is an objective that Optuna itself runs"

    done = justright(
        "tune", f"{path}:objective", "--trials", "14", "--sampler", "random",
        "--pruner", "median", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = answer_of(done)
    assert answer["reason"] == "trials"
    assert ended(answer) == 14
    assert answer["trials"]["failed"] == 0
    assert answer["trials"]["pruned"] > 0
    assert 1e-4 < answer["best_lr"] < 1e-2
    expected = 0.1 * (math.log10(answer["best_lr"]) + 3) ** 2 + 1 / 9
    assert answer["loss"] == pytest.approx(expected)


TRAIN = """
import argparse
import math

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
lr = parser.parse_args().lr
for epoch in range(1, 4):
    loss = (math.log10(lr) + 2) ** 2 + 1 / epoch
    print(f"epoch {epoch}: train_loss 0.01 val_loss {loss:.6f}", flush=True)
    if lr > 1:
        print("val_loss nan", flush=True)
"""


def test_any_command_works(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    done = justright(
        "tune", "--trials", "8", "--sampler", "grid", "--pruner", "none", "--json", "--",
        sys.executable, f"{tmp_path}/train.py", "--lr", "{lr}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = answer_of(done)
    assert ended(answer) == 8
    assert answer["trials"]["failed"] == 0
    assert answer["trials"]["diverged"] == answer["trials"]["pruned"] > 0
    assert answer["edge_of_stability"] > 1
    assert answer["best_lr"] == pytest.approx(0.01), "the known good rate is where this is lowest"
    assert answer["loss"] == pytest.approx(1 / 3, abs=1e-4)


# -- interrupted in the middle ----------------------------------------------------------------

# Notes every start of a trial; the one after the fourth waits for the test to let it go on.
GATED = """
import time
from pathlib import Path

import torch

import justright


def noted(parameters, lr):
    if lr > 1e-8:  # less is a worker's look at the task
        with open(LOG, "a") as log:
            print(lr, file=log)
    return torch.optim.SGD(parameters, lr=lr)


class Gated(justright.Task):
    epochs = 2
    optimizer = noted

    def model(self):
        return torch.nn.Linear(4, 2)

    def train_data(self):
        inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        return inputs, (inputs.sum(dim=1) > 0).long()

    def loss(self, output, target):
        while LOG.exists() and len(LOG.read_text().splitlines()) > 4 and not GO.exists():
            time.sleep(0.01)
        return super().loss(output, target)
"""


class Interruption:
    """A study of eight trials that stands in the middle of its fifth until it is let go."""

    def __init__(self, tmp_path: Path) -> None:
        self.log, self.go = tmp_path / "log", tmp_path / "go"
        self.state = tmp_path / "state"
        task = tmp_path / "gated.py"
        task.write_text(f"{GATED}\n\nLOG, GO = Path({str(self.log)!r}), Path({str(self.go)!r})\n")
        self.arguments = [
            "tune", f"{task}:Gated", "--trials", "8", "--sampler", "random", "--pruner", "none",
            "--name", "gated", "--lanes", "1", "--json",
        ]  # fmt: skip

    def started(self) -> list[float]:
        """The rates of the trials that were begun, in order."""
        return [float(line) for line in self.log.read_text().split()] if self.log.exists() else []

    def begin(self) -> subprocess.Popen[str]:
        """Start it and wait until it stands in the middle."""
        tune = subprocess.Popen(
            [sys.executable, "-P", "-m", "justright", *self.arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"JUSTRIGHT_LEASE": "2"},
        )  # fmt: skip
        await_true(lambda: len(self.started()) == 5 or tune.poll() is not None)
        assert tune.poll() is None, tune.communicate()
        return tune

    def check_it_goes_on(self) -> dict[str, Any]:
        """The same command trains what is missing, and nothing that was trained before."""
        before = self.started()
        self.go.touch()
        done = justright(*self.arguments, env={"JUSTRIGHT_LEASE": "2"})
        assert done.returncode == 0, done.stderr
        answer = answer_of(done)
        assert answer["trials"] == {"complete": 8, "pruned": 0, "diverged": 0, "failed": 0}
        assert answer["state"] == "complete"
        assert answer["attempts"] == 9
        again = self.started()[len(before) :]
        assert len(again) == 4
        starts = Counter([*before, *again])
        assert len(starts) == 8
        assert starts[before[-1]] == 2, "only the one that was interrupted is trained again"
        assert processes_of(self.state) == []
        return answer


@pytest.fixture
def interruption(tmp_path: Path) -> Interruption:
    return Interruption(tmp_path)


def test_ctrl_c_and_on_again(interruption: Interruption) -> None:
    tune = interruption.begin()
    assert len(processes_of(interruption.state)) >= 4
    # A terminal would send it to the whole group; our services are in sessions of their own.
    tune.send_signal(signal.SIGINT)
    stdout, stderr = tune.communicate(timeout=120)
    assert tune.returncode == 130, stderr
    assert stdout == ""
    assert "--name gated" in stderr
    assert "Traceback" not in stderr
    assert processes_of(interruption.state) == []
    assert studies_in(interruption.state) == ["gated"]
    shown = justright("best", "gated", "--json")
    assert shown.returncode == 0, shown.stderr
    assert answer_of(shown)["trials"]["complete"] == 4
    interruption.check_it_goes_on()


@pytest.mark.parametrize(
    ("command", "said"),
    [("justright orchestrator", "the orchestrator ended"), ("redis-server", "redis")],
)
def test_a_part_of_it_dies(interruption: Interruption, command: str, said: str) -> None:
    """What was trained is kept, whatever ends a study."""
    tune = interruption.begin()
    [line] = [line for line in processes_of(interruption.state) if command in line]
    os.kill(int(line.split()[0]), signal.SIGKILL)
    stdout, stderr = tune.communicate(timeout=120)
    assert tune.returncode == 1, stderr
    assert stdout == ""
    assert said in stderr
    assert "Traceback" not in stderr
    assert processes_of(interruption.state) == []
    assert studies_in(interruption.state) == ["gated"]
    interruption.check_it_goes_on()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_it_is_ended_from_outside(interruption: Interruption, number: signal.Signals) -> None:
    """By a scheduler, a closed terminal, a lack of memory: nothing goes on without it."""
    tune = interruption.begin()
    tune.send_signal(number)
    tune.communicate(timeout=120)
    assert tune.returncode == (-number if number == signal.SIGKILL else 128 + number)
    await_true(lambda: processes_of(interruption.state) == [])
    interruption.check_it_goes_on()


def test_another_study_of_the_same_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(TINY)
    command = ["tune", f"{tmp_path}/task.py:Tiny", "--name", "one", "--trials", "2", "--json"]
    first = justright(*command)
    assert first.returncode == 0, first.stderr
    other = justright(*command, "--seed", "3")
    assert other.returncode == 2
    assert "another seed" in other.stderr
    assert answer_of(justright("best", "one", "--json")) == answer_of(first)
    more = justright(*command, "--trials", "4")
    assert more.returncode == 0, more.stderr
    assert ended(answer_of(more)) == 4
    cancelled = justright("cancel", "one")
    assert cancelled.returncode == 2
    assert "ended already" in cancelled.stderr
