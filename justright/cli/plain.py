"""What is shown in plain lines: each trial that ends, the answer in words, and what failed."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape

from justright.failures import Failure, FailureKind
from justright.lifecycle import FINISHED, TrialState
from justright.messages import Answer, Snapshot, TrialView


class LineView:
    """One line for each trial that ends."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._told: set[int] = set()
        self._note = self._plan = ""
        self._tenths, self._state = 0, ""
        self._warned = 0  # sentences that were printed

    def __enter__(self) -> LineView:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, snapshot: Snapshot) -> None:
        for text in snapshot.warnings[self._warned :]:  # also where only JSON is asked for
            print(f"warning: {text}", file=sys.stderr, flush=True)
        self._warned = len(snapshot.warnings)
        self._tell_progress(snapshot)
        if self._quiet:
            return
        if snapshot.note and snapshot.note != self._note:
            print(snapshot.note, file=sys.stderr, flush=True)
        self._note = snapshot.note
        plan = plan_text(snapshot)
        if plan and plan != self._plan:
            print(plan, file=sys.stderr, flush=True)
        self._plan = plan
        for trial in snapshot.trials:
            if trial.state in FINISHED and trial.number not in self._told:
                self._told.add(trial.number)
                print(_line(trial, snapshot), file=sys.stderr, flush=True)

    def _tell_progress(self, snapshot: Snapshot) -> None:
        """About every tenth of the expected work, also where only JSON is asked for."""
        tenths = int(snapshot.progress * _TENTHS)
        if tenths == self._tenths and snapshot.state == self._state:
            return
        self._tenths, self._state = tenths, snapshot.state
        if self._quiet or tenths:
            print(
                f"{snapshot.study}: {snapshot.state}, {snapshot.progress:.0%} of the expected work,"
                f" {snapshot.ended} trials ended, {snapshot.seconds:.0f} s",
                file=sys.stderr, flush=True,
            )  # fmt: skip


_TENTHS = 10
_ONE_RATE = 1.001  # from one end of a band to the other, at most, where it is one rate


def _line(trial: TrialView, snapshot: Snapshot) -> str:
    parts = [
        f"trial {trial.number:>3}",
        f"lr {trial.lr:<9.3g}",
        f"{state_text(trial):<8}",
        f"{snapshot.unit} {snapshot.place(trial.step)}",
    ]
    if trial.best is not None:
        parts.append(f"loss {trial.best:.4g}")
    if trial.replicate_of is not None:
        parts.append(f"seed {trial.seed} of trial {trial.replicate_of}")
    if trial.params:
        parts.append(settings_text(trial.params, "=", " "))
    why = trial.reason if trial.state != TrialState.COMPLETE else ""
    if trial.diagnosis or why:
        parts.append(f"({why_text(trial.diagnosis, why)})")
    if trial.failure is not None and trial.state != TrialState.COMPLETE:
        parts.append(f"({first_line(trial.failure)})")
    return "  ".join(parts)


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
    if answer.metric:
        out.print(f"read as the loss    {escape(answer.metric)}")
    if answer.plateau:
        low, high = answer.plateau
        band = f"{low:.3g} to {high:.3g}" if high / low > _ONE_RATE else "no other rate, for sure"
        out.print(f"as good from        {band}")
    if answer.uncertain:
        low, high = answer.uncertain
        out.print(f"the best may lie    {low:.3g} to {high:.3g}")
    if answer.edge_of_stability:
        out.print(f"diverges from       {answer.edge_of_stability:.3g}")
    if answer.importance:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in answer.importance.items())
        out.print(f"what mattered       {shares}")
    for sentence in answer.warnings:
        out.print(f"[yellow]warning[/]             {escape(sentence)}")
    for sentence in answer.advice:
        out.print(f"note                {escape(sentence)}")
    out.print(f"[dim]{summary(answer)}[/]")


def _others(answer: Answer) -> str:
    return escape(f", {settings_text(answer.params, ' ', ', ')}") if answer.params else ""


def summary(answer: Answer) -> str:
    """One line on what it took."""
    counts = answer.trials
    full = f" = {answer.full_trainings:g} full trainings" if answer.full_trainings else ""
    trained = f"{answer.trained}{full}"
    reason = f", ended by: {answer.reason}" if answer.reason else ""
    return (
        f"study {answer.study}: {counts['complete']} trials complete, {counts['pruned']} pruned "
        f"({counts['diverged']} diverged), {counts['failed']} failed; {trained} "
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
    total = max(len(snapshot.trials), snapshot.ended)
    diverged, failed = counts["diverged"], counts["failed"]
    if diverged and diverged + failed == total:
        low, high = snapshot.spec.lr_range
        every = f"every trial diverged ({diverged} of {total})"
        some = f"{diverged} of {total} trials diverged and {failed} failed"
        reason = next((t.reason for t in reversed(snapshot.trials) if t.diverged and t.reason), "")
        return (
            f"{some if failed else every}. The range {low:g}:{high:g} is too hot: try a lower one "
            "with --lr, and check the data for values that are not finite."
            + (f" The last one {reason}" if reason else "")
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
        print(f"trial {trial.number} {outcome} ({failure.kind}):", file=sys.stderr)
        print_failure(failure)


# -- words that tables and lines share ------------------------------------------------------


def plan_text(snapshot: Snapshot) -> str:
    """How its trials are trained; "" where there is nothing to say yet."""
    return snapshot.plan.text if snapshot.plan else ""


def why_text(diagnosis: str, reason: str) -> str:
    """What is the matter with a trial, and why it ended, without saying one thing twice."""
    return reason if reason.startswith(diagnosis) else ", ".join(filter(None, (diagnosis, reason)))


def first_line(failure: Failure) -> str:
    return failure.message.partition("\n")[0]


def state_text(trial: TrialView) -> str:
    return "diverged" if trial.diverged else trial.state.value


def settings_text(params: Mapping[str, object], between: str, after: str) -> str:
    """What a trial has beside its rate, on one line."""
    return after.join(f"{key}{between}{setting_text(value)}" for key, value in params.items())


def setting_text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
