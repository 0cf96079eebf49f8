"""Every message on the wire: what is sent is what is read, and nothing else gets through."""

from __future__ import annotations

import json
import math
from itertools import product
from typing import Any, cast, get_args, get_type_hints

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from pydantic import BaseModel, ValidationError

from justright.errors import MessageError
from justright.messages import (
    SCHEMA_VERSION,
    AnyMessage,
    InspectJob,
    Job,
    Loss,
    Message,
    Report,
    TidyJob,
    TrainJob,
    decode,
    decode_as,
    decode_job,
)
from justright.spec import StudySpec, TaskRef
from tests.helpers.examples import tries
from tests.helpers.strategies import floats_in, instances, models_in, put

KINDS: tuple[type[Message], ...] = get_args(AnyMessage)
JOBS: tuple[type[Message], ...] = get_args(Job)
MODELS: list[type[BaseModel]] = sorted({*models_in(AnyMessage)}, key=lambda model: model.__name__)
NOT_FINITE = [math.nan, math.inf, -math.inf]
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
some = settings(max_examples=tries(30), deadline=None, suppress_health_check=[HealthCheck.too_slow])


def subclasses(kind: type[Message]) -> set[type[Message]]:
    direct = set(kind.__subclasses__())
    return direct.union(*(subclasses(child) for child in direct))


def a_report(**changes: Any) -> dict[str, Any]:
    return {
        "type": "report", "study": "s", "trial": 0, "attempt": 1, "step": 1, "loss": 0.5, **changes
    }  # fmt: skip


def test_every_message_can_be_decoded() -> None:
    """One that is missing in the union could be sent, and never be read."""
    sent = {kind for kind in subclasses(Message) if not kind.__name__.startswith("_")}
    assert sent == set(KINDS)
    tags = [kind.model_fields["type"].default for kind in KINDS if kind not in JOBS]
    assert len({*tags, "job"}) == len(tags) + 1
    assert {job.model_fields["type"].default for job in JOBS} == {"job"}


@EACH_KIND
@some
@given(data=st.data())
def test_what_is_sent_is_what_is_read(kind: type[Message], data: DataObject) -> None:
    message = data.draw(instances(kind))
    sent = message.encode()
    assert "\n" not in sent
    read = decode(sent)
    assert type(read) is kind
    assert read == message
    assert read.encode() == sent, "1, 1.0 and True are equal in Python, and are not the same"
    assert decode(sent.encode()) == message
    assert decode_as(kind, sent) == message


def with_more(value: Any, model: Any, more: dict[str, Any]) -> Any:
    """The JSON of a model with fields of the future in it and in the models within."""
    if isinstance(value, (list, tuple)):
        return [with_more(item, part, more) for item, part in zip(value, model, strict=True)]
    if not isinstance(model, BaseModel):
        return value
    attributes = {
        field.serialization_alias or name: name for name, field in type(model).model_fields.items()
    }
    inner = {
        name: with_more(part, getattr(model, attributes[name]), more)
        for name, part in value.items()
    }
    # A spec's fields are what its user asked for: left unread, another study would be run.
    return inner if isinstance(model, (StudySpec, TaskRef)) else more | inner


@EACH_KIND
@some
@given(data=st.data())
def test_fields_of_the_future_are_ignored(kind: type[Message], data: DataObject) -> None:
    message = data.draw(instances(kind))
    more = data.draw(
        st.dictionaries(
            st.text(), st.one_of(st.none(), st.integers(), st.lists(st.text())), max_size=3
        )
    )
    fields = [field for model in MODELS for field in model.model_fields.items()]
    known = {name for name, _ in fields} | {field.serialization_alias for _, field in fields}
    future = {"later": 1} | {name: value for name, value in more.items() if name not in known}
    raw = with_more(json.loads(message.encode()), message, future)
    assert "later" in raw
    assert decode(json.dumps(raw)) == message


@EACH_KIND
@some
@given(data=st.data(), ahead=st.integers(min_value=1, max_value=10**9))
def test_a_newer_version_is_refused(kind: type[Message], data: DataObject, ahead: int) -> None:
    raw = json.loads(data.draw(instances(kind)).encode())
    raw["v"] = SCHEMA_VERSION + ahead
    with pytest.raises(MessageError, match=r"\.v: .*same release"):
        decode(json.dumps(raw))


def test_a_message_without_a_version_is_of_the_first() -> None:
    assert decode(json.dumps(a_report())) == decode(json.dumps(a_report(v=1)))


@EACH_KIND
def test_a_message_cannot_be_changed(kind: type[Message]) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        kind.model_construct().v = 2


# -- jobs of the first edition ------------------------------------------------------------------

#: What the first edition's one kind of job wrote: every field, whatever the job was for.
FIRST = {
    "v": 1, "type": "job", "id": "j", "study": "s",
    "task": {"target": "/x.py:T", "folder": None, "command": [], "arguments": {}},
    "epochs": 9, "until": None, "seed": 3, "metric": None, "place": "s-1", "stall": None,
    "tidy": False, "trials": [],
    "plan": {"lanes": 1, "stack": 1, "fuse_from": 2, "speedup": 1.0, "reason": ""},
    "search": [], "lanes": None, "most": 1,
}  # fmt: skip
ADDED = ("sources", "known_metric", "marks", "steps")  #: What later ones added.
WORK = {"number": 3, "lr": 0.1, "params": {"momentum": 0.9}, "seed": 0, "attempt": 2}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"trials": [WORK], "until": 2}, TrainJob),
        ({"lanes": 4, "most": 30, "search": ["momentum"]}, InspectJob),
        ({"tidy": True}, TidyJob),
    ],
)
def test_a_job_of_the_first_edition(changes: dict[str, Any], kind: type[Message]) -> None:
    written = FIRST | changes
    job = decode_job(json.dumps(written))
    assert type(job) is kind
    assert job.checkpoint_prefix == "s-1"
    assert decode_as(kind, job.encode()) == job
    sent = json.loads(job.encode())
    for name in ADDED:  # it ignores what it does not know
        sent.pop(name, None)
    assert sent.items() <= written.items(), "the first edition reads it: names and values are its"
    missing = written.keys() - sent.keys()
    defaults: dict[str, Any] = {
        "epochs": None,
        "until": None,
        "seed": 0,
        "metric": None,
        "tidy": False,
    }
    defaults |= {"trials": [], "plan": FIRST["plan"], "search": [], "lanes": None, "most": 1}
    ignored = {"epochs", "seed"} if kind is TidyJob else set()
    assert all(written[name] == defaults[name] for name in missing - ignored)


def test_a_job_to_train_has_trials() -> None:
    for trials in cast(tuple[Any, ...], (None, {}, "")):
        with pytest.raises(MessageError, match=r"job\.train\.trials: "):
            decode(json.dumps(FIRST | {"trials": trials}))
    with pytest.raises(MessageError, match="found a report message, expected a job"):
        decode_job(json.dumps(a_report()))


# -- what nobody of ours has sent ---------------------------------------------------------------


def reads_or_refuses(raw: str | bytes) -> None:
    """Either one of our messages, or an error that fits into one line of a log."""
    try:
        message = decode(raw)
    except MessageError as error:
        refused = str(error)
    else:
        assert type(message) in KINDS
        return
    assert "unreadable message" in refused
    assert "\n" not in refused


@given(st.binary() | st.text(st.characters()))
@example(b"\xff")
@example("\udc80")
@example("")
@example("[" * 100_000)
@example('{"type":"hello","worker":"\\ud800"}')
@example('{"type":"hello","worker":"w","v":1' + "0" * 5000 + "}")
@example('{"type":"report\\n2030-01-01 WARNING all is lost"}')
@example(json.dumps(a_report(seconds=math.inf)))
@settings(deadline=None)
def test_bytes_and_text_of_anybody(raw: str | bytes) -> None:
    reads_or_refuses(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3),
    max_leaves=8,
)


@given(JSON)
@settings(deadline=None)
def test_json_of_anybody(value: Any) -> None:
    with pytest.raises(MessageError, match="unreadable message"):
        decode(json.dumps(value))


@EACH_KIND
@some
@given(data=st.data())
def test_a_message_with_one_wrong_field(kind: type[Message], data: DataObject) -> None:
    raw = json.loads(data.draw(instances(kind)).encode())
    raw[data.draw(st.sampled_from(sorted(raw)))] = data.draw(JSON)
    reads_or_refuses(json.dumps(raw))


@EACH_KIND
@some
@given(data=st.data())
def test_a_message_of_another_kind(kind: type[Message], data: DataObject) -> None:
    sent = data.draw(instances(kind)).encode()
    other = data.draw(st.sampled_from([other for other in KINDS if other is not kind]))
    with pytest.raises(MessageError, match=f"found a {kind.model_fields['type'].default} message"):
        decode_as(other, sent)


@pytest.mark.parametrize(
    "changes",
    [
        {"trial": -1}, {"attempt": 0}, {"step": -1}, {"trial": "first"}, {"v": 0}, {"type": "rep"},
        {"study": None}, {"loss": "low"},
    ],
    ids=str,
)  # fmt: skip
def test_fields_out_of_their_range_are_refused(changes: dict[str, Any]) -> None:
    assert isinstance(decode(json.dumps(a_report())), Report)
    with pytest.raises(MessageError, match="unreadable message"):
        decode(json.dumps(a_report(**changes)))


# -- numbers that JSON does not have ------------------------------------------------------------

LOSSES = [
    (model, name)
    for model in MODELS
    for name, hint in get_type_hints(model, include_extras=True).items()
    if Loss in (hint, *get_args(hint))
]


def test_the_losses_are_found() -> None:
    assert {(Report, "loss"), (Report, "train_loss")} <= set(LOSSES)
    assert "losses" in {name for _, name in LOSSES}


@pytest.mark.parametrize("loss", NOT_FINITE)
@pytest.mark.parametrize(("model", "name"), LOSSES)
def test_a_loss_is_finite_or_none(model: type[BaseModel], name: str, loss: float) -> None:
    many = get_type_hints(model, include_extras=True)[name] != Loss
    with pytest.raises(ValidationError, match=rf"{name}\b.*\n.*finite number"):
        model.model_validate({name: [loss] if many else loss})


@pytest.mark.parametrize("loss", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_loss_that_is_not_finite_travels_as_null_only(loss: str) -> None:
    sent = json.dumps(a_report(loss="?"))
    with pytest.raises(MessageError, match="loss: Input should be a finite number"):
        decode(sent.replace('"?"', loss))
    report = decode(sent.replace('"?"', "null"))
    assert isinstance(report, Report)
    assert report.loss is None
    assert '"loss":null' in report.encode()


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if '"number"' in json.dumps(kind.model_json_schema())]
)
@settings(some, phases=[Phase.generate])  # a failure names its field: shrinking adds minutes
@given(data=st.data())
def test_whatever_can_be_built_can_be_read(kind: type[Message], data: DataObject) -> None:
    """A number that JSON does not have is refused where it is put in, or travels as null."""
    message = data.draw(instances(kind)).model_dump()
    for place, number in product(floats_in(message), NOT_FINITE):
        try:
            sent = kind.model_validate(put(message, place, number)).encode()
        except ValidationError:
            continue
        assert type(decode(sent)) is kind
