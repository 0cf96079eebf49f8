"""What a user may write after --search, and in the study file's [search]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from justright.client.targets import merge, read_search, read_target
from justright.errors import UsageError
from justright.search_space import DEFAULTS, NAMES, SCHEDULES, Searched
from justright.spec import StudySpec, differences, make_spec
from justright.task import Task


def spec_of(search: Any) -> StudySpec:
    return make_spec({"name": "s", "task": {"target": "a.b:C"}, "search": search})


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        ("weight_decay", "1e-5:0.1", {"low": 1e-5, "high": 0.1}),
        ("weight_decay", "0,0.01,0.1", {"choices": (0, 0.01, 0.1)}),
        ("momentum", "0.8:0.99", {"low": 0.8, "high": 0.99}),
        ("warmup", [0, 0.1], {"choices": (0, 0.1)}),
        ("schedule", "cosine, step", {"choices": ("cosine", "step")}),
        ("batch_size", "16,48", {"choices": (16, 48)}),
        ("batch_size", "16:100", {"choices": (16, 32, 64)}),
        ("batch_size", "16:128", {"choices": (16, 32, 64, 128)}),
    ],
)
def test_ranges_and_choices(name: str, written: Any, expected: dict[str, Any]) -> None:
    spec = spec_of({name: written})
    assert spec.search == {name: Searched(**expected)}
    assert StudySpec.model_validate(spec.model_dump(mode="json")) == spec
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("name", NAMES)
def test_a_name_alone_means_the_usual(name: str) -> None:
    assert spec_of({name: ""}).search == {name: DEFAULTS[name]}
    assert hasattr(Task, name)


def test_wide_ranges_are_searched_on_a_log_scale() -> None:
    assert spec_of({"weight_decay": "1e-5:0.1"}).search["weight_decay"].log
    assert not spec_of({"weight_decay": "0.01:0.1"}).search["weight_decay"].log
    assert not spec_of({"weight_decay": "0:0.1"}).search["weight_decay"].log
    assert not spec_of({"momentum": "0.5:0.99"}).search["momentum"].log


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"depth": "1:3"}, "'depth', expected one of batch_size, momentum, schedule, warmup, w"),
        ({"momentum": "0.5:1"}, "momentum: found '0.5:1', expected numbers of at least 0 and bel"),
        ({"momentum": "0.9:0.5"}, "momentum: found 0.9:0.5, expected LOW:HIGH with LOW < HIGH"),
        ({"momentum": "a:b"}, "momentum: found 'a', but"),
        ({"momentum": "0.9,inf"}, "momentum: found inf, but"),
        ({"weight_decay": "-1:1"}, "weight_decay: found '-1:1', expected numbers of at least 0"),
        ({"weight_decay": "0.1"}, "weight_decay: found 0.1, expected 2 to 32 values that differ"),
        ({"weight_decay": "0.1,0.1"}, "expected 2 to 32 values that differ"),
        ({"weight_decay": {"low": 0.1}}, "expected LOW:HIGH with LOW < HIGH"),
        ({"weight_decay": {"low": 0, "high": 1, "choices": [1, 2]}}, "a range and choices"),
        ({"schedule": "a,b"}, f"expected some of {', '.join(SCHEDULES)}"),
        ({"schedule": "0:1"}, "expected some of"),
        ({"batch_size": "1.5:9"}, "batch_size: found '1.5:9', expected positive whole numbers"),
        ({"batch_size": [True, 2]}, "batch_size"),
        ({"warmup": 5}, "warmup: found 5, expected LOW:HIGH or A,B,C"),
        (["warmup"], r"found \['warmup'\], expected names and what they may be"),
    ],
)
def test_what_cannot_be_searched(search: Any, message: str) -> None:
    with pytest.raises(UsageError, match="--search: .*" + message):
        spec_of(search)


def test_the_command_line() -> None:
    assert read_search(["warmup", "momentum=0.5:0.9"]) == {"warmup": "", "momentum": "0.5:0.9"}
    for pairs in (["warmup="], ["warmup", "warmup=0,0.1"]):
        with pytest.raises(UsageError, match="expected each name once"):
            read_search(pairs)


def test_flags_add_to_the_study_file(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(
        'task = "t.py:T"\n[search]\nwarmup = ""\nbatch_size = [8, 16]\nmomentum = "0.5:0.9"\n'
    )
    (tmp_path / "t.py").write_text("class T: pass\n")
    flags = {"arguments": {}, "search": {"momentum": "0.8:0.95", "schedule": ""}}
    spec = make_spec({"name": "s", **merge(read_target([str(file)], is_command=False), flags)})
    assert spec.search == {
        "warmup": DEFAULTS["warmup"],
        "batch_size": Searched(choices=(8, 16)),
        "momentum": Searched(low=0.8, high=0.95),
        "schedule": DEFAULTS["schedule"],
    }
    file.write_text('task = "t.py:T"\nsearch = 3\n')
    with pytest.raises(UsageError, match="--search: found 3, expected names"):
        make_spec({"name": "s", **merge(read_target([str(file)], is_command=False), flags)})


def test_another_search_is_another_study() -> None:
    assert differences(spec_of({}), spec_of({"warmup": ""})) == ["search"]
