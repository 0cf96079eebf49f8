"""StudySpec: what a user asks for, checked before anything is started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from justright.errors import UsageError
from justright.search_space import Searched, read_searched

DEFAULT_LR = (1e-6, 10.0)
WIDEST_LR = (1e-8, 1e3)  # what may be tried where the user gave no range
KNOWN_GOOD_LR = 0.01
_SEEDS = 2**31  # that every library takes

Scalar = bool | int | float | str
SamplerName = Literal["auto", "tpe", "gp", "random", "qmc", "grid"]
PrunerName = Literal["auto", "asha", "hyperband", "median", "none"]
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class TaskRef(BaseModel):
    """Where the user's training is: a Python object, or a command line.

    ``target`` is ``/absolute/file.py:Name`` or ``package.module:Name``. ``command`` is an argument
    vector in which ``{lr}``, ``{seed}``, ``{epochs}``, ``{steps}`` and ``{trial}``
    are filled in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str | None = None
    folder: str | None = None  #: Of a module that is not installed: where it was found.
    command: tuple[str, ...] = ()
    arguments: dict[str, Scalar] = Field(default_factory=dict)

    @field_validator("arguments", mode="before")
    @classmethod
    def _check_arguments(cls, values: Any) -> Any:
        for name, value in values.items() if isinstance(values, Mapping) else ():
            if not isinstance(value, (bool, int, float, str)) or (
                isinstance(value, float) and not math.isfinite(value)
            ):
                raise ValueError(
                    f"--set {name}: found {value!r}, expected true or false, a finite number or "
                    "text. Write text that looks like something else in quotes."
                )
        return values

    @model_validator(mode="after")
    def _one_of_two(self) -> TaskRef:
        if (self.target is None) == (not self.command):
            raise ValueError("expected either a TASK such as file.py:Name or a command after --")
        if self.command and not any("{lr}" in part for part in self.command):
            raise ValueError(
                "the command has no {lr}: say where the learning rate goes, "
                "for example: -- python train.py --lr {lr}"
            )
        return self

    @property
    def label(self) -> str:
        """A short name for people."""
        if self.target is None:
            return " ".join(self.command)
        return self.target.rsplit("/", 1)[-1]


class StudySpec(BaseModel):
    """One study. Field names are the long options of ``tune`` and ``submit``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=f"^{NAME_PATTERN}$")
    task: TaskRef
    lr: tuple[float, float] | None = None  #: None: DEFAULT_LR, and the search may widen it.
    trials: int = Field(default=30, ge=1)
    epochs: int | None = Field(default=None, ge=1)  #: None: the task's own horizon ...
    steps: int | None = Field(default=None, ge=1)  #: ... in optimizer steps; one of the two.
    budget: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Full trainings that the study may cost; None: as many as the search finds worth it."""
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)  #: seconds
    target: float | None = Field(default=None, allow_inf_nan=False)  #: A loss that is good enough.
    sampler: SamplerName = "auto"
    pruner: PrunerName = "auto"
    replicates: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0, lt=_SEEDS)
    lanes: Literal["auto"] | int = "auto"
    pool: str = Field(default="default", pattern=f"^{NAME_PATTERN}$")
    stall: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds without a sign of life after which an attempt has failed; None: the worker's own."""
    metric: str | None = None  #: The name to look for in a command's output.
    search: dict[str, Searched] = Field(default_factory=dict)
    """What is searched beside the rate: settings of a task, and what they may be."""
    like: str | None = Field(default=None, pattern=f"^{NAME_PATTERN}$")
    """An earlier study of a similar task, near whose answer the search begins; or a rate."""

    @field_validator(
        "trials",
        "epochs",
        "steps",
        "budget",
        "timeout",
        "target",
        "replicates",
        "seed",
        "stall",
        mode="before",
    )
    @classmethod
    def _refuse_truth(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"found {value}, expected a number")
        return value

    @field_validator("lr", mode="before")
    @classmethod
    def _read_range(cls, value: Any) -> Any:
        return parse_range(value) if isinstance(value, str) else value

    @field_validator("search", mode="before")
    @classmethod
    def _read_search(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            raise ValueError(f"found {values!r}, expected names and what they may be")
        return {name: read_searched(name, value) for name, value in values.items()}

    @field_validator("lr")
    @classmethod
    def _check_range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is None:
            return None
        low, high = value
        if not (0 < low < high < float("inf")):
            raise ValueError(
                f"found {low:g}:{high:g}, expected LOW:HIGH with 0 < LOW < HIGH, for example 1e-5:1"
            )
        return value

    @field_validator("lanes", mode="before")
    @classmethod
    def _read_lanes(cls, value: Any) -> Any:
        if value == "auto":
            return value
        whole = isinstance(value, int) or (isinstance(value, str) and value.isdecimal())
        if not whole or isinstance(value, bool) or int(value) < 1:
            raise ValueError(f"found {value!r}, expected auto or a positive whole number")
        return int(value)

    @property
    def lr_range(self) -> tuple[float, float]:
        """The searched range, low and high, per step of the optimizer's own unit."""
        return self.lr or DEFAULT_LR


# What may differ when a name is submitted again: the study goes on under the new rules.
_STOP_RULES = frozenset({"trials", "budget", "timeout", "target", "replicates", "stall"})


def differences(known: StudySpec, asked: StudySpec) -> list[str]:
    """The fields that make ``asked`` another study than the known one of its name."""
    fields = [name for name in StudySpec.model_fields if name not in _STOP_RULES]
    return [name for name in fields if getattr(known, name) != getattr(asked, name)]


def another_study(name: str, differing: list[str]) -> str:
    """The message for a name that another study has."""
    return (
        f"there is a study {name} with another {', '.join(differing)}. Choose another --name, or "
        "repeat its options to go on with it."
    )


def read_rate(text: str) -> float | None:
    """A learning rate, if the text is one."""
    try:
        rate = float(text)
    except ValueError:
        return None
    return rate if 0 < rate < math.inf else None


def parse_range(text: str) -> tuple[float, float]:
    """Read ``LOW:HIGH``.

    Raises:
        ValueError: it is not two numbers with a colon between.
    """
    parts = text.split(":")
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        raise ValueError(f"found {text!r}, expected LOW:HIGH, for example 1e-5:1") from None
    return low, high


def make_spec(values: Mapping[str, Any]) -> StudySpec:
    """Build a spec from what a user gave, with their words in the errors.

    Raises:
        UsageError: an unknown key, or a value out of its range; all of them in one message.
    """
    try:
        spec = StudySpec.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError("\n".join(_explain(item) for item in error.errors())) from None
    if spec.epochs is not None and spec.steps is not None:
        raise UsageError(
            f"found both --epochs {spec.epochs} and --steps {spec.steps}, expected one of them: "
            "either is the length of a full training"
        )
    return spec


def _explain(item: Any) -> str:
    """One line for one pydantic complaint."""
    where = ".".join(str(part) for part in item["loc"]) or "study"
    found = _shown(item.get("input"))
    kind = item["type"]
    option = f"--{where}" if "." not in where and where in StudySpec.model_fields else where
    if kind == "extra_forbidden":
        keys = ", ".join(sorted(StudySpec.model_fields))
        return f"{where}: no such key. A study has: {keys}."
    if kind == "value_error":
        message = str(item["ctx"]["error"])
        ours = where.partition(".")[0] in ("task", "study")
        return message if ours else f"{option}: {message}"
    if kind == "string_pattern_mismatch":
        return (
            f"{option}: found {found}, expected letters, digits, dots, dashes or underscores, "
            "at most 64, beginning with a letter or digit"
        )
    expected = item["msg"][0].lower() + item["msg"][1:]
    return f"{option}: found {found}, but {expected}"


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # Python writes no number of more than 4300 digits
        return f"a very long {type(value).__name__}"
