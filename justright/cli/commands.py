"""The front door: the ``justright`` command. Hands over to orchestrator and worker, lazily."""

from __future__ import annotations

import json as json_module
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from justright import __version__
from justright.cli.options import JSON, STUDY, StudyOptions, read_study, takes_study_options
from justright.cli.packages import load_package
from justright.errors import JustrightError

if TYPE_CHECKING:
    from justright.brokers.redis import RedisBroker
    from justright.messages import Snapshot

app = typer.Typer(
    name="justright",
    help="Finds the learning rate that is just right for a PyTorch model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)


@app.command()
@takes_study_options(workers="lanes")
def tune(
    options: StudyOptions,
    workers: Annotated[int | None, typer.Option(help="Workers (one a GPU, or one).")] = None,
    json: JSON = False,
) -> None:
    """Find the learning rate of TASK on this machine. Nothing to start, nothing to configure."""
    from justright.cli.tuning import run

    spec, count = read_study(options, workers)
    raise typer.Exit(_print_result(run(spec, workers=count, quiet=json), json))


def _print_result(snapshot: Snapshot, as_json: bool) -> int:
    """Print the answer of an ended study; returns the exit code."""
    from justright.cli.view import print_answer, print_failure, why_no_answer
    from justright.client.submit import exit_code

    code = exit_code(snapshot)
    if snapshot.failure is not None:
        print_failure(snapshot.failure)
    failed_outright = snapshot.failure is not None and not snapshot.trials
    if as_json and not failed_outright:
        print(_answer_as_json(snapshot))
    if code != 0 and not failed_outright and as_json:
        sys.stderr.write(f"no answer: {why_no_answer(snapshot)}\n")
    if not as_json and not failed_outright:
        print_answer(snapshot)
    if snapshot.state == "paused":
        sys.stderr.write(f"paused; to go on: justright resume {snapshot.study}\n")
    return code


def _answer_as_json(snapshot: Snapshot) -> str:
    return snapshot.answer.model_dump_json() if snapshot.answer else "null"


@app.command()
@takes_study_options()
def submit(
    options: StudyOptions,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to the answer.")] = False,
    json: JSON = False,
) -> None:
    """Put a study on a running service."""
    from justright.cli.view import make_view
    from justright.client.submit import await_leader, watch
    from justright.client.submit import submit as send

    spec, _ = read_study(options)
    service = _service(signs=True)
    submission = send(service, spec)
    if wait:
        broker = _service(patient=True)
        try:
            with make_view(json) as view:
                snapshot = watch(
                    broker, spec.name, submission=submission, show=view.show,
                    check=await_leader(broker),
                )  # fmt: skip
        except KeyboardInterrupt:
            sys.stderr.write(f"\n{spec.name} goes on; to end it: justright cancel {spec.name}\n")
            raise
        raise typer.Exit(_print_result(snapshot, json))
    if json:
        print(json_module.dumps({"study": spec.name, "state": "submitted"}))
    else:
        print(f"submitted {spec.name}; follow it with: justright status {spec.name} --watch")
    if service.leader() is None:
        sys.stderr.write(
            "no orchestrator is active: the study begins when there is one (justright "
            "orchestrator)\n"
        )


def _service(*, signs: bool = False, patient: bool = False) -> RedisBroker:
    """The Redis of the service that the settings name."""
    from justright.client.locate import service
    from justright.settings import load_settings

    return service(load_settings(), signs=signs, patient=patient)


@app.command()
def orchestrator() -> None:
    """Run the service: one is active, others stand by."""
    from justright.settings import load_settings

    _log_to_stderr()
    raise typer.Exit(load_package("orchestrator.main").run_orchestrator(load_settings()))


@app.command()
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
    from justright.settings import load_settings

    _log_to_stderr()
    code = load_package("worker.main").run_workers(
        load_settings(),
        gpus=gpus,
        lanes=lanes,
        pool=pool,
        allow_commands=allow_commands,
        tasks=tasks or (),
        memory=memory,
        threads=threads,
    )
    raise typer.Exit(code)


def _log_to_stderr() -> None:
    from justright.logs import configure
    from justright.settings import load_settings

    configure(load_settings().log)


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it.")] = False,
    json: JSON = False,
) -> None:
    """What runs, what waits, who works."""
    from rich.console import Console

    from justright.cli.view import (
        print_answer,
        print_failure,
        print_trial_failures,
        status_tables,
        trial_table,
    )
    from justright.client.locate import gather

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # in a pipe nothing need be cut
    while True:
        overview = gather(study)
        if json:
            shown = [snapshot.model_dump(mode="json") for snapshot in overview.snapshots]
            print(json_module.dumps(shown[0] if study else shown))
        elif study:
            snapshot = overview.snapshots[0]
            console.print(trial_table(snapshot, rows=10_000))
            if snapshot.note:
                console.print(snapshot.note)
            if snapshot.failure:
                print_failure(snapshot.failure)
            else:
                print_trial_failures(snapshot)
            print_answer(snapshot)
        else:
            console.print(status_tables(overview.snapshots, overview.workers, overview.leader))
        if not watch or not overview.active:
            return
        time.sleep(1.0)
        if console.is_terminal and not json:
            console.clear()


@app.command()
def best(study: STUDY, json: JSON = False) -> None:
    """The answer of a study; while it runs, the answer as of now."""
    from justright.cli.view import print_answer
    from justright.client.locate import gather
    from justright.client.submit import exit_code

    snapshot = gather(study).snapshots[0]
    if json:
        print(_answer_as_json(snapshot))
    else:
        print_answer(snapshot)
    raise typer.Exit(exit_code(snapshot))


@app.command()
def cancel(study: STUDY) -> None:
    """End a study now; its answer is what is known by then."""
    from justright.client.locate import command
    from justright.messages import Cancel

    command(Cancel(study=study))
    print(f"cancelled {study}")


@app.command()
def pause(study: STUDY) -> None:
    """Let a study rest: its trials stop at their next report, each with a checkpoint."""
    from justright.client.locate import command
    from justright.messages import Pause

    command(Pause(study=study))
    print(f"pausing {study}; to go on, today or another day: justright resume {study}")


@app.command()
def resume(study: STUDY, json: JSON = False) -> None:
    """Go on with a study that was paused, or whose tune was ended."""
    from justright.client.locate import at_rest, command
    from justright.messages import Resume

    kept = at_rest(study)
    if kept is None:
        command(Resume(study=study))
        print(f"resumed {study}; follow it with: justright status {study} --watch")
        return
    from justright.cli.tuning import run

    raise typer.Exit(_print_result(run(kept.spec, workers=None, quiet=json), json))


@app.command()
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


@app.command()
def doctor(
    task: Annotated[str | None, typer.Argument(metavar="[TASK]")] = None, json: JSON = False
) -> None:
    """Check Redis, storage, GPUs, clocks and a task; say how to mend what is wrong."""
    from justright.cli.doctor import examine

    raise typer.Exit(examine(task, as_json=json))


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
        sys.exit(130)
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
    from justright.brokers.redis import unavailable
    from justright.settings import load_settings

    return unavailable(load_settings().redis_url.get_secret_value(), error)


if __name__ == "__main__":
    main()
