"""What the source of an objective says of the value that is minimized."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker.jobs.objective_source import warnings_of


def load(folder: Path, text: str, name: str = "objective") -> Callable[[Any], Any]:
    (folder / "mine.py").write_text(text)
    spec = importlib.util.spec_from_file_location("mine_of_a_test", folder / "mine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mine_of_a_test"] = module
    spec.loader.exec_module(module)
    function: Callable[[Any], Any] = getattr(module, name)
    return function


UP = {
    "a name": "def objective(trial):\n    acc = 0.9\n    return acc",
    "of many": "def objective(trial):\n    return correct / total",
    "a lookup": "def objective(trial):\n    return result['val_accuracy']",
    "an item": "def objective(trial):\n    return accuracy.mean().item()",
    "the last": "def objective(trial):\n    return history.history['val_auc'][-1]",
    "computed": "def objective(trial):\n    return float(f1_score(a, b))",
    "percent": "def objective(trial):\n    return 100.0 * correct / total",
    "reported": "def objective(trial):\n    trial.report(acc, 1)\n    return evaluate()",
    "its study": "import optuna\ndef objective(trial):\n    return evaluate()\n"
    "if __name__ == '__main__':\n    optuna.create_study(direction='maximize')",
    "its direction": "def objective(trial):\n    return evaluate()\n"
    "def main(optuna):\n    optuna.create_study(direction=optuna.study.StudyDirection.MAXIMIZE)",
}


@pytest.mark.parametrize("text", UP.values(), ids=UP)
def test_it_rises(tmp_path: Path, text: str) -> None:
    [warning] = warnings_of(load(tmp_path, text))
    assert "LOWEST" in warning
    assert "1 - " in warning


DOWN = {
    "loss": "def objective(trial):\n    return loss",
    "turned": "def objective(trial):\n    trial.report(1 - acc, 1)\n    return 1 - accuracy",
    "negative": "def objective(trial):\n    return -accuracy",
    "error": "def objective(trial):\n    return wrong / total",
    "within": "def objective(trial):\n    def accuracy():\n        return acc\n    return loss",
    "minimize": "def objective(trial):\n    return loss\n"
    "def main(optuna):\n    optuna.create_study(direction='minimize')",
}


@pytest.mark.parametrize("text", DOWN.values(), ids=DOWN)
def test_it_falls_or_nobody_knows(tmp_path: Path, text: str) -> None:
    assert warnings_of(load(tmp_path, text)) == ()


def test_an_objective_may_be_an_object(tmp_path: Path) -> None:
    text = "class Mine:\n    def __call__(self, trial):\n        return acc\nobjective = Mine()"
    assert warnings_of(load(tmp_path, text))


def test_without_source_nothing_is_said() -> None:
    namespace: dict[str, Any] = {}
    exec("def objective(trial):\n    return acc", namespace)
    assert warnings_of(namespace["objective"]) == ()
