"""What people see: a live table on a terminal, plain lines elsewhere, the answer at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from justright.failures import Failure, FailureKind
from justright.lifecycle import FINISHED, TrialState
from justright.messages import Answer, Snapshot, TrialView, WorkerInfo

_BARS = "▁▂▃▄▅▆▇█"
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


class LineView:
    """One line for each trial that ends."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._told: set[int] = set()
        self._note = self._plan = ""

    def __enter__(self) -> LineView:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, snapshot: Snapshot) -> None:
        if self._quiet:
            return
        if snapshot.note and snapshot.note != self._note:
            print(snapshot.note, file=sys.stderr, flush=True)
        self._note = snapshot.note
        plan = _plan(snapshot)
        if plan and plan != self._plan:
            print(plan, file=sys.stderr, flush=True)
        self._plan = plan
        for trial in snapshot.trials:
            if trial.state in FINISHED and trial.number not in self._told:
                self._told.add(trial.number)
                print(_line(trial, snapshot), file=sys.stderr, flush=True)


def _plan(snapshot: Snapshot) -> str:
    """How its trials are trained; "" where there is nothing to say yet."""
    return snapshot.plan.text if snapshot.plan else ""


def _line(trial: TrialView, snapshot: Snapshot) -> str:
    parts = [
        f"trial {trial.number + 1:>3}/{snapshot.total}",
        f"lr {trial.lr:<9.3g}",
        f"{_state(trial):<8}",
        f"epoch {trial.step}/{snapshot.horizon or '?'}",
    ]
    if trial.best is not None:
        parts.append(f"loss {trial.best:.4g}")
    if trial.params:
        parts.append(_settings(trial.params, "=", " "))
    why = trial.reason if trial.state != TrialState.COMPLETE else ""
    if trial.diagnosis or why:
        parts.append(f"({_why(trial.diagnosis, why)})")
    if trial.failure is not None and trial.state != TrialState.COMPLETE:
        parts.append(f"({_first_line(trial.failure)})")
    return "  ".join(parts)


def _why(diagnosis: str, reason: str) -> str:
    """What is the matter with a trial, and why it ended, without saying one thing twice."""
    return reason if reason.startswith(diagnosis) else ", ".join(filter(None, (diagnosis, reason)))


def _one_line(text: str) -> Text:
    """As much of it as a column has room for."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def _first_line(failure: Failure) -> str:
    return failure.message.partition("\n")[0]


def _state(trial: TrialView) -> str:
    return "diverged" if trial.diverged else trial.state.value


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
            self._progress, console=self._console, refresh_per_second=8, transient=False
        )

    def __enter__(self) -> TableView:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, snapshot: Snapshot) -> None:
        ended = sum(trial.state in FINISHED for trial in snapshot.trials)
        self._progress.update(
            self._task,
            description=f"[bold]{snapshot.study}[/] {snapshot.state.value}",
            completed=ended,
            total=snapshot.total,
            count=f"{ended}/{snapshot.total} trials",
        )
        rows = max(5, self._console.height - 8)
        parts: list[RenderableType] = [trial_table(snapshot, rows), self._progress]
        if _plan(snapshot):
            parts.append(Text(_plan(snapshot), style="dim"))
        if snapshot.note:
            parts.append(Text(snapshot.note, style="yellow"))
        self._live.update(Group(*parts))


def trial_table(snapshot: Snapshot, rows: int) -> Table:
    """The best trial, those that run, and the latest that ended, by number."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    beside = sorted({name for trial in snapshot.trials for name in trial.params})
    for name in ("trial", "lr", *beside, "state", "epoch", "loss", "best"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    table.add_column("curve", no_wrap=True)
    table.add_column("why", min_width=8)  # the one column that gives way
    best = best_trial(snapshot.trials)
    for trial in _chosen(snapshot.trials, best, rows):
        style = "bold green" if trial is best else _STYLES[trial.state]
        why = _why(trial.diagnosis, trial.reason)
        if trial.failure is not None and trial.state != TrialState.COMPLETE:
            why = _first_line(trial.failure)
        table.add_row(
            f"{'★ ' if trial is best else ''}{trial.number + 1}",
            f"{trial.lr:.3g}",
            *(_setting(trial.params.get(name, "")) for name in beside),
            _state(trial),
            f"{trial.step}/{snapshot.horizon or '?'}",
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


def _chosen(trials: Sequence[TrialView], best: TrialView | None, rows: int) -> Sequence[TrialView]:
    first = [t for t in trials if t is best or t.state not in FINISHED]
    rest = [t for t in reversed(trials) if t.state in FINISHED and t is not best]
    chosen = (first + rest)[:rows]
    return sorted(chosen, key=lambda trial: trial.number)


def sparkline(losses: Sequence[float | None], width: int = 20) -> str:
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


def print_answer(snapshot: Snapshot, console: Console | None = None) -> None:
    """The answer for people, on stdout."""
    out = console or Console(highlight=False, soft_wrap=True)
    answer = snapshot.answer
    if answer is None or answer.best_lr is None:
        why = escape(why_no_answer(snapshot))
        out.print(f"[bold]no answer[/] for study {snapshot.study}: {why}")
        return
    out.print(f"best learning rate  [bold green]{answer.best_lr:.4g}[/]{_others(answer)}")
    interval = ""
    if answer.loss_interval:
        interval = f"  (95 %: {answer.loss_interval[0]:.4g} to {answer.loss_interval[1]:.4g})"
    loss = (
        "not known: no training has come to its end"
        if answer.loss is None
        else (f"{answer.loss:.4g}{interval}")
    )
    out.print(f"loss                {loss}")
    if answer.plateau:
        out.print(f"as good from        {answer.plateau[0]:.3g} to {answer.plateau[1]:.3g}")
    if answer.edge_of_stability:
        out.print(f"diverges from       {answer.edge_of_stability:.3g}")
    if answer.importance:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in answer.importance.items())
        out.print(f"what mattered       {shares}")
    for sentence in answer.advice:
        out.print(f"note                {escape(sentence)}")
    out.print(f"[dim]{summary(answer)}[/]")


def _others(answer: Answer) -> str:
    return escape(f", {_settings(answer.params, ' ', ', ')}") if answer.params else ""


def _settings(params: Mapping[str, Any], between: str, after: str) -> str:
    """What a trial has beside its rate, on one line."""
    return after.join(f"{key}{between}{_setting(value)}" for key, value in params.items())


def _setting(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def summary(answer: Answer) -> str:
    """One line on what it took."""
    counts = answer.trials
    full = f" = {answer.full_trainings:g} full trainings" if answer.full_trainings else ""
    reason = f", ended by: {answer.reason}" if answer.reason else ""
    return (
        f"study {answer.study}: {counts['complete']} trials complete, {counts['pruned']} pruned "
        f"({counts['diverged']} diverged), {counts['failed']} failed; {answer.epochs} epochs{full} "
        f"in {answer.seconds:.1f} s{reason}"
    )


def why_no_answer(snapshot: Snapshot) -> str:
    """Why a study has none, and what to do."""
    answer = snapshot.answer
    if snapshot.failure is not None:
        return snapshot.failure.message
    if answer is None or not snapshot.trials:
        return "nothing has been trained yet."
    counts = answer.trials
    total, diverged, failed = len(snapshot.trials), counts["diverged"], counts["failed"]
    if diverged and diverged + failed == total:
        low, high = snapshot.spec.lr_range
        every = f"every trial diverged ({diverged} of {total})"
        some = f"{diverged} of {total} trials diverged and {failed} failed"
        return (
            f"{some if failed else every}. The range {low:g}:{high:g} is too hot: try a lower one "
            "with --lr, and check the data for values that are not finite."
        )
    if failed:
        last = next((t.failure for t in reversed(snapshot.trials) if t.failure), None)
        why = f" The last one: {last.message}" if last else ""
        return f"{failed} of {total} trials failed, none completed.{why}"
    return "no trial has completed."


def print_failure(failure: Failure) -> None:
    """The user's own traceback, or our message, on stderr."""
    if failure.traceback:
        if failure.kind != FailureKind.USER:  # else its last line says it
            print(f"error: {failure.message}", file=sys.stderr)
        print(failure.traceback, file=sys.stderr)
        return
    print(f"error: {failure.message}", file=sys.stderr)
    if failure.output:
        print(f"Its last output:\n{failure.output}", file=sys.stderr)


def print_trial_failures(snapshot: Snapshot) -> None:
    """Why trials failed, each reason once, on stderr."""
    told: set[tuple[str, str]] = set()
    for trial in snapshot.trials:
        failure = trial.failure
        if failure is None or (failure.message, failure.traceback) in told:
            continue
        told.add((failure.message, failure.traceback))
        outcome = "failed" if trial.state == TrialState.FAILED else "failed once"
        print(f"trial {trial.number + 1} {outcome} ({failure.kind}):", file=sys.stderr)
        print_failure(failure)


def _note(snapshot: Snapshot) -> str:
    """What there is to say of a study: what it waits for, why it failed, how it is trained."""
    failure = _first_line(snapshot.failure) if snapshot.failure else ""
    return snapshot.note or failure or _plan(snapshot)


def status_tables(
    snapshots: Sequence[Snapshot], workers: Sequence[WorkerInfo], leader: str | None
) -> RenderableType:
    """All studies and who works."""
    studies = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("study", "state", "task", "trials", "best lr", "loss", "note"):
        studies.add_column(name, no_wrap=name != "note", min_width=8 if name == "note" else None)
    for snapshot in snapshots:
        answer = snapshot.answer
        found = answer is not None and answer.best_lr is not None
        ended = sum(trial.state in FINISHED for trial in snapshot.trials)
        studies.add_row(
            snapshot.study,
            snapshot.state.value,
            Text(snapshot.task),
            f"{ended}/{snapshot.total}",
            f"{answer.best_lr:.4g}" if answer and found else "",
            f"{answer.loss:.4g}" if answer and answer.loss is not None else "",
            _one_line(_note(snapshot)),
        )
    people = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("worker", "pool", "device", "lanes", "works on"):
        people.add_column(name, no_wrap=True)
    for worker in workers:
        doing = worker.study or "idle"
        people.add_row(
            Text(worker.name), worker.pool, worker.device, str(worker.lanes or "auto"), doing
        )
    service = f"orchestrator  {leader}" if leader else "no orchestrator is active"
    empty = Text("no studies yet", style="dim")
    return Group(
        studies if snapshots else empty,
        Text(),
        people if workers else Text("no workers", style="dim"),
        Text(service, style="dim"),
    )
