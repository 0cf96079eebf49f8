"""All studies of the ledger: those at work in memory, those that have ended by name only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping

from orchestrator.studies.study_run import StudyRun


class KnownStudies(MutableMapping[str, StudyRun]):
    """Studies by name. One that has ended is taken up from the ledger when somebody asks for it.

    Iterating gives those in memory alone: what has ended wants nothing.
    """

    def __init__(self, take_up: Callable[[str], StudyRun | None]) -> None:
        """``take_up`` reads a study from the ledger; None: it cannot be read."""
        self._take_up = take_up
        self._loaded: dict[str, StudyRun] = {}
        self._ended: set[str] = set()

    def __getitem__(self, name: str) -> StudyRun:
        if name not in self._loaded and name in self._ended:
            run = self._take_up(name)
            self._ended.discard(name)
            if run is not None:
                self._loaded[name] = run
        return self._loaded[name]

    def __setitem__(self, name: str, run: StudyRun) -> None:
        self._ended.discard(name)
        self._loaded[name] = run

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)

    def __contains__(self, name: object) -> bool:
        return name in self._loaded or name in self._ended

    def in_memory(self, name: str) -> StudyRun | None:
        """The study unless it has ended: news that come late are no reason to read the ledger."""
        return self._loaded.get(name)

    @property
    def names(self) -> list[str]:
        """Of all, those that have ended included."""
        return sorted({*self._loaded, *self._ended})

    def has_ended(self, name: str) -> None:
        """Keep no more than its name."""
        self._loaded.pop(name, None)
        self._ended.add(name)
