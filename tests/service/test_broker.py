"""One contract, two brokers: the one on a real Redis and its twin in memory."""

from __future__ import annotations

import pytest

from justright.messages import Cancel, Command, Report, Submit
from justright.spec import StudySpec
from tests.helpers.brokers import (
    LONG,
    SHORT,
    TASK,
    House,
    a_decision,
    a_job,
    a_report,
    a_snapshot,
    a_worker,
    in_memory,
    on_redis,
)


@pytest.fixture(params=["memory", "redis"])
def house(request: pytest.FixtureRequest) -> House:
    if request.param == "memory":
        return in_memory()
    return on_redis(request.getfixturevalue("clean_redis"))


# -- messages to the orchestrator ---------------------------------------------------------------


def test_nothing_was_sent(house: House) -> None:
    assert house.received() == []
    house.broker.acknowledge()


def test_commands_and_events_arrive_once_and_in_their_order(house: House) -> None:
    commands: list[Command] = [
        Submit(id="1", spec=StudySpec(name="s", task=TASK)),
        Cancel(study="s"),
    ]
    reports = [a_report(step) for step in range(1, 5)]
    for command in commands:
        house.broker.send(command)
    house.broker.exchange(reports[:3])
    house.broker.exchange(reports[3:])
    received = house.received()
    assert [message for message in received if isinstance(message, (Submit, Cancel))] == commands
    assert [message for message in received if isinstance(message, Report)] == reports
    assert len(received) == len(commands) + len(reports)
    assert house.received() == []
    house.broker.send(Cancel(study="later"))
    assert house.received() == [Cancel(study="later")]


def test_no_more_than_asked_for(house: House) -> None:
    commands = [Cancel(study=f"s{number}") for number in range(5)]
    for command in commands:
        house.broker.send(command)
    assert house.broker.receive(wait=SHORT, at_most=2) == commands[:2]
    assert house.broker.receive(wait=SHORT, at_most=9) == commands[2:]


def test_what_was_not_acknowledged_comes_again(house: House) -> None:
    house.broker.send(Cancel(study="one"))
    house.broker.exchange([a_report(1)])
    first = house.received()
    assert len(first) == 2
    house.broker.send(Cancel(study="two"))
    again = house.successor().receive(wait=SHORT)
    assert sorted(map(repr, again)) == sorted(map(repr, [*first, Cancel(study="two")]))
    assert again.index(Cancel(study="one")) < again.index(Cancel(study="two"))


def test_what_was_acknowledged_is_forgotten_and_nothing_else(house: House) -> None:
    for name in ("one", "two", "three"):
        house.broker.send(Cancel(study=name))
    assert house.broker.receive(wait=SHORT, at_most=1) == [Cancel(study="one")]
    house.broker.acknowledge()
    house.broker.acknowledge()
    left = [Cancel(study="two"), Cancel(study="three")]
    assert house.broker.receive(wait=SHORT, at_most=1) == left[:1]
    assert house.successor().receive(wait=SHORT) == left


# -- jobs, leases and decisions -----------------------------------------------------------------


def test_jobs_are_taken_in_their_order_and_from_their_pool(house: House) -> None:
    for number in range(3):
        house.broker.dispatch(a_job(number), "p")
    house.broker.dispatch(a_job(9), "other")
    assert [house.take("p") for _ in range(3)] == [a_job(0), a_job(1), a_job(2)]
    assert house.take("p") is None
    assert house.take("other") == a_job(9)


def test_the_places_of_a_job(house: House) -> None:
    def places() -> dict[str, str]:
        return dict(house.broker.locate(["job-0", "job-1"], "p"))

    assert house.broker.locate([], "p") == {}
    assert places() == {"job-0": "missing", "job-1": "missing"}
    house.broker.dispatch(a_job(0), "p")
    house.broker.dispatch(a_job(1), "p")
    assert places() == {"job-0": "queued", "job-1": "queued"}
    assert house.broker.locate(["job-0"], "other") == {"job-0": "missing"}
    assert house.take("p") == a_job(0)
    house.broker.beat(a_worker(job="job-0"), LONG)
    assert places() == {"job-0": "leased", "job-1": "queued"}
    house.broker.leave(a_worker(job="job-0"))
    assert places() == {"job-0": "missing", "job-1": "queued"}


def test_a_lease_ends_with_its_heartbeats(house: House) -> None:
    house.broker.beat(a_worker(job="job-0"), SHORT)
    house.until(lambda: house.broker.locate(["job-0"], "p") == {"job-0": "missing"})
    house.broker.beat(a_worker(job="job-0"), SHORT)
    house.broker.beat(a_worker(job="job-0"), LONG)
    house.wait()
    assert house.broker.locate(["job-0"], "p") == {"job-0": "leased"}


def test_a_job_that_is_withdrawn_is_not_taken(house: House) -> None:
    house.broker.dispatch(a_job(0), "p")
    house.broker.dispatch(a_job(1), "p")
    for _ in range(2):
        house.broker.withdraw("job-0", "p")
    house.broker.withdraw("unheard-of", "empty")
    assert house.broker.locate(["job-0"], "p") == {"job-0": "missing"}
    assert house.take("p") == a_job(1)
    assert house.take("p") is None


def test_a_job_that_is_taken_cannot_be_withdrawn(house: House) -> None:
    house.broker.dispatch(a_job(0), "p")
    house.take("p")
    house.broker.beat(a_worker(job="job-0"), LONG)
    house.broker.withdraw("job-0", "p")
    assert house.broker.locate(["job-0"], "p") == {"job-0": "leased"}


def test_a_job_is_begun_once(house: House) -> None:
    assert house.broker.claim("job-0", "w", LONG)
    assert house.broker.locate(["job-0"], "p") == {"job-0": "leased"}
    assert not house.broker.claim("job-0", "w", LONG)
    assert not house.broker.claim("job-0", "other", LONG)
    assert house.broker.claim("job-1", "w", LONG)
    assert house.broker.beat(a_worker(job="job-0"), LONG), "it is still its own"
    house.broker.leave(a_worker(job="job-0"))
    assert not house.broker.claim("job-0", "other", LONG), "nor when its worker has gone"


def test_a_claim_ends_like_a_lease_and_is_not_given_again(house: House) -> None:
    assert house.broker.claim("job-0", "w", SHORT)
    house.until(lambda: house.broker.locate(["job-0"], "p") == {"job-0": "missing"})
    assert not house.broker.claim("job-0", "other", LONG)
    assert house.broker.beat(a_worker(job="job-0"), LONG), "it was late, and nobody has minded"
    assert house.broker.locate(["job-0"], "p") == {"job-0": "leased"}


def test_a_job_that_is_taken_back_is_nobodys(house: House) -> None:
    assert house.broker.claim("job-0", "w", LONG)
    assert house.broker.beat(a_worker(job="job-0"), LONG)
    house.broker.revoke([])
    house.broker.revoke(["job-0", "job-1"])
    assert house.broker.locate(["job-0"], "p") == {"job-0": "missing"}
    for _ in range(2):
        assert not house.broker.beat(a_worker(job="job-0"), LONG)
    assert house.broker.locate(["job-0"], "p") == {"job-0": "missing"}
    house.broker.leave(a_worker(job="job-0"))
    for job in ("job-0", "job-1"):
        assert not house.broker.claim(job, "w", LONG)
        assert not house.broker.claim(job, "other", LONG)
    assert house.broker.locate(["job-0", "job-1"], "p") == {"job-0": "missing", "job-1": "missing"}
    assert house.broker.claim("job-2", "w", LONG)
    assert house.broker.beat(a_worker(), LONG), "a worker without a job has lost nothing"


def test_a_job_that_is_taken_back_on_the_queue_is_not_begun(house: House) -> None:
    house.broker.dispatch(a_job(0), "p")
    house.broker.dispatch(a_job(1), "p")
    house.broker.revoke(["job-0"])
    assert house.take("p") is None
    assert house.take("p") == a_job(1)


def test_the_mark_is_left_once(house: House) -> None:
    assert not house.broker.mark()
    assert house.broker.mark()
    assert house.successor().mark()


def test_decisions_are_for_those_who_ask(house: House) -> None:
    assert house.broker.exchange([], "s", [0, 1]) == {}
    house.broker.decide("s", {0: a_decision(), 2: a_decision(2)})
    assert house.broker.exchange([a_report(1)], "s", [0, 1]) == {0: a_decision()}
    assert house.broker.exchange([], "other", [0]) == {}
    assert house.broker.exchange([], "s", []) == {}
    house.broker.decide("s", {0: a_decision(3)})
    found = house.broker.exchange([], "s", [2, 0])
    assert found == {0: a_decision(3), 2: a_decision(2)}, "the latest, and as often as asked"
    assert house.received() == [a_report(1)]


# -- what clients see ---------------------------------------------------------------------------


def test_studies_are_shown_as_last_published(house: House) -> None:
    assert house.broker.snapshot("b") is None
    assert house.broker.studies() == []
    for snapshot in (a_snapshot("b"), a_snapshot("a"), a_snapshot("b", "2")):
        house.broker.publish(snapshot)
    assert house.broker.studies() == ["a", "b"]
    assert house.broker.snapshot("b") == a_snapshot("b", "2")


def test_a_study_is_shown_as_long_as_it_is_kept(house: House) -> None:
    house.broker.publish(a_snapshot("kept"), keep=SHORT)
    house.broker.publish(a_snapshot("kept"))
    house.broker.publish(a_snapshot("long"), keep=LONG)
    house.broker.publish(a_snapshot("short"), keep=SHORT)
    for _ in range(5):
        house.wait()
    assert house.broker.studies() == ["kept", "long"]
    assert house.broker.snapshot("short") is None


def test_workers_are_shown_while_they_live(house: House) -> None:
    assert house.broker.workers() == []
    for name in ("b", "a", "c"):
        house.broker.beat(a_worker(name), LONG)
    house.broker.beat(a_worker("b", job="job-0"), LONG)
    assert house.broker.workers() == [a_worker("a"), a_worker("b", "job-0"), a_worker("c")]
    house.broker.leave(a_worker("a"))
    house.broker.leave(a_worker("never-came"))
    house.broker.beat(a_worker("c"), SHORT)
    house.until(lambda: house.broker.workers() == [a_worker("b", job="job-0")])
    house.broker.beat(a_worker("c"), LONG)
    assert [worker.name for worker in house.broker.workers()] == ["b", "c"]


def test_one_leads_until_it_resigns(house: House) -> None:
    assert house.broker.leader() is None
    assert house.broker.lead("a", LONG)
    assert not house.broker.lead("b", LONG)
    assert house.broker.lead("a", LONG)
    house.broker.resign("b")
    assert house.broker.leader() == "a"
    house.broker.resign("a")
    assert house.broker.leader() is None
    assert house.broker.lead("b", LONG)
    assert house.broker.leader() == "b"


def test_one_that_is_silent_leads_no_more(house: House) -> None:
    assert house.broker.lead("a", SHORT)
    house.until(lambda: house.broker.lead("b", LONG))
    assert not house.broker.lead("a", LONG)
    house.broker.resign("a")
    assert house.broker.leader() == "b"
