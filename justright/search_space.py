"""What a study searches beside the learning rate, as a user writes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, StrictFloat, StrictInt, ValidationError, model_validator

ScheduleName = Literal["constant", "linear", "cosine", "step", "onecycle"]
SearchedName = Literal["batch_size", "momentum", "schedule", "warmup", "weight_decay"]

SCHEDULES: tuple[str, ...] = get_args(ScheduleName)
NAMES: tuple[str, ...] = get_args(SearchedName)
_DECADES = 1.5  # a range that spans more is searched on a log scale
_FEWEST, _MOST = 2, 32  # choices: a study of dozens of trials cannot tell more apart

Choice = StrictInt | StrictFloat | str  # true is no number


class Searched(BaseModel):
    """The values that one setting may have: a range, or choices."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: float | None = None
    high: float | None = None
    choices: tuple[Choice, ...] = ()

    @model_validator(mode="after")
    def _one_of_two(self) -> Searched:
        if self.choices:
            if self.low is not None or self.high is not None:
                raise ValueError("found a range and choices, expected one of them")
            if not _FEWEST <= len(set(self.choices)) == len(self.choices) <= _MOST:
                found = ", ".join(str(choice) for choice in self.choices)
                raise ValueError(f"found {found}, expected {_FEWEST} to {_MOST} values that differ")
        elif self.low is None or self.high is None or self.low >= self.high:
            raise ValueError(f"found {self.low}:{self.high}, expected LOW:HIGH with LOW < HIGH")
        return self

    @property
    def log(self) -> bool:
        """Whether a range is searched on a log scale."""
        if self.low is None or self.high is None or self.low <= 0:
            return False
        return math.log10(self.high / self.low) > _DECADES


#: What ``--search NAME`` alone means.
DEFAULTS: dict[str, Searched] = {
    "batch_size": Searched(choices=(16, 32, 64, 128, 256)),
    "momentum": Searched(low=0.5, high=0.99),
    "schedule": Searched(choices=SCHEDULES),
    "warmup": Searched(low=0.0, high=0.3),
    "weight_decay": Searched(low=1e-6, high=0.1),
}

_FITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "batch_size": (lambda v: isinstance(v, int) and v >= 1, "positive whole numbers"),
    "momentum": (lambda v: 0 <= v < 1, "numbers of at least 0 and below 1"),
    "schedule": (lambda v: v in SCHEDULES, f"some of {', '.join(SCHEDULES)}"),
    "warmup": (lambda v: 0 <= v < 1, "shares of the training, at least 0 and below 1"),
    "weight_decay": (lambda v: v >= 0, "numbers of at least 0"),
}


def read_searched(name: str, value: Any) -> Searched:
    """What a setting may be, from ``LOW:HIGH``, ``A,B,C``, a list of choices, or "" for the usual.

    A range of batch sizes means its doublings.

    Raises:
        ValueError: there is no such setting, or its values are not of its kind.
    """
    if name not in NAMES:
        raise ValueError(f"found {name!r}, expected one of {', '.join(NAMES)}")
    found = _read(name, value)
    if name == "batch_size" and not found.choices:
        found = _doublings(found)
    values = found.choices or (found.low, found.high)
    fits, expected = _FITS[name]
    numbers = name == "schedule" or all(_is_number(v) for v in values)
    if not numbers or not all(fits(v) for v in values) or (name == "schedule" and found.low):
        raise ValueError(f"{name}: found {value!r}, expected {expected}")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _read(name: str, value: Any) -> Searched:
    if isinstance(value, Searched):
        return value
    if value in ("", True):
        return DEFAULTS[name]
    if isinstance(value, dict):
        return _made(name, value)
    if isinstance(value, (list, tuple)):
        return _made(name, {"choices": value})
    if isinstance(value, str) and ":" in value:
        low, _, high = value.partition(":")
        return _made(name, {"low": low, "high": high})
    if isinstance(value, str):
        return _made(name, {"choices": [_scalar(part.strip()) for part in value.split(",")]})
    raise ValueError(f"{name}: found {value!r}, expected LOW:HIGH or A,B,C")


def _made(name: str, values: Any) -> Searched:
    try:
        return Searched.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        found = first.get("ctx", {}).get("error")
        if not isinstance(found, ValueError):
            found = f"found {first['input']!r}, but {first['msg'][0].lower()}{first['msg'][1:]}"
        raise ValueError(f"{name}: {found}") from None


def _scalar(text: str) -> Choice:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _doublings(given: Searched) -> Searched:
    """The lowest batch size of a range, and its doublings up to the highest."""
    assert given.low is not None
    assert given.high is not None
    if given.low < 1 or given.low != int(given.low):
        return given
    count = int(math.log2(given.high / given.low)) + 1
    return Searched(choices=tuple(int(given.low) * 2**power for power in range(count)))
