"""What a user asks for: from a study file and flags to one spec, and through JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from pydantic import ValidationError

from justright.client.targets import merge, read_arguments, read_target
from justright.errors import UsageError
from justright.spec import DEFAULT_LR, StudySpec, TaskRef, differences, make_spec, parse_range
from tests.helpers.examples import tries
from tests.helpers.strategies import RATES, SCALARS, instances

# Under these, a study of the same name goes on; everything else makes it another one.
STOP_RULES = {"trials", "budget", "timeout", "target", "replicates", "stall"}
untimed = settings(deadline=None, max_examples=tries(50))


def a_spec(**values: Any) -> StudySpec:
    return make_spec({"name": "s", "task": {"target": "/tasks/t.py:T"}, **values})


# -- the spec itself ----------------------------------------------------------------------------


@untimed
@given(instances(StudySpec))
def test_a_spec_survives_json(spec: StudySpec) -> None:
    read = StudySpec.model_validate_json(spec.model_dump_json())
    assert read == spec
    assert read.model_dump_json() == spec.model_dump_json()
    assert StudySpec.model_validate(spec.model_dump(mode="json")) == spec, "as the study keeps it"


def test_what_is_not_said_is_left_to_us() -> None:
    spec = a_spec()
    assert spec.lr is None
    assert spec.lr_range == DEFAULT_LR
    assert (spec.trials, spec.epochs, spec.sampler, spec.pruner) == (30, None, "auto", "auto")


@untimed
@given(low=RATES, high=RATES)
def test_a_range_is_read_as_it_is_written(low: float, high: float) -> None:
    assert parse_range(f"{low}:{high}") == (low, high)
    assert parse_range(f" {low!r} : {high!r} ") == (low, high)
    if low < high:
        assert a_spec(lr=f"{low}:{high}").lr_range == (low, high)
        assert a_spec(lr=[low, high]) == a_spec(lr=f"{low}:{high}")


@pytest.mark.parametrize("text", ["", ":", "1", "1:", "1:2:3", "low:high", "1e-5-1", "1e-5,1"])
def test_a_range_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected LOW:HIGH, for example 1e-5:1"):
        parse_range(text)


@pytest.mark.parametrize("text", ["1:1", "2:1", "0:1", "-1:1", "nan:1", "1:nan", "1:inf"])
def test_a_range_without_rates_in_it(text: str) -> None:
    with pytest.raises(UsageError, match=f"--lr: found {text}, expected LOW:HIGH with 0 < LOW"):
        a_spec(lr=text)


@pytest.mark.parametrize(("lanes", "read"), [("auto", "auto"), ("4", 4), (4, 4)])
def test_lanes(lanes: Any, read: Any) -> None:
    assert a_spec(lanes=lanes).lanes == read


@pytest.mark.parametrize(
    "field", ["trials", "epochs", "timeout", "target", "replicates", "seed", "stall", "lanes"]
)
def test_a_truth_value_is_no_number(field: str) -> None:
    """``trials = true`` in a study file is a slip, and not a study of one trial."""
    with pytest.raises(UsageError, match=f"--{field}: found True"):
        a_spec(**{field: True})


@pytest.mark.parametrize("name", ["a", "digits-3f2a", "A.b_c-0", "0", "x" * 64])
def test_a_name(name: str) -> None:
    assert a_spec(name=name, pool=name).name == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "_a", "a b", "a/b", "a:b", "a\n", "é", "x" * 65])
@pytest.mark.parametrize("field", ["name", "pool"])
def test_a_name_that_is_none(field: str, name: str) -> None:
    """A name becomes part of keys, paths and URLs."""
    with pytest.raises(UsageError, match=f"--{field}: found .*letters, digits"):
        a_spec(**{field: name})


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(UsageError) as refused:
        a_spec(trials=0, sampler="best", colour="red", lr="1:1e-6", timeout=-1)
    lines = str(refused.value).splitlines()
    assert [line.partition(":")[0] for line in sorted(lines)] == [
        "--lr", "--sampler", "--timeout", "--trials", "colour"
    ]  # fmt: skip
    assert any("no such key" in line and "sampler" in line for line in lines)


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        a_spec().trials = 3


@pytest.mark.parametrize("field", StudySpec.model_fields)
@settings(deadline=None, max_examples=tries(10))
@given(data=st.data())
def test_what_makes_another_study(field: str, data: DataObject) -> None:
    known, other = data.draw(instances(StudySpec)), data.draw(instances(StudySpec))
    assert differences(known, known) == []
    assume(getattr(known, field) != getattr(other, field))
    asked = known.model_copy(update={field: getattr(other, field)})
    assert differences(known, asked) == ([] if field in STOP_RULES else [field])


# -- the task -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({"target": "/home/me/digits.py:Digits"}, "digits.py:Digits"),
        ({"target": "package.module:Name"}, "package.module:Name"),
        ({"command": ["python", "train.py", "--lr={lr}"]}, "python train.py --lr={lr}"),
    ],
)
def test_a_task(values: dict[str, Any], label: str) -> None:
    assert TaskRef(**values).label == label


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "expected either a TASK"),
        ({"target": "a:b", "command": ["x", "{lr}"]}, "expected either a TASK"),
        ({"command": ["python", "train.py"]}, "the command has no {lr}"),
        ({"target": "a:b", "arguments": {"x": [1]}}, "--set x: found [1]"),
        ({"target": "a:b", "arguments": {"x": float("nan")}}, "--set x: found nan"),
    ],
)
def test_a_task_that_is_none(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        a_spec(task=values)
    assert said in str(refused.value)


# -- arguments of the task ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("256", 256), ("-3", -3), ("0.5", 0.5), ("1e-4", 1e-4), (".5", 0.5), ("1_000", 1000),
        ("true", True), ("false", False), ("True", "True"), ("wide", "wide"), ("", ""),
        ('"256"', "256"), ("'a b'", "a b"), ("a=b", "a=b"), ("[1, 2]", "[1, 2]"),
        ("2030-01-31", "2030-01-31"), ("#fff", "#fff"), ("3 # third", "3 # third"),
    ],
)  # fmt: skip
def test_an_argument_is_read_as_toml_or_as_text(text: str, value: Any) -> None:
    [(key, read)] = read_arguments([f"hidden={text}"]).items()
    assert (key, read, type(read)) == ("hidden", value, type(value))


@untimed
@given(SCALARS.filter(lambda value: not isinstance(value, str)))
def test_every_number_can_be_an_argument(value: float) -> None:
    [read] = read_arguments([f"x={str(value).lower()}"]).values()
    assert (read, type(read)) == (value, type(value))


def test_the_last_of_equal_arguments_counts() -> None:
    assert read_arguments(["a=1", "b=2", "a=3"]) == {"a": 3, "b": 2}


@pytest.mark.parametrize("pair", ["hidden", "=3", "3d=1", "a-b=1", " a=1"])
def test_an_argument_that_is_none(pair: str) -> None:
    with pytest.raises(UsageError, match=r"--set: found .*, expected key=value"):
        read_arguments([pair])


# -- study files --------------------------------------------------------------------------------

STUDY_FILE = """
task = "tasks/digits.py:Digits"
lr = "1e-4:1"
trials = 5
seed = 7
workers = 2

[set]
hidden = 256
wide = true
"""


@pytest.fixture
def study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study file, in another folder than the one that its user is in."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "digits.py").write_text("class Digits: ...\n")
    path = tmp_path / "study.toml"
    path.write_text(STUDY_FILE)
    return path


def test_a_study_file_means_what_its_flags_would(study_file: Path) -> None:
    values = read_target([str(study_file)], is_command=False)
    assert values.pop("workers") == 2, "no part of the study: it may go on with more"
    target = f"{study_file.parent}/tasks/digits.py:Digits"
    by_flags = merge(
        read_target([target], is_command=False),
        {"lr": "1e-4:1", "trials": 5, "seed": 7, "arguments": {"hidden": 256, "wide": True}},
    )
    spec = make_spec({**values, "name": "s"})
    assert spec == make_spec({**by_flags, "name": "s"})
    assert spec.task.target == target, "its path is relative to the file"
    assert spec.lr == (1e-4, 1.0)


def test_flags_win_over_the_file(study_file: Path) -> None:
    kept = read_target([str(study_file)], is_command=False)
    flags = {"lr": None, "trials": 9, "seed": 0, "arguments": {"hidden": 8, "depth": 3}}
    values = merge(kept, flags)
    assert (values["lr"], values["trials"], values["seed"]) == ("1e-4:1", 9, 0)
    assert values["task"]["arguments"] == {"hidden": 8, "wide": True, "depth": 3}
    assert kept["task"]["arguments"] == {"hidden": 256, "wide": True}, "what was read stays"


def test_a_study_file_of_a_command(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text('command = ["train", "--lr", "{lr}"]\nmetric = "val"\nlanes = 2\n')
    spec = make_spec({**read_target([str(path)], is_command=False), "name": "s"})
    assert spec.task == TaskRef(command=("train", "--lr", "{lr}"))
    assert (spec.metric, spec.lanes) == ("val", 2)


def test_a_command_is_taken_word_for_word() -> None:
    words = ["study.toml", "--lr", "{lr}", "a b"]
    assert read_target(words, is_command=True) == {"task": {"command": words}}
