"""When a study gives up: where the user's code fails each time, it would fail again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from justright.failures import Failure
from justright.lifecycle import FINISHED, TrialState
from orchestrator.studies.trial_record import TrialRecord

_HOPELESS = 3  # failed trials, or attempts that ended alike, until a study gives up


class GivingUp:
    """Whether what has failed so far says that the rest will."""

    def __init__(self) -> None:
        self._forgiven: set[int] = set()  #: Trials that do not speak for the next ones.
        self._crashes: list[tuple[int, Failure]] = []  #: Attempts that ended badly, by trial.

    def crashed(self, trial: int, failure: Failure) -> None:
        """An attempt of a trial ended badly."""
        self._crashes.append((trial, failure))

    def forgive(self, trials: Iterable[TrialRecord]) -> None:
        """What failed before says nothing of a task that was mended since."""
        self._forgiven = {record.number for record in trials}
        self._crashes.clear()

    def reason(self, trials: Iterable[TrialRecord]) -> Failure | None:
        """The failure that ends the study; None: it goes on."""
        records = list(trials)
        known = [record for record in records if record.number not in self._forgiven]
        ended = [record for record in known if record.state in FINISHED]
        failed = [record for record in ended if record.state == TrialState.FAILED]
        most = 2 * len(failed) > len(ended)
        if len(failed) >= _HOPELESS and most and not _trains(known, failed):
            return failed[-1].failure
        return None if any(record.steps for record in records) else self._all_alike()

    def _all_alike(self) -> Failure | None:
        """Where no trial has got anywhere, and attempts of several ended in the same way."""
        if not self._crashes:
            return None
        _, last = self._crashes[-1]
        way = (last.kind, last.message)
        same = [number for number, f in self._crashes if (f.kind, f.message) == way]
        return last if len(same) >= _HOPELESS and len(set(same)) > 1 else None


def _trains(known: Sequence[TrialRecord], failed: Sequence[TrialRecord]) -> bool:
    """Whether another trial trains well: it has come to its end, or further than each that failed,
    or may still do so.
    """
    furthest = max(record.step for record in failed)
    for record in known:
        if record.state == TrialState.FAILED or record.diverged:
            continue
        at_work = record.state == TrialState.RUNNING and not record.lost
        if record.state == TrialState.COMPLETE or record.step > furthest or at_work:
            return True
    return False
