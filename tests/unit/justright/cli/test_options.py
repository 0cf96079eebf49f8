"""The options of ``tune`` and ``submit``: one definition, and what is made of them."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from justright.cli.options import StudyOptions, read_study, takes_study_options
from justright.errors import UsageError
from justright.spec import DEFAULT_LR, StudySpec

EXAMPLES = Path(__file__).resolve().parents[4] / "examples"
DIGITS = [f"{EXAMPLES / 'digits.py'}:Digits"]
SHARED = [field.name for field in fields(StudyOptions)]


@pytest.fixture(autouse=True)
def _no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["justright"])  # "--" in it means a program


def names_of(command: object) -> list[str]:
    assert callable(command)
    return list(inspect.signature(command).parameters)


def test_a_shared_option_is_a_field_of_the_spec() -> None:
    assert set(SHARED) - {"arguments"} <= set(StudySpec.model_fields)


def test_a_command_has_the_shared_options_and_its_own_where_it_says() -> None:
    @takes_study_options(workers="lanes")
    def with_one(options: StudyOptions, workers: int = 1, last: bool = False) -> None:
        """What it does."""

    names = names_of(with_one)
    assert [name for name in names if name not in ("workers", "last")] == SHARED
    assert names[names.index("lanes") + 1] == "workers"
    assert names[-1] == "last"
    assert with_one.__doc__ == "What it does."


def test_what_is_typed_arrives() -> None:
    seen: list[tuple[StudyOptions, bool]] = []
    app = typer.Typer()

    @app.command()
    @takes_study_options()
    def ask(options: StudyOptions, wait: bool = False) -> None:
        seen.append((options, wait))

    arguments = ["x.py:T", "--lr", "1e-4:1", "--set", "a=1", "--set", "b=2", "--seed", "3"]
    done = CliRunner().invoke(app, [*arguments, "--wait"])
    assert done.exit_code == 0, done.output
    expected = StudyOptions(task=["x.py:T"], lr="1e-4:1", arguments=["a=1", "b=2"], seed=3)
    assert seen == [(expected, True)]


@pytest.mark.parametrize("length", [{"epochs": 3}, {"steps": 40}])
def test_every_option_reaches_the_spec(length: dict[str, int]) -> None:
    typed = StudyOptions(
        task=DIGITS, lr="1e-4:1", trials=7, **length,
        timeout=9.0, budget=2.0, target=0.5, stall=60.0,
        sampler="random", pruner="median", replicates=2, seed=5, lanes="4", name="mine",
        arguments=["hidden=8"], search=["momentum"], pool="big", like="other", metric="val_loss",
    )  # fmt: skip
    given = set(SHARED) - ({"epochs", "steps"} - set(length))
    assert all(getattr(typed, name) is not None for name in given), "one is missing here"
    spec, workers, _ = read_study(typed, 2)
    assert workers == 2
    assert spec.task.arguments == {"hidden": 8}
    assert set(spec.search) == {"momentum"}
    assert (spec.lr, spec.lanes) == ((1e-4, 1.0), 4)
    as_typed = set(SHARED) - {"task", "arguments", "search", "lr", "lanes"}
    assert {name: getattr(spec, name) for name in as_typed} == {
        name: getattr(typed, name) for name in as_typed
    }


def test_what_is_not_typed_is_left_to_the_file_and_the_defaults(tmp_path: Path) -> None:
    spec, workers, _ = read_study(StudyOptions(task=DIGITS))
    assert spec == StudySpec(name=spec.name, task=spec.task)
    assert spec.name.startswith("digits-")
    assert workers is None
    study = tmp_path / "study.toml"
    study.write_text(f"task = '{DIGITS[0]}'\ntrials = 4\nseed = 1\nworkers = 3\n")
    spec, workers, _ = read_study(StudyOptions(task=[str(study)], seed=2))
    assert (spec.trials, spec.seed, workers) == (4, 2, 3)


def test_the_help_tells_the_defaults() -> None:
    """In brackets; the spec is not loaded to show a help, so they are written out there."""
    hints = get_type_hints(StudyOptions, include_extras=True)
    said = {name: re.search(r"\((\S+)\)", str(hints[name].__metadata__[0].help)) for name in SHARED}
    low, high = DEFAULT_LR
    assert {name: found[1] for name, found in said.items() if found is not None} == {
        "lr": f"{low:.0e}:{high:g}".replace("e-0", "e-"),
        "stall": "3600",
        **{
            name: str(StudySpec.model_fields[name].default)
            for name in ("trials", "replicates", "seed", "pool")
        },
    }


@pytest.mark.parametrize("count", [0, -1])
def test_workers_are_counted_from_one(count: int) -> None:
    with pytest.raises(UsageError, match=f"--workers: found {count}, expected a positive whole"):
        read_study(StudyOptions(task=DIGITS), count)
