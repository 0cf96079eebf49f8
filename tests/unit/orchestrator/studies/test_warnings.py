"""What was found to be odd reaches whoever asked for the study, whenever it was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from justright.cli.plain import LineView
from justright.messages import Noticed
from tests.helpers.twin import House


def test_what_was_noticed_is_told_once_and_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house = House(tmp_path)
    for worker in house.workers:
        worker.inspection["warnings"] = ("the task has no `epoch`",)
    name = house.submit().name
    house.turn()
    house.turn()
    view = LineView(quiet=True)
    for _ in range(2):
        house.broker.exchange([Noticed(study=name, text="the rate has no effect")])
        house.turn()
    snapshot = house.run()
    assert snapshot.warnings == ("the task has no `epoch`", "the rate has no effect")
    assert snapshot.answer is not None
    assert snapshot.answer.warnings == snapshot.warnings
    view.show(snapshot)
    view.show(snapshot)
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert said == ["warning: the task has no `epoch`", "warning: the rate has no effect"]
