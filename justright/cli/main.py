"""The ``justright`` command: its commands in the order of the help, and how it ends on an error."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from justright import __version__
from justright.cli import service, studies
from justright.errors import EXIT_INTERRUPTED, JustrightError

app = typer.Typer(
    name="justright",
    help="Finds the learning rate that is just right for a PyTorch model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)

for command in (
    studies.tune,
    studies.submit,
    service.orchestrator,
    service.worker,
    studies.status,
    studies.best,
    studies.list_,
    studies.delete,
    studies.cancel,
    studies.pause,
    studies.resume,
    service.dashboard,
    service.doctor,
):
    app.command(command.__name__.rstrip("_"))(command)


def _version(value: bool) -> None:
    if value:
        print(f"justright {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    return None


def main() -> None:
    """Run the command line; our own errors become one message and their exit code."""
    try:
        app()
    except JustrightError as error:
        print(f"error: {error}", file=sys.stderr)
        traceback = getattr(error, "traceback", "")
        if traceback:
            print(traceback, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        lost = _lost_redis(error)
        if lost is None:
            raise
        print(f"error: {lost}", file=sys.stderr)
        sys.exit(lost.exit_code)


def _lost_redis(error: Exception) -> JustrightError | None:
    """Our words for a Redis that went away in the middle; None: it is something else."""
    redis = sys.modules.get("redis")
    if redis is None or not isinstance(error, redis.RedisError):
        return None
    from justright.brokers.connection import unavailable
    from justright.settings import load_settings

    return unavailable(load_settings().redis_url.get_secret_value(), error)
