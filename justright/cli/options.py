"""What ``tune`` and ``submit`` share: their options, and the study that these ask for.

A new option of both is one line in ``StudyOptions``, named as the field of ``StudySpec``.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated, NamedTuple, get_type_hints

import typer

from justright.errors import UsageError

if TYPE_CHECKING:
    from justright.spec import StudySpec

STUDY = Annotated[str, typer.Argument(metavar="STUDY", help="Name of a study.")]
JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

_Text = str | None
_Whole = int | None
_Number = float | None
_Texts = list[str] | None


@dataclass(frozen=True)
class StudyOptions:
    """What is typed to ask for a study. None: not given; a study file may."""

    task: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK",
            help="path/to/file.py:Name, package.module:Name, study.toml, or -- command --lr {lr}",
            show_default=False,
        ),
    ]
    lr: Annotated[_Text, typer.Option(metavar="LOW:HIGH", help="Range searched (1e-6:10).")] = None
    trials: Annotated[_Whole, typer.Option(help="Learning rates to try (30).")] = None
    epochs: Annotated[_Whole, typer.Option(help="The horizon (the task's own).")] = None
    steps: Annotated[_Whole, typer.Option(help="The horizon in optimizer steps instead.")] = None
    budget: Annotated[_Number, typer.Option(help="Full trainings that it may cost.")] = None
    timeout: Annotated[_Number, typer.Option(help="Seconds after which to answer.")] = None
    target: Annotated[_Number, typer.Option(help="A loss at which to stop.")] = None
    stall: Annotated[
        _Number, typer.Option(help="Seconds without a sign of life until a trial fails (3600).")
    ] = None
    sampler: Annotated[_Text, typer.Option(help="auto, tpe, gp, random, qmc or grid.")] = None
    pruner: Annotated[_Text, typer.Option(help="auto, asha, hyperband, median or none.")] = None
    replicates: Annotated[_Whole, typer.Option(help="Seeds for the best rates (1).")] = None
    seed: Annotated[_Whole, typer.Option(help="Seed of weights, batches and search (0).")] = None
    lanes: Annotated[_Text, typer.Option(help="Trials in a job: auto or a number.")] = None
    name: Annotated[_Text, typer.Option(help="Name of the study; the same goes on with it.")] = None
    arguments: Annotated[
        _Texts, typer.Option("--set", metavar="KEY=VALUE", help="Argument of the task.")
    ] = None
    search: Annotated[
        _Texts,
        typer.Option(
            metavar="NAME[=RANGE]",
            help="Also search batch_size, momentum, schedule, warmup or weight_decay: "
            "LOW:HIGH, A,B,C or the usual.",
        ),
    ] = None
    pool: Annotated[_Text, typer.Option(help="Which workers (default).")] = None
    like: Annotated[
        _Text,
        typer.Option(
            metavar="STUDY", help="Begin near this earlier study's answer, or near a rate."
        ),
    ] = None
    metric: Annotated[_Text, typer.Option(help="Name of the loss in a command's output.")] = None


class Asked(NamedTuple):
    """What a user asks for."""

    spec: StudySpec
    workers: int | None
    fresh: bool  #: The name was made up here.


def read_study(options: StudyOptions, workers: int | None = None) -> Asked:
    """The study that is asked for, and the number of workers: as typed, else as its file says.

    Raises:
        UsageError: something of it is wrong.
    """
    from justright.client.targets import fresh_name, merge, read_arguments, read_search, read_target
    from justright.spec import make_spec

    flags = asdict(options) | {"workers": workers}
    values = read_target(flags.pop("task"), is_command="--" in sys.argv)
    flags["arguments"] = read_arguments(options.arguments or [])
    flags["search"] = read_search(options.search or [])
    values = merge(values, flags)
    workers = values.pop("workers", None)
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise UsageError(f"--workers: found {workers!r}, expected a positive whole number")
    fresh = "name" not in values
    values.setdefault("name", fresh_name(values["task"]))
    return Asked(make_spec(values), workers, fresh)


def takes_study_options(**after: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """For a command whose first parameter is a ``StudyOptions``: typer sees each as its own.

    ``after`` names the shared option that one of the command's own follows in the help; the others
    come last.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        build: Callable[..., StudyOptions] = StudyOptions

        def run(**typed: object) -> None:
            shared = {field.name: typed.pop(field.name) for field in fields(StudyOptions)}
            command(build(**shared), **typed)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        signature = inspect.Signature(list(_in_order(own, after)))
        run.__signature__ = signature  # type: ignore[attr-defined]
        return run

    return decorate


def _in_order(own: list[inspect.Parameter], after: dict[str, str]) -> Iterator[inspect.Parameter]:
    kind = inspect.Parameter.KEYWORD_ONLY
    types = get_type_hints(StudyOptions, include_extras=True)
    for field in fields(StudyOptions):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        yield inspect.Parameter(field.name, kind, default=default, annotation=types[field.name])
        yield from (one.replace(kind=kind) for one in own if after.get(one.name) == field.name)
    yield from (one.replace(kind=kind) for one in own if one.name not in after)
