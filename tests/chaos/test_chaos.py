"""A short run of what ``make chaos`` runs for longer."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.faults import FAULTS
from tests.chaos.fleet import Fleet
from tests.chaos.rounds import Rounds


def test_nothing_is_lost_and_nothing_is_doubled(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    try:
        rounds = Rounds(fleet, seed=1)
        assert rounds.tally.lost == rounds.tally.doubled == 0, "without any fault"
        # A study that is done early ends its round with fewer faults: rounds go on until enough
        # struck, and for some rounds until each kind did.
        while rounds.tally.faults.total() < 12 or (
            set(rounds.tally.faults) != set(FAULTS) and rounds.tally.rounds < 4
        ):
            assert rounds.tally.rounds < 12, f"too few faults while a study ran: {rounds.tally}"
            rounds.play(faults=6)
    finally:
        fleet.close()
    assert (rounds.tally.lost, rounds.tally.doubled, rounds.tally.wrong) == (0, 0, 0), rounds.tally
