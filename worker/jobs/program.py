"""Runs any program with a learning rate on its command line and reads its loss from its output."""

from __future__ import annotations

import json
import math
import os
import queue
import re
import signal
import subprocess
import threading
from collections import deque
from dataclasses import dataclass

from justright.errors import TaskError
from justright.messages import OutcomeKind, TrialWork
from justright.processes import die_with_parent, how_it_ended
from justright.settings import SECRETS
from worker.jobs.attempt import Attempt

DEFAULT_METRICS = ("val_loss", "validation_loss", "valid_loss", "test_loss", "loss")
_NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf(?:inity)?))"
_OUTPUT_POLL = 0.5  # seconds between looks at the decisions while the program says nothing
_TAIL_LINES = 30  # lines of output kept to explain a failure
_LONGEST = 65536  # characters of a line; what is longer counts as several
_AHEAD = 1000  # lines that a program may be ahead of us; then it waits


@dataclass
class MetricReader:
    """Finds the metric in a line: ``name: 0.3``, ``name=0.3``, ``name 0.3`` or a JSON object.

    Without a name, the first of DEFAULT_METRICS that is ever printed is the one, so that a line
    with both a validation and a training loss is read for the former.
    """

    name: str | None

    def read(self, line: str) -> float | None:
        """The metric's value in this line, or None where it has none."""
        for name in (self.name,) if self.name else DEFAULT_METRICS:
            value = _from_json(line, name)
            if value is None:
                found = re.search(_pattern(name), line, re.I)
                value = float(found.group(1)) if found else None
            if value is not None:
                self.name = name
                return value
        return None


def _pattern(name: str) -> str:
    """The name as a word, a separator, and a number that no word goes on from."""
    separator = r"(?:[\"']?\s*[:=]\s*|\s+)"
    return rf"(?<![\w.]){re.escape(name)}{separator}{_NUMBER}(?!\.?\w)"


def _from_json(line: str, name: str) -> float | None:
    if not line.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(line).get(name)
    except (ValueError, AttributeError):
        return None
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    try:
        return float(found)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf


def fill_in(command: tuple[str, ...], work: TrialWork, epochs: int | None) -> list[str]:
    """The argument vector of one trial. Braces that are not ours stay as they are."""
    values = {
        "lr": f"{work.lr:.6g}",
        "seed": str(work.seed),
        "trial": str(work.number),
        "epochs": str(epochs or ""),
    }
    pattern = re.compile(r"\{(lr|seed|trial|epochs)\}")
    return [pattern.sub(lambda match: values[match.group(1)], part) for part in command]


def run_command(
    command: tuple[str, ...], attempt: Attempt, *, epochs: int | None, metric: str | None
) -> None:
    """Run the program once, and say how it ended. Each line with the metric is one report.

    Raises:
        TaskError: the program is not there, failed, or never printed the metric.
    """
    reader = MetricReader(metric)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    step = 0
    ended: tuple[OutcomeKind, str] | None = None
    process = _start(fill_in(command, attempt.work, epochs))
    lines = _Lines(process)
    while ended is None:
        line = lines.next(_OUTPUT_POLL)
        told = attempt.told
        if told is not None:
            ended = (_ENDS[told.action], told.reason)
            break
        if line is None:
            break
        if line:
            attempt.alive()
        tail.append(line)
        value = reader.read(line)
        if value is None:
            continue
        step += 1
        attempt.report(step, value)
        if not math.isfinite(value):
            ended = (OutcomeKind.DIVERGED, f"the program printed {reader.name} {value}")
    if ended is None:
        process.wait()
    _end(process)
    if ended is None and process.returncode and attempt.told is not None:
        ended = (OutcomeKind.FAILED, attempt.told.reason)  # it got our SIGTERM before we did
    if ended is None:
        _check_end(process.returncode, step, metric, "".join(tail))
        ended = (OutcomeKind.COMPLETE, "")
    kind, reason = ended
    attempt.end(kind, step=step, reason=reason)


# A program cannot go on from where it is: paused or given back, it begins anew another time.
_ENDS = {
    "stop": OutcomeKind.STOPPED,
    "pause": OutcomeKind.PAUSED,
    "leave": OutcomeKind.FAILED,
}


class _Lines:
    """What a program prints, line by line; a program that says nothing holds nobody up."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._queue: queue.Queue[str | None] = queue.Queue(_AHEAD)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(_LONGEST):
            self._queue.put(line)
        self._queue.put(None)

    def next(self, seconds: float) -> str | None:
        """The next line, "" if there is none within so many seconds, None after the last."""
        try:
            return self._queue.get(timeout=seconds)
        except queue.Empty:
            # Its own end counts, though something that it has started may still hold the pipe.
            return "" if self._process.poll() is None else None


def _end(process: subprocess.Popen[str]) -> None:
    """End a program, if it has not, and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nothing is left of it
    process.wait()


def _start(arguments: list[str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(),
            process_group=0,  # so that all it has started can be ended with it
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )
    except OSError as error:
        raise TaskError(f"cannot run {arguments[0]!r}: {error.strerror}.") from None


def _environment() -> dict[str, str]:
    """Ours without what opens Redis or signs jobs: a program needs none of it."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS}


def _check_end(code: int, step: int, metric: str | None, tail: str) -> None:
    if code != 0:
        raise TaskError(f"the program ended with {how_it_ended(code)}. Its last output:\n{tail}")
    if step == 0:
        wanted = metric or " or ".join(DEFAULT_METRICS)
        raise TaskError(
            f"the program never printed {wanted}; expected lines such as 'val_loss: 0.3', or the "
            f"name of yours with --metric. Its last output:\n{tail}"
        )
