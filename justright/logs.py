"""Logs: one line an event, by the standard library's logging, as text or as JSON.

``JUSTRIGHT_LOG`` says which: a level (``debug``, ``info``, ``warning``, ``error``), ``json``, or
both, as in ``warning,json``.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import IO, Any

LEVELS = ("debug", "info", "warning", "error")
_JSON = "json"
_ABOUT = "about"  # the attribute of a record that holds what its event is about


def event(
    log: logging.Logger, what: str, *, level: int = logging.INFO, **about: str | float | None
) -> None:
    """Log what has happened, and to whom: ``event(log, "trial paused", study="s", trial=3)``.

    ``what`` is one of a few fixed texts, so that it can be searched for; what is None is left out.
    The names are those of the glossary: study, trial, attempt, worker, job, step, reason.
    """
    if not log.isEnabledFor(level):
        return
    known = {name: value for name, value in about.items() if value is not None}
    log.log(level, what, extra={_ABOUT: known}, stacklevel=2)


def read_setting(text: str) -> tuple[int, bool]:
    """The level, and whether lines are JSON.

    Raises:
        ValueError: neither a level nor ``json``.
    """
    level, as_json = logging.INFO, False
    for part in filter(None, (one.strip().lower() for one in text.split(","))):
        if part == _JSON:
            as_json = True
        elif part in LEVELS:
            level = getattr(logging, part.upper())
        else:
            raise ValueError(
                f"found {part!r}, expected a level ({', '.join(LEVELS)}), json, or both: "
                "JUSTRIGHT_LOG=debug,json."
            )
    return level, as_json


def configure(setting: str, stream: IO[str] | None = None) -> None:
    """Write this process's log lines to ``stream`` (None: stderr), as ``Settings.log`` says."""
    level, as_json = read_setting(setting)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if as_json else PlainLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _about(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = getattr(record, _ABOUT, {})
    return found


class PlainLines(logging.Formatter):
    """``2026-01-31 12:00:00,123 INFO trial paused study=digits trial=3 step=4``"""

    def format(self, record: logging.LogRecord) -> str:
        about = "".join(f" {name}={_word(value)}" for name, value in _about(record).items())
        head = f"{self.formatTime(record)} {record.levelname} {_one_line(record.getMessage())}"
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{head}{about}{trace}"


class JsonLines(logging.Formatter):
    """The same as one JSON object: time (UTC), level, event, logger, and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        found: dict[str, Any] = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **_about(record),
        }
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


def _word(value: object) -> str:
    """A value that reads as one word: in quotes where it has spaces."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    plain = text and not any(character.isspace() or character in '"=' for character in text)
    return text if plain else json.dumps(text)


def _one_line(text: str) -> str:
    """What others have said may have lines: a log has one an event."""
    return " ".join(text.splitlines())
