"""Runs any program with a learning rate on its command line and reads its loss from its output."""

from __future__ import annotations

import io
import math
import os
import queue
import re
import signal
import subprocess
import threading
from collections import deque
from typing import BinaryIO, cast

from justright.errors import TaskError
from justright.messages import OutcomeKind, TrialWork
from justright.processes import die_with_parent, how_it_ended
from justright.rising import rises, rising_warning
from justright.settings import SECRETS
from worker.jobs.attempt import Attempt
from worker.jobs.metric_reader import MetricReader, is_bar
from worker.jobs.non_finite import ended_because, says_loss_is_lost

_OUTPUT_POLL = 0.5  # seconds between looks at the decisions while the program says nothing
_TAIL_LINES = 30  # lines of output kept to explain a failure
_LONGEST = 65536  # characters of a line; what is longer counts as several
_LONGEST_REASON = 300  # characters of a line that is given as a reason
_AHEAD = 1000  # lines that a program may be ahead of us; then it waits


def fill_in(
    command: tuple[str, ...], work: TrialWork, epochs: int | None, steps: int | None = None
) -> list[str]:
    """The argument vector of one trial. Braces that are not ours stay as they are."""
    values = {
        "lr": f"{work.lr:.6g}",
        "seed": str(work.seed),
        "trial": str(work.number),
        "epochs": str(epochs or ""),
        "steps": str(steps or ""),
    }
    pattern = re.compile(r"\{(lr|seed|trial|epochs|steps)\}")
    return [pattern.sub(lambda match: values[match.group(1)], part) for part in command]


def run_command(
    command: tuple[str, ...],
    attempt: Attempt,
    *,
    epochs: int | None,
    steps: int | None = None,
    metric: str | None,
    known: str = "",
) -> None:
    """Run the program once, and say how it ended. Each line with the metric is one report.

    ``metric``: its name, where the user gave one; ``known``: the name by which other trainings of
    the study were read.

    Raises:
        TaskError: the program is not there, failed, or never printed the metric.
    """
    if metric and rises(metric):
        attempt.notice(rising_warning(metric, "the program prints"))
    process = _start(fill_in(command, attempt.work, epochs, steps))
    training = _Training(attempt, MetricReader(metric, known))
    kind, reason = training.follow(process)
    attempt.end(kind, step=training.step, reason=reason, metric=training.read_by)


class _Training:
    """What one run of the program has printed so far, and what was reported of it."""

    def __init__(self, attempt: Attempt, reader: MetricReader) -> None:
        self._attempt, self._reader = attempt, reader
        self._screen = _Screen()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._gave_up = ""  # the line that says that the loss is lost, with no loss after it
        self.step = 0
        self.read_by = ""  #: The name that was read, once it is certain.

    def follow(self, process: subprocess.Popen[bytes]) -> tuple[OutcomeKind, str]:
        """Read its output until it ends, or is ended; returns how."""
        ended = self._read_all(process)
        if ended is None:
            process.wait()
        _end(process)
        told = self._attempt.told
        if ended is None and process.returncode and told is not None:
            ended = OutcomeKind.FAILED, told.reason  # it got our SIGTERM before we did
        return ended or self._own_end(process.returncode)

    def _read_all(self, process: subprocess.Popen[bytes]) -> tuple[OutcomeKind, str] | None:
        lines = _Lines(process)
        while True:
            line = lines.next(_OUTPUT_POLL)
            told = self._attempt.told
            if told is not None:
                return _ENDS[told.action], told.reason
            if line:
                self._attempt.alive()
            for text in self._screen.rest() if line is None else self._screen.show(line):
                value = self._read(text)
                if value is not None and not math.isfinite(value):
                    return OutcomeKind.DIVERGED, f"the program printed {self._reader.name} {value}"
            if line is None:
                return None

    def _read(self, text: str) -> float | None:
        self._tail.append(text)
        before = self._reader.finite
        value = self._reader.read(text)
        if says_loss_is_lost(text):
            self._gave_up = text.strip()
        elif self._reader.finite > before:
            self._gave_up = ""
        if value is not None:
            for one in (*self._reader.kept, value):
                self._report(one)
        return value

    def _report(self, value: float) -> None:
        self.step += 1
        self._attempt.report(self.step, value)

    def _own_end(self, code: int) -> tuple[OutcomeKind, str]:
        """How it ended of its own accord."""
        because = self._gave_up if code == 0 else ended_because(self._tail) if code > 0 else ""
        if because:
            return OutcomeKind.DIVERGED, f"the program ended itself: {because[:_LONGEST_REASON]}"
        tail = "\n".join(self._tail)
        if code != 0:
            raise TaskError(
                f"the program ended with {how_it_ended(code)}. Its last output:\n{tail}"
            )
        try:
            rest = self._reader.rest()
        except TaskError as error:
            raise TaskError(f"{error} Its last output:\n{tail}") from None
        for value in rest:
            self._report(value)
            if not math.isfinite(value):
                return OutcomeKind.DIVERGED, f"the program printed {self._reader.name} {value}"
        self.read_by = self._reader.key
        self._speak()
        return OutcomeKind.COMPLETE, ""

    def _speak(self) -> None:
        """What its user should hear of the name that was read."""
        if self._reader.trained_on:
            self._attempt.notice(
                f"the program prints no validation loss: {self._reader.name!r} is read instead, "
                "which is lowest where a training overfits. Print a validation loss, or name "
                "another number with --metric."
            )


# A program cannot go on from where it is: paused or given back, it begins anew another time.
_ENDS = {
    "stop": OutcomeKind.STOPPED,
    "pause": OutcomeKind.PAUSED,
    "leave": OutcomeKind.FAILED,
}


class _Screen:
    """The lines that count, as they stay on a terminal: a progress bar is drawn again and again in
    one line, and only what it shows last counts. So the number of lines does not depend on how
    often it was drawn.
    """

    def __init__(self) -> None:
        self._bar = ""

    def show(self, segment: str) -> list[str]:
        """What is printed up to the next end of a line, or up to its beginning."""
        text = segment.rstrip("\r\n").rpartition("\b")[2]
        drawn_over = segment.endswith("\r")
        if not text.strip():
            return self.rest() if text or not drawn_over else []
        if not is_bar(text):
            return [*self.rest(), text]
        self._bar = text
        return [] if drawn_over else self.rest()

    def rest(self) -> list[str]:
        """The bar that stands there, since it will not be drawn over any more."""
        found, self._bar = self._bar, ""
        return [found] if found else []


class _Lines:
    """What a program prints, line by line; a program that says nothing holds nobody up."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._queue: queue.Queue[str | None] = queue.Queue(_AHEAD)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        output = io.TextIOWrapper(
            cast(BinaryIO, self._process.stdout), encoding="utf-8", errors="replace", newline=""
        )
        while line := output.readline(_LONGEST):
            self._queue.put(line)
        self._queue.put(None)

    def next(self, seconds: float) -> str | None:
        """The next line, "" if there is none within so many seconds, None after the last."""
        try:
            return self._queue.get(timeout=seconds)
        except queue.Empty:
            # Its own end counts, though something that it has started may still hold the pipe.
            return "" if self._process.poll() is None else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program, if it has not, and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nothing is left of it
    process.wait()


def _start(arguments: list[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            process_group=0,  # so that all it has started can be ended with it
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )
    except OSError as error:
        raise TaskError(f"cannot run {arguments[0]!r}: {error.strerror}.") from None


def _environment() -> dict[str, str]:
    """Ours without what opens Redis or signs jobs: a program needs none of it.

    Python holds back what it prints into a pipe, until there are kilobytes of it: it shall not.
    """
    own = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return {"PYTHONUNBUFFERED": "1", **own}
