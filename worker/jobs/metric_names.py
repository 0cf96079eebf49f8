"""What a name says of a number that a program prints: whether it is a loss, and which one.

Names are folded: case, spaces, dashes, slashes, dots, underscores and humps do not count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from justright.rising import words_of

_VALIDATION = frozenset(
    ("val", "valid", "validation", "validate", "validating", "eval", "evaluation", "evaluate",
     "evaluating", "dev", "holdout", "heldout", "vloss")
)  # fmt: skip
_TEST = frozenset(("test", "testing", "tst"))
_TRAINING = frozenset(("train", "training", "trn", "tr", "fit"))
_BEST = frozenset(
    ("best", "lowest", "min", "minimum", "smallest", "prev", "previous", "old", "target", "so",
     "far", "goal", "threshold", "max", "maximum", "improved", "optimal")
)  # fmt: skip
#: Say how a loss was put together; a mean goes before the same of a single batch.
_MEAN = frozenset(("avg", "average", "mean", "epoch", "total", "overall", "final", "full"))
_SINGLE = frozenset(("step", "batch", "iter", "iteration", "running", "current", "cur", "mini"))
#: Say nothing.
_FILLING = frozenset(
    ("the", "a", "an", "and", "with", "of", "on", "in", "at", "for", "after", "set", "data", "is",
     "split", "dataset", "info", "log", "metrics", "metric", "results", "result", "value", "done",
     "ended", "finished", "end", "epochs", "steps", "phase", "stage", "new", "now", "s")
)  # fmt: skip

#: The order in which names are taken, lowest first. What is CLEAR is taken as soon as it is seen.
CLEAR = 0
_VALIDATION_RANK, _TEST_RANK, _BARE_RANK, TRAINING = 0, 20, 40, 60
_BY_BATCH, _OF_SOMETHING = 4, 8  # added where the name says so
_LONGEST_HEADING = 60  # characters
UNCLEAR = 40 + _OF_SOMETHING  # some part of a loss, as "kl loss" may be


@dataclass(frozen=True)
class Named:
    """A name that stands for a loss."""

    key: str  #: Folded; names with the same key are the same.
    rank: int


def section_of(words: str) -> str:
    """Which data a heading such as "Validation:" or "[train]" speaks of; "": none."""
    kinds = {_kind(word) for word in words_of(words)} - {""}
    return kinds.pop() if len(kinds) == 1 else ""


def is_heading(line: str) -> bool:
    """Whether a line is nothing but the name of the data that the next lines are about."""
    if len(line) > _LONGEST_HEADING:
        return False
    words = [re.sub(r"\d+$", "", word) for word in words_of(line)]
    return bool(section_of(line)) and all(_kind(w) or w in _FILLING or w in _MEAN for w in words)


def read_name(name: str, section: str = "") -> Named | None:
    """The loss that a name stands for; None: none, or one that is not the present one.

    ``section``: which data the line is about, where it says so before the name.
    """
    joined = re.split(r"\s+", name.strip())
    words = words_of(name)
    if "loss" not in words or _BEST.intersection(words):
        return None
    at = len(words) - 1 - words[::-1].index("loss")
    if not all(_kind(w) or w in _MEAN or w in _SINGLE for w in words[at + 1 :]):
        return None  # "loss scale", "loss weight"
    kinds = [_kind(word) for word in words if _kind(word)]
    kind = kinds[-1] if kinds else section
    first = next((i for i, word in enumerate(words) if _kind(word)), 0) if kinds else 0
    said = [re.sub(r"(?<=[a-z])\d+$", "", word) for word in words[first:at]]
    other = [w for w in said if not _kind(w) and w not in _MEAN | _SINGLE | _FILLING and w]
    if other and not kind and len(words_of(joined[-1])) > 1:
        return None  # "bbox_loss", "my.loss": a part of it, by its name
    rank = {"validation": _VALIDATION_RANK, "test": _TEST_RANK, "": _BARE_RANK}.get(kind, TRAINING)
    rank += _BY_BATCH * bool(_SINGLE.intersection(words)) + _OF_SOMETHING * bool(other)
    if kind == "" and not other and _MEAN.intersection(words):
        rank -= 1
    own = words[first:] if kinds and first < at else [*other, *words[at:]]
    if not kinds:
        own = [w for w in words[:at] if w in other or w in _MEAN | _SINGLE] + words[at:]
    told = [section] if section and not kinds else []
    key = " ".join([*told, *(w for w in own if w not in _FILLING)])
    return Named(key, rank)


def speaks_of_another(before: str, metric: str) -> bool:
    """Whether the word before a metric's name makes another one of it: "val loss", "best loss"."""
    own, words = set(words_of(metric)), words_of(before)
    if not words:
        return False
    if _BEST.intersection(words) - own:
        return True
    return bool(_kind(words[-1])) and not any(_kind(word) for word in own)


def _kind(word: str) -> str:
    if word in _VALIDATION:
        return "validation"
    if word in _TEST:
        return "test"
    return "training" if word in _TRAINING else ""
