"""Checkpoints of one trial: numbered files, of which the last two are kept."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from justright.errors import ArtifactError
from worker.checkpoints.artifacts import Artifacts
from worker.checkpoints.format import State, pack, unpack

log = logging.getLogger(__name__)

_KEPT = 2  # the last one, and the one before it should that be damaged
_COST_SHARE = 0.05  # of the time that checkpoints may take at most
_ATTEMPT_DIGITS = 4  # with which a file's name begins


@dataclass
class Checkpoints:
    """Where one trial's checkpoints are, and when the next one is due."""

    artifacts: Artifacts
    folder: str  #: Within the artifacts.
    attempt: int
    every: float  #: Seconds of training between two.
    lanes: int = 1  #: How many trials are saved in turn, and share what that may cost.
    _last: float = field(default_factory=time.monotonic)
    _cost: float = 0.0  # seconds that the last one took

    @property
    def due(self) -> bool:
        """Whether it is time for one: often enough to lose little, seldom enough to cost little."""
        return time.monotonic() - self._last > max(
            self.every, self.lanes * self._cost / _COST_SHARE
        )

    def save(self, state: State, mark: int, step: int) -> bool:
        """Write a checkpoint; False: the place refused, which is logged. The training goes on."""
        began = time.monotonic()
        # By attempt first: a worker that was taken for dead may still write its own, and those that
        # did not fit, so that this attempt began anew, must not count as later than its own.
        name = f"{self.folder}/{self.attempt:0{_ATTEMPT_DIGITS}d}-{mark:010d}-{step:010d}.pt"
        try:
            self.artifacts.write(name, pack(state))
            for old in self._names()[:-_KEPT]:
                self.artifacts.remove(old)
            return True
        except ArtifactError as error:
            log.warning("no checkpoint: %s", error)
            return False
        finally:
            self._last = time.monotonic()
            self._cost = self._last - began

    def states(self) -> Any:
        """The states that can be read, the latest first."""
        try:
            names = self._names()
        except ArtifactError as error:
            log.warning("%s; the trial begins anew", error)
            return
        for name in reversed(names):
            try:
                yield unpack(self.artifacts.read(name))
            except ArtifactError as error:
                log.warning("checkpoint %s cannot be used: %s", name, error)

    def clear(self) -> None:
        """Remove them: the trial has ended. Those of a later attempt are that one's own."""
        try:
            names = self._names()
            later = [name for name in names if _attempt_of(name) > self.attempt]
            for name in names if later else ():
                if name not in later:
                    self.artifacts.remove(name)
            if not later:
                self.artifacts.remove(self.folder)
        except ArtifactError as error:
            log.warning("%s", error)

    def _names(self) -> list[str]:
        return [name for name in self.artifacts.names(self.folder) if name.endswith(".pt")]


def _attempt_of(name: str) -> int:
    """Whose checkpoint it is, by the name of its file."""
    return int(name.rpartition("/")[2][:_ATTEMPT_DIGITS])
