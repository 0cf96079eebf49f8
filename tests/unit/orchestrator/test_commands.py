"""Every command is answered: done, or refused with the reason; told twice, it is answered alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from justright.client.asking import ask, new_id
from justright.errors import JustrightError, UsageError
from justright.lifecycle import StudyState
from justright.messages import Cancel, Delete, Pause, Reply, Resume, Submit
from justright.spec import StudySpec, TaskRef
from tests.helpers.twin import House


def spec(**values: Any) -> StudySpec:
    return StudySpec(**{"name": "s", "task": TaskRef(target="/t.py:T"), "trials": 8, **values})


def told(house: House, command: Any) -> Reply:
    """What its sender reads once the turn is over."""
    house.broker.send(command)
    house.turn(workers=False)
    reply = house.broker.reply(command.id)
    assert reply is not None
    return reply


def begun(folder: Path) -> House:
    house = House(folder)
    assert told(house, Submit(id="a", spec=spec())).done
    for _ in range(4):
        house.turn()
    return house


COMMANDS = {"cancel": Cancel, "pause": Pause, "resume": Resume}


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("state", ["unknown", "running", "paused", "ended"])
def test_what_is_asked_is_done_or_refused_with_the_reason(
    tmp_path: Path, kind: str, state: str
) -> None:
    house = begun(tmp_path)
    if state == "paused":
        told(house, Pause(id="p", study="s"))
    if state == "ended":
        house.run()
    reply = told(house, COMMANDS[kind](id="x", study="nobody" if state == "unknown" else "s"))
    if state == "unknown":
        assert (reply.done, reply.typed) == (False, True)
        assert "no study 'nobody'" in reply.reason
    elif state == "ended":
        assert (reply.done, reply.typed) == (False, True)
        assert "has ended already (complete)" in reply.reason
    else:
        assert reply.done
        snapshot = house.broker.snapshot("s")
        assert snapshot is not None
        after = {"cancel": "cancelled", "pause": "paused", "resume": "running"}
        assert snapshot.state == after[kind], "it was answered before it was done"


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_whose_reply_was_lost_is_answered_again_alike(tmp_path: Path, kind: str) -> None:
    """As when an orchestrator is killed between its commit and its reply."""
    house = begun(tmp_path)
    command = COMMANDS[kind](id="x", study="s")
    assert told(house, command).done
    house.restart()
    assert told(house, command).done


def test_two_under_one_name_in_the_same_moment_both_hear_the_truth(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.broker.send(Submit(id="a", spec=spec()))
    house.broker.send(Submit(id="b", spec=spec(epochs=3)))
    house.broker.send(Submit(id="c", spec=spec()))
    house.turn()
    found = [house.broker.reply(name) for name in "abc"]
    assert [one and one.done for one in found] == [True, False, True]
    assert found[1] is not None
    assert "--name" in found[1].reason
    assert found[2] is not None
    assert "exists" in found[2].reason


def test_a_name_that_was_made_up_is_never_an_earlier_studys(tmp_path: Path) -> None:
    house = begun(tmp_path)
    reply = told(house, Submit(id="b", spec=spec(), fresh=True))
    assert (reply.done, reply.taken) == (False, True)
    again = told(house, Submit(id="a", spec=spec(), fresh=True))
    assert again.done, "it is this very submission, told twice"


def test_the_client_says_what_became_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(tmp_path)
    monkeypatch.setattr("justright.client.asking._PATIENCE", 0.1)
    with pytest.raises(JustrightError, match="no orchestrator is active") as nobody:
        ask(house.broker, Cancel(id=new_id(), study="s"))
    assert not isinstance(nobody.value, UsageError)
    house.broker.lead("o1", 60.0)
    with pytest.raises(JustrightError, match="o1 has not answered within"):
        ask(house.broker, Cancel(id=new_id(), study="s"))
    house.broker.answer([Reply(id="x", done=False, reason="it has ended", typed=True)])
    with pytest.raises(UsageError, match="it has ended"):
        ask(house.broker, Cancel(id="x", study="s"))
    house.broker.answer([Reply(id="y", done=False, reason="its signature is wrong")])
    with pytest.raises(JustrightError, match="signature") as refused:
        ask(house.broker, Cancel(id="y", study="s"))
    assert refused.value.exit_code == 1
    house.broker.answer([Reply(id="z", done=True)])
    assert ask(house.broker, Cancel(id="z", study="s")).done


def test_a_study_that_is_cancelled_shows_it(tmp_path: Path) -> None:
    house = begun(tmp_path)
    told(house, Cancel(id="x", study="s"))
    snapshot = house.broker.snapshot("s")
    assert snapshot is not None
    assert snapshot.state == StudyState.CANCELLED


def test_a_study_that_has_ended_can_be_removed(tmp_path: Path) -> None:
    house = begun(tmp_path)
    refused = told(house, Delete(id="x", study="s"))
    assert (refused.done, refused.typed) == (False, True)
    assert "justright cancel s" in refused.reason
    house.run()
    assert told(house, Delete(id="y", study="s")).done
    assert house.broker.snapshot("s") is None
    assert "s" not in house.broker.studies()
    house.restart()
    assert "s" not in house.ledger.studies()
    tidying = [job for jobs in house.broker.queues.values() for job in jobs]
    assert [job.study for job in tidying] == ["s"], "its checkpoints stay"
    assert told(house, Delete(id="y", study="s")).done, "told twice, it is answered alike"
    assert told(house, Submit(id="again", spec=spec(epochs=5))).done, "its name is not free"
