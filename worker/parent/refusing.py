"""How a worker that cannot run what it is given keeps out of the way of those that can."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from justright.logs import event

log = logging.getLogger(__name__)

_AT_FIRST = 1.0  # seconds for which a worker takes no job after a refusal; twice as many each time
_IN_A_ROW = 3  # refusals after which it only tries now and then
_NOW_AND_THEN = 60.0  # seconds
_LOOK = 0.2  # seconds between looks whether it is to leave


class Refusing:
    """Counts refusals in a row, and rests after each: the job is for another worker."""

    def __init__(self, worker: str, tell: Callable[[str], None]) -> None:
        """``tell`` is told the latest reason, and "" once a job was run."""
        self._worker, self._tell = worker, tell
        self._in_a_row = 0
        self._reason = ""

    def refused(self, job: str, reason: str) -> None:
        """It would not run a job."""
        self._in_a_row += 1
        self._reason = reason
        self._tell(reason)
        event(
            log, "job refused", level=logging.WARNING, job=job, worker=self._worker, reason=reason
        )
        if self._in_a_row == _IN_A_ROW:
            log.error(
                "%s has refused %d jobs in a row and takes none for now, so that others get them; "
                "it tries again once a minute. %s",
                self._worker, _IN_A_ROW, reason,
            )  # fmt: skip

    def accepted(self) -> None:
        """It ran one."""
        if self._in_a_row:
            self._tell("")
        self._in_a_row, self._reason = 0, ""

    @property
    def pause(self) -> float:
        """Seconds for which it takes no job now."""
        if not self._in_a_row:
            return 0.0
        if self._in_a_row >= _IN_A_ROW:
            return _NOW_AND_THEN
        return _AT_FIRST * 2.0 ** (self._in_a_row - 1)

    def rest(self, leaving: Callable[[], bool]) -> None:
        """Take no job for that long, or until the worker is to leave."""
        until = time.monotonic() + self.pause
        while time.monotonic() < until and not leaving():
            time.sleep(_LOOK)
