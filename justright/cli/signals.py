"""What asks a ``tune`` to end, once: Ctrl-C, a scheduler, a terminal that is closed."""

from __future__ import annotations

import signal
from types import FrameType

from justright.errors import EXIT_SIGNAL


class Terminated(SystemExit):
    """A signal asked us to end, as a scheduler does, or a terminal that is closed."""

    def __init__(self, number: int) -> None:
        super().__init__(EXIT_SIGNAL + number)


def raise_on_signals() -> None:
    """From here on SIGTERM and SIGHUP are exceptions, as SIGINT is: everything ends in order."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, _terminate)


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise Terminated(number)


def ignore_signals() -> None:
    """For whoever ends already: once is enough, and it does not take long."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
