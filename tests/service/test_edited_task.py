"""The task is edited while its study runs: the real command stops, and says what to choose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.helpers.commands import await_true, justright

TASK = """
import time, torch, justright
import helper

class Mine(justright.Task):
    epochs = 12
    batch_size = 32
    optimizer = "sgd"

    def model(self):
        return torch.nn.Linear(4, 2)

    def train_data(self):
        return torch.ones(64, 4), torch.arange(64) % 2

    def loss(self, output, target):
        time.sleep(0.02)
        return helper.SCALE * torch.nn.functional.cross_entropy(output, target)
"""


def test_an_edited_task_stops_its_study_and_resume_goes_on(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TASK)
    (tmp_path / "helper.py").write_text("SCALE = 1.0\n")
    env = {"JUSTRIGHT_STATE": str(tmp_path / "state")}
    command = ("tune", "mine.py:Mine", "--name", "s", "--trials", "20", "--lanes", "1", "--json")

    def losses() -> int:
        shown = justright("status", "s", "--json", env=env, cwd=tmp_path)
        trials = json.loads(shown.stdout)["trials"] if shown.returncode == 0 else []
        return sum(trial["step"] for trial in trials)

    import os

    tune = subprocess.Popen(
        [sys.executable, "-P", "-m", "justright", *command],
        cwd=tmp_path, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    await_true(lambda: losses() >= 2)
    (tmp_path / "helper.py").write_text("SCALE = 100.0\n")
    _, err = tune.communicate(timeout=120)
    assert tune.returncode == 1, err
    assert "helper.py changed since the study began" in err
    assert "justright resume s" in err
    assert "--name" in err
    shown = json.loads(justright("status", "s", "--json", env=env, cwd=tmp_path).stdout)
    assert shown["state"] == "paused"
    assert max(t["best"] for t in shown["trials"] if t["best"] is not None) < 10, "losses are mixed"

    resumed = justright("resume", "s", "--json", env=env, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    answer = json.loads(resumed.stdout)
    assert any("helper.py" in text for text in answer["warnings"])
    assert "warning:" in resumed.stderr
