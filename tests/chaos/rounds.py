"""Rounds: a study each, faults while it runs, and the invariants when it has ended."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from justright.lifecycle import STUDY_FINISHED
from tests.chaos.faults import FAULTS
from tests.chaos.fleet import ROOT, Fleet
from tests.chaos.neighbours import settle

TRIALS = 6
_PATIENCE = 240.0  # seconds without any progress
_TOLD, _REPORTED = 6, 7  # operations of Optuna's journal: a trial's end, an intermediate value

#: What a study came to: for each rate its end and its losses.
Result = dict[float, tuple[str, dict[int, float]]]


@dataclass
class Tally:
    """What was done and found in all rounds."""

    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    wrong: int = 0  #: Trials whose end or losses are not those of the undisturbed run.

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        return (
            f"{self.rounds} rounds, {self.faults.total()} faults ({kinds or 'none'}), "
            f"{self.lost} lost, {self.doubled} doubled, {self.wrong} with other losses"
        )


class Rounds:
    """Plays rounds on a fleet. The first study is undisturbed: what all others must come to."""

    def __init__(
        self, fleet: Fleet, seed: int, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self._fleet, self._say = fleet, say
        self._rng = random.Random(seed)
        self.tally = Tally()
        self._expected = self._play([])

    def play(self, faults: int) -> None:
        """One round with so many faults, at random points."""
        # Each kind comes before any comes again.
        names = self._rng.sample(sorted(FAULTS), min(faults, len(FAULTS)))
        result = self._play(names)
        self.tally.rounds += 1
        for rate, expected in self._expected.items():
            if rate in result and result[rate] != expected:
                self.tally.wrong += 1
                self._say(f"lr {rate:.3g}: expected {expected}, found {result[rate]}")
        self._say(str(self.tally))

    def _play(self, faults: list[str]) -> Result:
        name = f"chaos-{uuid.uuid4().hex[:8]}"
        target = f"{ROOT / 'tests' / 'chaos' / 'task.py'}:Tiny"
        self._fleet.submit(name, target, trials=TRIALS, sampler="grid", pruner="none")
        for fault in faults:
            time.sleep(self._rng.uniform(0.3, 2.0))
            if self._ended(name):
                break
            self._say(f"{name}: {fault}")
            FAULTS[fault](self._fleet, self._rng)
            self.tally.faults[fault] += 1
            self._fleet.revive()
        deadline, known = time.monotonic() + _PATIENCE, 0
        while not self._ended(name):
            self._fleet.revive()
            size = self._fleet.journal.stat().st_size
            if size != known:
                deadline, known = time.monotonic() + _PATIENCE, size
            assert time.monotonic() < deadline, f"{name} does not end: see {self._fleet.folder}"
            time.sleep(0.2)
        for sentence in settle(self._fleet):
            self.tally.lost += 1
            self._say(sentence)
        return self._look(name)

    def _study(self, name: str) -> optuna.Study | None:
        if not self._fleet.journal.exists():
            return None
        storage = JournalStorage(JournalFileBackend(str(self._fleet.journal)))
        return optuna.load_study(study_name=name, storage=storage)

    def _ended(self, name: str) -> bool:
        study = self._study(name)
        return study is not None and study.user_attrs.get("state") in STUDY_FINISHED

    def _look(self, name: str) -> Result:
        """The invariants, and what the study came to."""
        study = self._study(name)
        assert study is not None
        assert study.user_attrs["state"] == "complete", study.user_attrs
        trials = study.get_trials(deepcopy=False)
        self.tally.lost += sum(not trial.state.is_finished() for trial in trials)
        self.tally.lost += max(0, TRIALS - len(trials))
        self.tally.doubled += max(0, len(trials) - TRIALS)
        self.tally.doubled += self._repeated({trial._trial_id for trial in trials})
        return {
            round(trial.params["lr"], 12): (trial.state.name, dict(trial.intermediate_values))
            for trial in trials
        }

    def _repeated(self, trials: set[int]) -> int:
        """How often a trial was told again, or a step of it reported again, in the journal."""
        seen: Counter[tuple[int, int, int]] = Counter()
        for line in self._fleet.journal.read_text().splitlines():
            entry = json.loads(line)
            if entry.get("trial_id") not in trials:
                continue
            told = entry["op_code"] == _TOLD and optuna.trial.TrialState(entry["state"])
            if told and told.is_finished():
                seen[_TOLD, entry["trial_id"], 0] += 1
            if entry["op_code"] == _REPORTED:
                seen[_REPORTED, entry["trial_id"], entry["step"]] += 1
        return sum(count - 1 for count in seen.values())
