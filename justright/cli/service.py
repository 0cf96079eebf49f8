"""The commands that serve: the orchestrator, workers, the dashboard, and the doctor for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from justright.cli.options import JSON
from justright.cli.packages import load_package

if TYPE_CHECKING:
    from justright.settings import Settings


def orchestrator() -> None:
    """Run the service: one is active, others stand by."""
    settings = _settings_and_log()
    raise typer.Exit(load_package("orchestrator.main").run_orchestrator(settings))


def worker(
    gpus: Annotated[str | None, typer.Option(help="0,1 or none (every visible one).")] = None,
    lanes: Annotated[str, typer.Option(help="Trials in a job: auto or a number.")] = "auto",
    pool: Annotated[str, typer.Option(help="Which studies' jobs to take.")] = "default",
    allow_commands: Annotated[
        bool, typer.Option("--allow-commands", help="Also run studies of command lines.")
    ] = False,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE", help="Folder or package of tasks to run (the working directory)."
        ),
    ] = None,
    memory: Annotated[
        float | None, typer.Option(help="GiB that a training may hold (80 % of the machine's).")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a training.")] = None,
) -> None:
    """Train: one worker for each GPU of this machine, or one on the CPU."""
    settings = _settings_and_log()
    code = load_package("worker.main").run_workers(
        settings,
        gpus=gpus,
        lanes=lanes,
        pool=pool,
        allow_commands=allow_commands,
        tasks=tasks or (),
        memory=memory,
        threads=threads,
    )
    raise typer.Exit(code)


def dashboard(
    port: Annotated[int, typer.Option(help="Port on the loopback address; 0: a free one.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Address; another than loopback needs a password.")
    ] = "127.0.0.1",
    write: Annotated[bool, typer.Option("--write", help="Allow changes.")] = False,
) -> None:
    """Show all studies in optuna-dashboard, read-only unless --write."""
    from justright.settings import load_settings

    load_package("orchestrator.dashboard.server").run_dashboard(
        load_settings(), host=host, port=port, write=write
    )


def doctor(
    task: Annotated[str | None, typer.Argument(metavar="[TASK]")] = None, json: JSON = False
) -> None:
    """Check Redis, storage, GPUs, clocks and a task; say how to mend what is wrong."""
    from justright.cli.doctor import examine

    raise typer.Exit(examine(task, as_json=json))


def _settings_and_log() -> Settings:
    """The settings of a process that serves; it logs to stderr as they say."""
    from justright.logs import configure
    from justright.settings import load_settings

    settings = load_settings()
    configure(settings.log)
    return settings
