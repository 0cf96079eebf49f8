"""Hypothesis strategies that are read off the models: a new field or message is in them at once."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Gt, MaxLen, MinLen
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel

from justright.search_space import NAMES as SETTINGS
from justright.search_space import Searched, read_searched
from justright.spec import NAME_PATTERN, StudySpec, TaskRef

FINITE = st.floats(allow_nan=False, allow_infinity=False)
RATES = st.floats(min_value=1e-300, max_value=1e300)
SCALARS = st.one_of(st.booleans(), st.integers(), FINITE, st.text())
NAMES = st.from_regex(NAME_PATTERN, fullmatch=True)
_PLAIN: dict[Any, SearchStrategy[Any]] = {
    NoneType: st.none(),
    bool: st.booleans(),
    int: st.integers(),
    float: FINITE,
    str: st.text(),
    Any: SCALARS,
}


def instances(model: type[BaseModel]) -> SearchStrategy[Any]:
    """Every instance of a model, as far as its own validation lets it pass."""
    if model is TaskRef:
        return _TASKS
    fields = {
        name: values(field.rebuild_annotation()) for name, field in model.model_fields.items()
    }
    if model is Searched:
        return st.builds(Searched, choices=_CHOICES) | st.builds(_range_of, _RANGES)
    if model is StudySpec:
        fields |= _SPEC_FIELDS
    return st.builds(model, **fields)


def values(hint: Any) -> SearchStrategy[Any]:
    """Every value that a field of this type may have."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is Annotated:
        return _within_limits(hint)
    if origin in (Union, UnionType):
        return st.one_of(*(values(part) for part in arguments))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(values(part) for part in arguments))
    if issubclass(hint, Enum):
        return st.sampled_from(hint)
    assert issubclass(hint, BaseModel), f"no strategy for {hint}: add one here"
    return instances(hint)


def _range_of(ends: tuple[float, float]) -> Searched:
    return Searched(low=ends[0], high=ends[1])


def _within_limits(hint: Any) -> SearchStrategy[Any]:
    """A number within its limits (Hypothesis reads them), a name, or several of something."""
    inner, *limits = get_args(hint)
    if any(getattr(limit, "pattern", None) for limit in limits):
        return NAMES
    optional = NoneType in get_args(inner)
    number = get_args(inner)[0] if optional else inner
    if number is int:
        limited: Any = Annotated[(int, *limits)]
        found: SearchStrategy[Any] = st.from_type(limited)
    elif number is float and any(isinstance(limit, Gt) for limit in limits):
        found = RATES
    elif number is str and any(isinstance(limit, MaxLen) for limit in limits):
        found = st.text(max_size=min(x.max_length for x in limits if isinstance(x, MaxLen)))
    else:
        found = values(number)
        least = next((limit.min_length for limit in limits if isinstance(limit, MinLen)), 0)
        found = found.filter(lambda value: len(value) >= least) if least else found
    return st.none() | found if optional else found


def models_in(hint: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is made of, those of their fields included."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
        for field in hint.model_fields.values():
            yield from models_in(field.annotation)
    for part in get_args(hint):
        yield from models_in(part)


def floats_in(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a dumped model has its floats: keys and indices, from the outside in."""
    if isinstance(value, float):
        yield place
    for key, part in _parts(value).items():
        yield from floats_in(part, (*place, key))


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """A dumped model with something else at one place."""
    if not place:
        return new
    parts = _parts(value)
    parts[place[0]] = put(parts[place[0]], place[1:], new)
    return parts if isinstance(value, dict) else tuple(parts.values())


def _parts(value: Any) -> dict[Any, Any]:
    if isinstance(value, dict):
        return dict(value)
    return dict(enumerate(value)) if isinstance(value, tuple) else {}


_ARGUMENTS = st.dictionaries(st.text(), SCALARS, max_size=3)
_TASKS = st.builds(TaskRef, target=st.text(), arguments=_ARGUMENTS) | st.builds(
    TaskRef,
    command=st.lists(st.text(), max_size=3).map(lambda parts: (*parts, "--lr={lr}")),
    arguments=_ARGUMENTS,
)
_RANGES = st.tuples(RATES, RATES).filter(lambda pair: pair[0] < pair[1])
_CHOICES = st.lists(st.text(), min_size=2, max_size=3, unique=True).map(tuple)
# What a validator of the spec asks for beyond the fields' types.
_SPEC_FIELDS: dict[str, SearchStrategy[Any]] = {
    "lr": st.none() | _RANGES,
    "lanes": st.just("auto") | st.integers(min_value=1),
    "search": st.dictionaries(st.sampled_from(SETTINGS), st.just(""), max_size=3).map(
        lambda chosen: {name: read_searched(name, value) for name, value in chosen.items()}
    ),
}
