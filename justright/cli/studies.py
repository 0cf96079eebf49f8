"""The commands about studies: ask for one, watch it, read its answer, let it rest, end it."""

from __future__ import annotations

import json as json_module
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from justright.cli.options import JSON, STUDY, StudyOptions, read_study, takes_study_options

if TYPE_CHECKING:
    from justright.messages import Snapshot

_WATCH_EVERY = 1.0  # seconds between two looks of ``status --watch``
_PIPE_WIDTH = 200  # columns where there is no terminal: in a pipe nothing need be cut


@takes_study_options(workers="lanes")
def tune(
    options: StudyOptions,
    workers: Annotated[int | None, typer.Option(help="Workers (one a GPU, or one).")] = None,
    json: JSON = False,
) -> None:
    """Find the learning rate of TASK on this machine. Nothing to start, nothing to configure."""
    from justright.cli.tuning import run

    asked = read_study(options, workers)
    raise typer.Exit(_print_result(run(asked.spec, workers=asked.workers, quiet=json), json))


@takes_study_options()
def submit(
    options: StudyOptions,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to the answer.")] = False,
    json: JSON = False,
) -> None:
    """Put a study on a running service."""
    from justright.cli.live import make_view
    from justright.client.asking import NameTaken
    from justright.client.locate import connect_service
    from justright.client.submit import await_leader, watch
    from justright.client.submit import submit as send
    from justright.settings import load_settings

    asked = read_study(options)
    settings = load_settings()
    service = connect_service(settings, signs=True)
    while True:
        spec = asked.spec
        try:
            submission = send(service, spec, fresh=asked.fresh)
            break
        except NameTaken:
            asked = read_study(options)  # another name is made up
    if wait:
        broker = connect_service(settings, patient=True)
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


def status(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it.")] = False,
    json: JSON = False,
) -> None:
    """What runs, what waits, who works."""
    from rich.console import Console

    from justright.cli.live import status_tables, trial_table
    from justright.cli.plain import print_answer, print_failure, print_trial_failures
    from justright.client.locate import gather

    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    while True:
        overview = gather(study)
        if json:
            shown = [snapshot.model_dump(mode="json") for snapshot in overview.snapshots]
            print(json_module.dumps(shown[0] if study else shown))
        elif study:
            snapshot = overview.snapshots[0]
            console.print(trial_table(snapshot))
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
        time.sleep(_WATCH_EVERY)
        if console.is_terminal and not json:
            console.clear()


def best(study: STUDY, json: JSON = False) -> None:
    """The answer of a study; while it runs, the answer as of now."""
    from justright.cli.plain import print_answer
    from justright.client.locate import gather
    from justright.client.submit import exit_code

    snapshot = gather(study).snapshots[0]
    if json:
        print(_answer_as_json(snapshot))
    else:
        print_answer(snapshot)
    raise typer.Exit(exit_code(snapshot))


def list_(json: JSON = False) -> None:
    """The studies there are: of this machine's tunes, and of the service."""
    from rich.console import Console

    from justright.cli.live import study_table
    from justright.client.locate import gather

    snapshots = gather(None).snapshots
    if json:
        print(json_module.dumps([_summary(snapshot) for snapshot in snapshots]))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    console.print(study_table(snapshots) if snapshots else "no studies yet")


def _summary(snapshot: Snapshot) -> dict[str, object]:
    """A study in a line of ``list --json``."""
    answer = snapshot.answer
    return {
        "study": snapshot.study,
        "state": snapshot.state.value,
        "task": snapshot.task,
        "trials": snapshot.ended,
        "best_lr": answer.best_lr if answer else None,
        "loss": answer.loss if answer else None,
        "seconds": round(snapshot.seconds, 2),
    }


def delete(study: STUDY) -> None:
    """Remove a study that has ended, with its trials and checkpoints."""
    from justright.client.locate import delete as remove

    remove(study)
    print(f"deleted {study}")


def cancel(study: STUDY) -> None:
    """End a study now; its answer is what is known by then."""
    from justright.client.asking import new_id
    from justright.client.locate import send_command
    from justright.messages import Cancel

    send_command(Cancel(id=new_id(), study=study))
    print(f"cancelled {study}")


def pause(study: STUDY) -> None:
    """Let a study rest: its trials stop at their next report, each with a checkpoint."""
    from justright.client.asking import new_id
    from justright.client.locate import send_command
    from justright.messages import Pause

    send_command(Pause(id=new_id(), study=study))
    print(f"pausing {study}; to go on, today or another day: justright resume {study}")


def resume(study: STUDY, json: JSON = False) -> None:
    """Go on with a study that was paused, or whose tune was ended."""
    from justright.client.asking import new_id
    from justright.client.locate import find_resting, send_command
    from justright.messages import Resume

    kept = find_resting(study)
    if kept is None:
        send_command(Resume(id=new_id(), study=study))
        print(f"resumed {study}; follow it with: justright status {study} --watch")
        return
    from justright.cli.tuning import run

    raise typer.Exit(_print_result(run(kept.spec, workers=None, quiet=json), json))


def _print_result(snapshot: Snapshot, as_json: bool) -> int:
    """Print the answer of an ended study; returns the exit code."""
    from justright.cli.plain import print_answer, print_failure, why_no_answer
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
