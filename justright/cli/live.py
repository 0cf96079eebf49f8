"""The live table of a study on a terminal, and the tables of ``status``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from justright.cli.plain import (
    LineView,
    first_line,
    plan_text,
    setting_text,
    state_text,
    why_text,
)
from justright.lifecycle import FINISHED, TrialState
from justright.messages import Snapshot, TrialView, WorkerInfo

_BARS = "▁▂▃▄▅▆▇█"
_CURVE = 20  # characters of a curve
_REFRESHES = 8  # a second
_FEWEST_ROWS = 5  # of the live table, however low the terminal is
_ROWS_BESIDE = 8  # that its head, the bar and the notes may take
_NARROWEST = 8  # characters of the one column that gives way
_STYLES = {
    TrialState.QUEUED: "dim",
    TrialState.RUNNING: "bold cyan",
    TrialState.PAUSED: "yellow",
    TrialState.COMPLETE: "green",
    TrialState.PRUNED: "dim",
    TrialState.FAILED: "bold red",
}


class View(Protocol):
    """Shows a study as it goes on. Used as a context; ``show`` is called for each change."""

    def __enter__(self) -> View: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, snapshot: Snapshot) -> None: ...


def make_view(quiet: bool) -> View:
    """A table where stderr is a terminal; lines where it is piped, or nothing if ``quiet``."""
    if sys.stderr.isatty():
        return TableView()
    return LineView(quiet)


class TableView:
    """A live table of trials with the loss as it falls, and a bar with the time left."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task("starting", total=None, count="")
        self._live = Live(
            self._progress, console=self._console, refresh_per_second=_REFRESHES, transient=False
        )

    def __enter__(self) -> TableView:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, snapshot: Snapshot) -> None:
        ended = snapshot.ended
        self._progress.update(
            self._task,
            description=f"[bold]{snapshot.study}[/] {snapshot.state.value}",
            completed=snapshot.progress,
            total=1.0,
            count=f"{snapshot.progress:.0%}, {ended} trials ended",
        )
        rows = max(_FEWEST_ROWS, self._console.height - _ROWS_BESIDE)
        parts: list[RenderableType] = [trial_table(snapshot, rows), self._progress]
        if plan_text(snapshot):
            parts.append(Text(plan_text(snapshot), style="dim"))
        parts += [Text(f"warning: {text}", style="yellow") for text in snapshot.warnings]
        if snapshot.note:
            parts.append(Text(snapshot.note, style="yellow"))
        self._live.update(Group(*parts))


def trial_table(snapshot: Snapshot, rows: int | None = None) -> Table:
    """By number: all trials, or as many: the best, those that run, the latest that ended."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    beside = sorted({name for trial in snapshot.trials for name in trial.params})
    for name in ("trial", "lr", *beside, "state", snapshot.unit, "loss", "best"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    table.add_column("curve", no_wrap=True)
    table.add_column("why", min_width=_NARROWEST)
    best = best_trial(snapshot.trials)
    for trial in _chosen(snapshot.trials, best, rows):
        style = "bold green" if trial is best else _STYLES[trial.state]
        why = why_text(trial.diagnosis, trial.reason)
        if trial.replicate_of is not None:
            why = f"seed {trial.seed} of trial {trial.replicate_of}" + (f"; {why}" if why else "")
        if trial.failure is not None and trial.state != TrialState.COMPLETE:
            why = first_line(trial.failure)
        table.add_row(
            f"{'★ ' if trial is best else ''}{trial.number}",
            f"{trial.lr:.3g}",
            *(setting_text(trial.params.get(name, "")) for name in beside),
            state_text(trial),
            snapshot.place(trial.step),
            "" if trial.loss is None else f"{trial.loss:.4g}",
            "" if trial.best is None else f"{trial.best:.4g}",
            sparkline(trial.losses),
            _one_line(why),
            style=style,
        )
    return table


def best_trial(trials: Sequence[TrialView]) -> TrialView | None:
    """The completed trial with the lowest loss."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.best is not None]
    return min(complete, key=lambda trial: trial.best or 0.0, default=None)


def _chosen(
    trials: Sequence[TrialView], best: TrialView | None, rows: int | None
) -> Sequence[TrialView]:
    first = [t for t in trials if t is best or t.state not in FINISHED]
    rest = [t for t in reversed(trials) if t.state in FINISHED and t is not best]
    chosen = (first + rest)[:rows]
    return sorted(chosen, key=lambda trial: trial.number)


def sparkline(losses: Sequence[float | None], width: int = _CURVE) -> str:
    """The curve of a loss in block characters; "×" where it was not finite."""
    step = max(1, -(-len(losses) // width))
    shown = losses[::-1][::step][::-1]
    finite = [loss for loss in shown if loss is not None]
    if not finite:
        return "×" * len(shown)
    low, high = min(finite), max(finite)
    return "".join("×" if loss is None else _bar(loss, low, high) for loss in shown)


def _bar(loss: float, low: float, high: float) -> str:
    span = high / 2 - low / 2  # in halves, which cannot overflow
    share = (loss / 2 - low / 2) / span if span else 0.0
    return _BARS[min(round(share * (len(_BARS) - 1)), len(_BARS) - 1)]


def _note(snapshot: Snapshot) -> str:
    """What there is to say of a study: what it waits for, why it failed, how it is trained."""
    failure = first_line(snapshot.failure) if snapshot.failure else ""
    return snapshot.note or failure or plan_text(snapshot)


def study_table(snapshots: Sequence[Snapshot]) -> Table:
    """A line for each study."""
    studies = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("study", "state", "task", "trials", "best lr", "loss", "note"):
        gives_way = name == "note"
        studies.add_column(name, no_wrap=not gives_way, min_width=_NARROWEST if gives_way else None)
    for snapshot in snapshots:
        answer = snapshot.answer
        found = answer is not None and answer.best_lr is not None
        ended = snapshot.ended
        studies.add_row(
            snapshot.study,
            snapshot.state.value,
            Text(snapshot.task),
            f"{ended}/{snapshot.total}",
            f"{answer.best_lr:.4g}" if answer and found else "",
            f"{answer.loss:.4g}" if answer and answer.loss is not None else "",
            _one_line(_note(snapshot)),
        )
    return studies


def status_tables(
    snapshots: Sequence[Snapshot], workers: Sequence[WorkerInfo], leader: str | None
) -> RenderableType:
    """All studies and who works."""
    people = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("worker", "pool", "device", "lanes", "works on"):
        people.add_column(name, no_wrap=True)
    for worker in workers:
        doing = worker.study or "idle"
        if worker.refusing and not worker.study:
            doing = "nothing: refuses"
        people.add_row(
            Text(worker.name), worker.pool, worker.device, str(worker.lanes or "auto"), doing
        )
    service = f"orchestrator  {leader}" if leader else "no orchestrator is active"
    empty = Text("no studies yet", style="dim")
    return Group(
        study_table(snapshots) if snapshots else empty,
        Text(),
        people if workers else Text("no workers", style="dim"),
        *(Text(f"{w.name} refuses: {w.refusing}", style="red") for w in workers if w.refusing),
        Text(service, style="dim"),
    )


def _one_line(text: str) -> Text:
    """As much of it as a column has room for."""
    return Text(text, no_wrap=True, overflow="ellipsis")
