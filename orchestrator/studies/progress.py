"""How much of the expected work is done: for a bar that neither stands still nor ends half way."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.studies.study_record import StudyRecord

_ALMOST = 0.99  # before its end no study is done


class Progress:
    """The share of one study, which never falls."""

    def __init__(self) -> None:
        self._shown = 0.0

    def share(self, record: StudyRecord, expected: Callable[[], float]) -> float:
        """From 0 to 1. 1: it has ended. ``expected``: what the search thinks of one under way."""
        if not record.active:
            return 1.0
        self._shown = max(self._shown, min(_ALMOST, expected()))
        return self._shown
