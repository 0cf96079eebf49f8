"""What a person sees: the live table on a real terminal."""

from __future__ import annotations

import re
from pathlib import Path

from tests.helpers.commands import EXAMPLES, justright
from tests.helpers.terminal import on_terminal
from tests.service.test_outcomes import TINY


def test_tune_on_a_terminal(tmp_path: Path) -> None:
    task = f"{EXAMPLES / 'diabetes.py'}:Diabetes"
    code, shown = on_terminal("tune", task, "--trials", "5", "--name", "seen")
    assert code == 0, shown
    assert "Traceback" not in shown
    for part in (
        "seen inspecting",
        "seen running",
        "100%, 5 trials ended",
        "left",
        "█",
        "★",
        "running",
    ):
        assert part in shown, part
    answer = shown[shown.rindex("seen complete") :]
    assert "best learning rate" in answer
    [counts] = re.findall(r"(\d+) trials? complete(?:, (\d+) pruned)?", answer)
    assert sum(int(count or 0) for count in counts) == 5, answer
    code, shown = on_terminal("status", "seen")
    assert code == 0, shown
    assert "★" in shown
    assert "best learning rate" in shown


def test_a_terminal_of_a_few_columns(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(TINY)
    code, shown = on_terminal(
        "tune", f"{tmp_path}/task.py:Tiny", "--trials", "3", columns=40, rows=10
    )
    assert code == 0, shown
    assert "Traceback" not in shown
    assert "100%" in shown


def test_status_of_everything(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(TINY)
    for name in ("one", "two"):
        done = justright("tune", f"{tmp_path}/task.py:Tiny", "--trials", "2", "--name", name)
        assert done.returncode == 0, done.stderr
    code, shown = on_terminal("status")
    assert code == 0, shown
    for part in ("one", "two", "complete", "task.py:Tiny", "2/2", "no workers"):
        assert part in shown, part
