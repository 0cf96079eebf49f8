"""Logs: one line an event, whatever it says, as ``JUSTRIGHT_LOG`` wants it."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from justright.errors import UsageError
from justright.logs import JsonLines, PlainLines, configure, event
from justright.settings import load_settings
from tests.helpers.commands import SECRET

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
LEVELS = ("debug", "info", "warning", "error")
log = logging.getLogger("justright.test_logs")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the logs go; afterwards all is as it was."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    root.handlers = []  # so that none of them is closed
    yield io.StringIO()
    root.handlers = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, seen: list[logging.LogRecord]) -> None:
        super().__init__()
        self._seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        self._seen.append(record)


def formatted(formatter: logging.Formatter, what: str, **about: str | float | None) -> str:
    """One event as a formatter writes it, without any handler."""
    seen: list[logging.LogRecord] = []
    logger = logging.Logger("ours")
    logger.addHandler(Kept(seen))
    event(logger, what, level=logging.INFO, **about)
    return formatter.format(seen[0])


# -- lines ----------------------------------------------------------------------------------------


def test_a_plain_line(stream: io.StringIO) -> None:
    configure("info", stream)
    event(log, "trial paused", study="digits", trial=3, loss=0.123456789, reason=None)
    log.warning("something of %s", "a library")
    first, second = lines(stream)
    assert re.fullmatch(rf"{TIME} INFO trial paused study=digits trial=3 loss=0.123457", first)
    assert re.fullmatch(rf"{TIME} WARNING something of a library", second)


def test_a_line_of_json(stream: io.StringIO) -> None:
    configure("json", stream)
    event(log, "trial paused", level=logging.WARNING, study="digits", trial=3, reason=None)
    [found] = map(json.loads, lines(stream))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert found == {
        "level": "warning", "event": "trial paused", "logger": log.name, "study": "digits",
        "trial": 3,
    }  # fmt: skip


def test_what_has_spaces_or_lines_stays_one_line(stream: io.StringIO) -> None:
    configure("info", stream)
    event(log, "two\nlines", path="a folder", said='line 1\nline 2 "x"', empty="", sign="a=b")
    [line] = lines(stream)
    words = r'path="a folder" said="line 1\nline 2 \"x\"" empty="" sign="a=b"'
    assert line.endswith(f"two lines {words}")


@given(st.text(), st.text())
def test_every_text_is_one_line(what: str, value: str) -> None:
    for formatter in (PlainLines(), JsonLines()):
        line = formatted(formatter, what.replace("%", ""), value=value)
        assert len(line.splitlines()) == 1
    assert json.loads(line)["value"] == value


def test_a_traceback_comes_below_the_line_and_in_json_within(stream: io.StringIO) -> None:
    for setting in ("info", "json"):
        configure(setting, stream)
        try:
            raise ValueError("no more")
        except ValueError:
            log.exception("it failed")
    plain, *trace, as_json = lines(stream)
    assert plain.endswith("ERROR it failed")
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1] == "ValueError: no more"
    assert json.loads(as_json)["traceback"].splitlines()[-1] == "ValueError: no more"


# -- the setting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "least", "as_json"),
    [
        ("debug", "debug", False),
        ("info", "info", False),
        ("warning", "warning", False),
        ("error", "error", False),
        ("json", "info", True),
        ("debug,json", "debug", True),
        (" JSON , Error ", "error", True),
    ],
)
def test_levels_and_forms(
    stream: io.StringIO, setting: str, least: str, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUSTRIGHT_LOG", setting)
    configure(load_settings().log, stream)
    for level in LEVELS:
        event(log, f"at {level}", level=getattr(logging, level.upper()))
    told = [f"at {level}" for level in LEVELS[LEVELS.index(least) :]]
    if as_json:
        assert [json.loads(line)["event"] for line in lines(stream)] == told
    else:
        assert [line.partition("at ")[1:] for line in lines(stream)] == [
            ("at ", each.removeprefix("at ")) for each in told
        ]


def test_without_a_setting_it_is_info(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().log == "info"
    monkeypatch.setenv("JUSTRIGHT_LOG", "")
    assert load_settings().log == "info"


@pytest.mark.parametrize("value", ["loud", "info;json", "debug,xml", "Trace"])
def test_a_wrong_value_is_refused_where_settings_are_read(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("JUSTRIGHT_LOG", value)
    with pytest.raises(UsageError) as caught:
        load_settings()
    wrong = value.lower().split(",")[-1]
    assert str(caught.value) == (
        f"JUSTRIGHT_LOG: found {wrong!r}, expected a level (debug, info, warning, error), json, or "
        "both: JUSTRIGHT_LOG=debug,json."
    )


def test_it_is_told_with_whatever_else_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUSTRIGHT_LOG", "loud")
    monkeypatch.setenv("JUSTRIGHT_LEASE", "0")
    with pytest.raises(UsageError) as caught:
        load_settings()
    lease, other = str(caught.value).splitlines()
    assert lease == "JUSTRIGHT_LEASE: input should be greater than 0"
    assert other.startswith("JUSTRIGHT_LOG: found 'loud'")


def test_a_secret_setting_is_not_logged(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUSTRIGHT_REDIS_URL", "redis://:hunter2@127.0.0.1:1/0")
    for setting in ("info", "json"):
        configure(setting, stream)
        log.info("settings %s", load_settings())
        event(log, "settings", all=repr(load_settings()))
    assert len(lines(stream)) == 4
    assert "hunter2" not in stream.getvalue()
    assert SECRET not in stream.getvalue()
