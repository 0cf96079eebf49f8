"""Finds names and their numbers in a line of output, however it was printed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from justright.rising import words_of
from worker.jobs.metric_names import is_heading, section_of, speaks_of_another

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+(?:_\d+)*|0,\d+(?!,))"
#: With an exponent, or none; and what is no number, as C prints it, too.
NUMBER = (
    rf"[-+]?(?:(?:{_DIGITS}\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan(?:\(\w+\))?|inf(?:inity)?)"
    r"(?!\.?\w|,\d)"
)
#: What may stand around it: quotes, one bracket, ``tensor(`` or ``np.float64(``.
_AROUND = r"(?:[\"'$]|(?:[A-Za-z_][\w.]*)\(\[*|<[\w.]+:[^<>]{0,60}?numpy=|\[+)?"
_SEPARATOR = r"(?:\s*(?::=|[:=]+>?|->|→|≈|~|\||\bis\b|\bwas\b)\s*|\s+[-–—]\s+|\s+)"
_VALUE = re.compile(rf"(?<![\w.,])({NUMBER})", re.I)
_BEHIND_NAME = re.compile(rf"[\"']?(?:{_SEPARATOR}){_AROUND}$", re.I)
#: "loss after epoch 3: 0.5", "loss[3] = 0.5", "loss (epoch 3/10): 0.5": the number is the second.
_WHEN = re.compile(
    r"(?<=loss)(?:\s{0,2}[\[(]?(?:(?:after|at|in|for|of|@)\s{1,2})?"
    r"(?:epoch|step|iter(?:ation)?|batch|round|fold)\s{0,2}[:=#]?\s{0,2}\d+(?:\s?(?:/|of)\s?\d+)?[\])]?"
    r"|\s?@\s?\d+|\[\d+\])(?=\s*[:=]|\s+\S)",
    re.I,
)
#: "loss (val): 0.5", "loss[train]: 0.5"
_IN_BRACKETS = re.compile(r"\s*[\[(]([\w /.-]{1,20})[\])]$")
_LONGEST_NAME = 100  # characters before a number in which its name may stand
_WORDS = re.compile(r"[^\W\d]\w*(?:(?:[/@-]|\.[ ]?|\s/\s|[ \t]+)(?=\w)\w+)*$")
_HEADING = re.compile(r"([^\W\d_][\w ]{0,24}?)\s*[\"']?(?:[:\]|>)]|[-–—](?=\s))")
_VERB = re.compile(r"\b(?:is|was)\b", re.I)
_SEVERAL = re.compile(r"\s*[,;]?\s+[-+.\d]")


@dataclass(frozen=True)
class Pair:
    """A name and its number, with the data that the line speaks of before it."""

    name: str
    value: float
    section: str = ""


def plain(line: str) -> str:
    """The line without colours."""
    return _ANSI.sub("", line)


def number(text: str) -> float:
    """The number that NUMBER has found."""
    folded = text.lower().partition("(")[0].replace("_", "")
    sign = folded.lstrip("+-")
    if sign.startswith("0,"):
        folded = folded.replace(",", ".")  # a decimal comma
    return float(folded.replace(",", ""))


def pairs(line: str, section: str = "") -> Iterator[Pair]:
    """All names with numbers in a line, from left to right.

    ``section``: what the lines before have said that they are about.
    """
    found = _pairs_of_json(line)
    if found is not None:
        yield from found
        return
    line = _WHEN.sub("", line)
    begin, last_loss = 0, False
    for match in _VALUE.finditer(line):
        between, begin = line[begin : match.start(1)], match.end(1)
        left = between[-_LONGEST_NAME:]
        behind = _BEHIND_NAME.search(left)
        if behind is None:
            section = _heading(left) or section
            last_loss = False
            continue
        several = "[" in behind.group() and _SEVERAL.match(line, match.end(1))
        left = left[: behind.start()]
        bracketed = _IN_BRACKETS.search(left)
        if bracketed is not None:
            left = f"{left[: bracketed.start()]} {bracketed.group(1)}"
        words = _WORDS.search(left)
        if words is None:
            continue
        section = _heading(left[: words.start()]) or section
        name, before = words.group(), left[: words.start()]
        if is_heading(name):
            section = section_of(name)
            if last_loss or "loss" in before.lower():
                name += " loss"  # "loss: train 0.5, val 0.6"
        last_loss = "loss" in name.lower()
        value = number(match.group(1))
        if not several and not _is_told(behind.group(), value):
            yield Pair(name, value, section)


def pairs_of(metric: str, line: str, section: str = "") -> Iterator[Pair]:
    """Those whose name is the metric that was asked for, and no other one of it."""
    wanted = words_of(metric)
    found = _pairs_of_json(line)
    if found is not None:
        for pair in found:
            words = words_of(pair.name)
            if words == wanted or pair.name.lower() == metric.lower():
                yield pair
        return
    line = _WHEN.sub("", line)
    for match in _pattern(metric).finditer(line):
        before = line[: match.start()][-_LONGEST_NAME:]
        adjective = _ADJECTIVE.search(before)
        told = adjective.group() if adjective else ""
        bracketed = match["bracketed"] or ""
        value = number(match["value"])
        if _is_told(line[match.end("name") : match.start("value")], value):
            continue
        if not speaks_of_another(told, metric) and not speaks_of_another(bracketed, metric):
            yield Pair(match["name"], value, _heading(before) or section)


_ADJECTIVE = re.compile(r"[^\W\d_]+(?=[ \t]+$)")


@lru_cache(maxsize=8)
def _pattern(metric: str) -> re.Pattern[str]:
    """The name, folded, as words of their own; what separates it from its number; the number."""
    words = re.findall(r"[^\W\d_]+|\d+", " ".join(words_of(metric)))
    name = r"[\W_]{0,3}?".join(re.escape(word) for word in words) if words else re.escape(metric)
    return re.compile(
        rf"(?<![^\W_])(?<![\w][._/@-])(?<!\w_)(?P<name>{name})"
        rf"(?:\s*[\[(](?P<bracketed>[\w /.-]{{1,20}})[\])])?"
        rf"[\"']?{_SEPARATOR}{_AROUND}(?P<value>{NUMBER})",
        re.I,
    )


def _is_told(between: str, value: float) -> bool:
    """Whether it is a sentence, "loss is nan, batch skipped", after which the training may go on:
    how it ends tells."""
    return not math.isfinite(value) and _VERB.search(between) is not None


def _heading(text: str) -> str:
    """The data that the last heading in a text names; "": none."""
    found = [section_of(match.group(1)) for match in _HEADING.finditer(text)]
    return next((section for section in reversed(found) if section), "")


def _pairs_of_json(line: str) -> list[Pair] | None:
    """Those of a line that is a JSON object, nested ones by their whole path."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return list(_flatten(content, "")) if isinstance(content, dict) else None


def _flatten(content: dict[str, object], path: str) -> Iterator[Pair]:
    for name, value in content.items():
        whole = f"{path}/{name}" if path else name
        if isinstance(value, dict):
            yield from _flatten(value, whole)
            continue
        if isinstance(value, str) and re.fullmatch(NUMBER, value.strip(), re.I):
            yield Pair(whole, number(value.strip()))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                yield Pair(whole, float(value))
            except OverflowError:  # a whole number of more than 308 digits
                yield Pair(whole, math.inf)
