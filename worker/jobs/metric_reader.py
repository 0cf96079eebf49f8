"""Reads a program's loss from its output: which number it is, and when that is clear.

A validation loss goes before a training loss, whichever is printed first. So what is called by
another name is kept until the program ends, and is reported only where no validation loss came.
What the first program of a study has printed is known to the next ones (``known``).
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from justright.errors import TaskError
from justright.rising import words_of
from worker.jobs.metric_names import CLEAR, TRAINING, UNCLEAR, is_heading, read_name, section_of
from worker.jobs.printed_numbers import Pair, pairs, pairs_of, plain

_SHOWN = 5  # lines or names that an error shows
_CELLS = re.compile(r"\s*[|│┃]\s*|\s*,\s*|\t\s*")
_BAR = re.compile(r"\d+%\||\dit/s|s/it\b|[█━▏▎▍▌▋▊▉]|\[=*>?\.*\]|/step\b")


@dataclass
class _Series:
    """The numbers that were printed under one name."""

    rank: int
    shown: str  #: The name as it was printed.
    values: list[float] = field(default_factory=list)


class MetricReader:
    """Reads the metric of one program, line by line."""

    def __init__(self, metric: str | None = None, known: str = "") -> None:
        """``metric``: the name that its user gave; ``known``: the one that others of the same
        study were read by.
        """
        self._metric = metric
        self._known = known
        self._series: dict[str, _Series] = {}
        self._chosen = ""
        self._section = ""
        self._columns = _Columns()
        self._unread: deque[str] = deque(maxlen=_SHOWN)
        self._others: dict[str, None] = {}
        self.kept: list[float] = []  #: What was printed before a loss that ended the training.
        self.finite = 0  #: Numbers that may be the metric, so far, and are finite.

    @property
    def key(self) -> str:
        """By which the next programs of the study shall read; "": nothing was chosen."""
        return self._chosen

    @property
    def name(self) -> str:
        """The name that was read, as the program prints it; "": none so far."""
        found = self._series.get(self._chosen)
        return found.shown if found else ""

    @property
    def trained_on(self) -> bool:
        """Whether what was read is said to be a loss on training data."""
        found = self._series.get(self._chosen)
        return not self._metric and found is not None and found.rank >= TRAINING

    def read(self, line: str) -> float | None:
        """The number to report now; None: this line has none, or it is not clear yet that it
        counts."""
        line = plain(line)
        if is_heading(line):
            self._section = section_of(line)
            return None
        found = None
        for key, rank, pair in self._candidates(line):
            told = "" if section_of(pair.name) else pair.section
            series = self._series.setdefault(key, _Series(rank, f"{told} {pair.name}".strip()))
            if not math.isfinite(pair.value) and self._is_lost(series):
                self.kept = [] if self._chosen else series.values
                self._chosen = key
                return pair.value
            if not self._chosen and (self._known == key or (not self._known and rank == CLEAR)):
                self._chosen = key
            series.values.append(pair.value)
            self.finite += math.isfinite(pair.value)
            if key == self._chosen and found is None:
                found = pair.value
        return found

    def _candidates(self, line: str) -> Iterator[tuple[str, int, Pair]]:
        """The numbers of a line that may be the metric: by what name, how good it is."""
        rows = self._columns.read(line)
        if self._metric is None:
            named = rows or list(pairs(line, self._section))
            candidates = self._losses(named)
        else:
            own = words_of(self._metric)
            named = [pair for pair in rows if words_of(pair.name) == own]
            named = named or list(pairs_of(self._metric, line, self._section))
            candidates = self._asked_for(named)
        yield from candidates
        if not named or self._metric is None:
            self._remember(line, named)

    def _losses(self, named: list[Pair]) -> Iterator[tuple[str, int, Pair]]:
        seen: set[str] = set()
        for pair in named:
            name = read_name(pair.name, pair.section)
            if name is not None and name.key not in seen:
                seen.add(name.key)
                yield name.key, name.rank, pair

    def _asked_for(self, named: list[Pair]) -> Iterator[tuple[str, int, Pair]]:
        """Of one name: for training and validation, each under a heading of its own."""
        metric = self._metric or ""
        seen: set[str] = set()
        for pair in named:
            section = "" if section_of(metric) else pair.section
            if section not in seen:
                seen.add(section)
                yield f"{section} {metric}".strip(), _section_rank(section), pair

    def _remember(self, line: str, named: list[Pair]) -> None:
        """For an error: what was printed instead."""
        if len(self._others) < _SHOWN:
            self._others.update({pair.name: None for pair in named or pairs(line)})
        if not named and _hints_at(self._metric or "loss", line):
            self._unread.append(line.strip()[:200])

    def _is_lost(self, series: _Series) -> bool:
        """Whether a number that is not finite is the end of this training.

        Of a loss on training data a program may print nothing before it has trained at all.
        """
        if series.rank == TRAINING:
            return bool(series.values)
        return series.rank < UNCLEAR

    def rest(self) -> list[float]:
        """The program has ended: what is to be reported now, where nothing was so far.

        Raises:
            TaskError: nothing can be read, or it is not clear what.
        """
        if self._chosen:
            return []
        if self._known:
            printed = ", ".join(repr(s.shown) for s in self._series.values()) or "no loss at all"
            raise TaskError(
                f"the program printed {printed}, while other trainings of this study were read by "
                f"{self._known!r}: they cannot be compared. Print the same for each rate, or say "
                "what to read with --metric."
            )
        if not self._series:
            raise TaskError(self._nothing_read())
        best = min(self._series.values(), key=lambda series: series.rank)
        alike = [series for series in self._series.values() if series.rank == best.rank]
        if best.rank >= UNCLEAR and len(alike) > 1 and self._metric is None:
            names = ", ".join(repr(series.shown) for series in alike)
            raise TaskError(
                f"the program prints several losses, {names}, and none of them is called a "
                "validation loss. Say which one counts with --metric."
            )
        self._chosen = next(key for key, series in self._series.items() if series is best)
        return best.values

    def _nothing_read(self) -> str:
        wanted = self._metric or "val_loss or loss, or a number of a like name"
        parts = [
            f"the program never printed {wanted}; expected lines such as "
            f"'{self._metric or 'val_loss'}: 0.3', or the name of yours with --metric."
        ]
        names = [name for name in self._others if name][:_SHOWN]
        if names:
            parts.append("It printed numbers called " + ", ".join(map(repr, names)) + ".")
        if self._unread:
            lines = "\n".join(self._unread)
            parts.append(f"In these lines no number could be read for it:\n{lines}")
        return " ".join(parts)


def _section_rank(section: str) -> int:
    name = read_name("loss", section) if section else None
    return name.rank if name else CLEAR


def _hints_at(metric: str, line: str) -> bool:
    words = words_of(metric)
    return bool(words) and words[-1] in line.lower() and any(sign.isdigit() for sign in line)


def is_bar(line: str) -> bool:
    """Whether a line is a progress bar, which is drawn again and again in one place."""
    return _BAR.search(line) is not None


class _Columns:
    """A table: a line of names, then lines of numbers below them."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def read(self, line: str) -> list[Pair]:
        """The row as names with numbers; empty: it is none of a table that is known."""
        cells = _split(line)
        if len(cells) < 2:
            return []
        if not any(sign.isalnum() for sign in line):
            return []  # a line below the names
        if not any(sign.isdigit() for sign in line):
            if any("loss" in cell.lower() for cell in cells) or len(cells) > 2:
                self._names = cells
            return []
        if len(cells) != len(self._names):
            return []
        found: list[Pair] = []
        for name, cell in zip(self._names, cells, strict=True):
            text = plain(cell).strip()
            if _CELL.fullmatch(text):
                found += [Pair(name, float(text.replace("_", "")))]
        return found if len(found) > 1 else []


_CELL = re.compile(r"[-+]?(?:\d[\d_]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+|nan|inf)", re.I)


def _split(line: str) -> list[str]:
    text = line.strip().strip("|│┃").strip()
    if _CELLS.search(text):
        return _CELLS.split(text)
    wide = re.split(r"\s{2,}", text)
    return wide if len(wide) > 1 else text.split()
