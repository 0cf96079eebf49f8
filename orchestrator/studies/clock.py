"""How long a study has been at work."""

from __future__ import annotations

from collections.abc import Callable

_NOTE_EVERY = 2.0  # seconds at work that a kill of the orchestrator may forget


class WorkClock:
    """Seconds since the study was submitted, without pauses of the study or of the service."""

    def __init__(
        self, clock: Callable[[], float], spent: float, note: Callable[[float], None]
    ) -> None:
        """``spent``: seconds so far. ``note`` writes them to the ledger."""
        self._clock, self._note = clock, note
        self._spent = self._noted = spent
        self._since: float | None = None  #: When ``_spent`` was right; None: at rest.

    @property
    def elapsed(self) -> float:
        """Seconds at work so far."""
        return self._spent + (self._clock() - self._since if self._since is not None else 0.0)

    def start(self) -> None:
        """The study works, or waits for a worker; does nothing where it did already."""
        if self._since is None:
            self._since = self._clock()

    def rest(self) -> None:
        """The study has paused, or ended."""
        self._spent, self._since = self.elapsed, None
        self._note(self._spent)

    def note(self) -> None:
        """Write the time to the ledger, if it has been a while: a kill would forget it."""
        if self.elapsed - self._noted >= _NOTE_EVERY:
            self._noted = self.elapsed
            self._note(self._noted)
