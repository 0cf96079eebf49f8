"""What workers said when they would not run a study's jobs: it speaks of them, not of the study."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from justright.failures import Failure, FailureKind

_PATIENCE = 5.0  # seconds for which all must have refused: another worker may be just starting
_SERVED_PATIENCE = 60.0  # ... where one that has served it is away: it may come back


class Refusals:
    """Of one study, in memory only: after a restart the workers say it again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said: dict[str, Failure] = {}  #: The latest, by worker.
        self._served: set[str] = set()  #: Workers that have trained for it.
        self._since: float | None = None  #: Since when all that live have refused.

    def served(self, worker: str) -> None:
        """A worker has trained for the study: it can."""
        self._served.add(worker)
        self._said.pop(worker, None)

    def is_one(self, worker: str, failure: Failure | None) -> bool:
        """Whether a failure speaks of its worker. From one that has trained for the study, a file
        that is missing is a fault of that trial."""
        if failure is None or not worker or not failure.of_worker:
            return False
        return failure.kind is FailureKind.REFUSED or worker not in self._served

    def note(self, worker: str, failure: Failure) -> None:
        """A worker would not run a job of the study."""
        self._said[worker] = failure

    def forget(self) -> None:
        """The task or the workers were mended, perhaps: ask all of them again."""
        self._said.clear()
        self._since = None

    def by_all(self, live: Iterable[str]) -> Failure | None:
        """Why no worker can serve the study; None: one may. ``live``: the workers of its pool."""
        names = sorted(live)
        if not names or any(name not in self._said for name in names):
            self._since = None
            return None
        now = self._clock()
        self._since = now if self._since is None else self._since
        found = [self._said[name] for name in names]
        able = bool(self._served - set(self._said))
        # No file, no such attribute: what any other worker would say as well.
        alike = len({(f.kind, f.message) for f in found}) == 1
        plain = alike and found[0].kind is not FailureKind.REFUSED
        patience = _SERVED_PATIENCE if able else 0.0 if plain else _PATIENCE
        if now - self._since < patience:
            return None
        if plain:
            return found[0]
        message = f"no worker can serve this study. {self.in_words(names)}"
        return Failure(kind=FailureKind.REFUSED, message=message)

    def in_words(self, live: Iterable[str]) -> str:
        """What each of these said, those that said the same together; "": nothing."""
        by_reason: dict[str, list[str]] = {}
        for name in sorted(live):
            if name in self._said:
                by_reason.setdefault(self._said[name].message, []).append(name)
        return " ".join(f"{', '.join(names)}: {said}" for said, names in by_reason.items())
