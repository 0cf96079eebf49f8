"""``make chaos ROUNDS=N``: plays rounds, says what was found, exits with 1 if anything was."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.fleet import Fleet
from tests.chaos.rounds import Rounds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--faults", type=int, default=5, help="in each round")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="justright-chaos-"))
    print(f"logs: {folder}", file=sys.stderr)
    fleet = Fleet(folder)
    try:
        rounds = Rounds(fleet, options.seed, lambda text: print(text, file=sys.stderr, flush=True))
        for _ in range(options.rounds):
            rounds.play(options.faults)
    finally:
        fleet.close()
    print(rounds.tally)
    return 1 if rounds.tally.lost or rounds.tally.doubled or rounds.tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
