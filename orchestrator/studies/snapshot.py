"""What clients are shown of a study at work."""

from __future__ import annotations

from justright.lifecycle import StudyState, TrialState
from justright.messages import Answer, Snapshot
from orchestrator.studies.study_record import StudyRecord
from orchestrator.studies.trials import Trials


def make_snapshot(
    record: StudyRecord,
    trials: Trials,
    answer: Answer,
    *,
    total: int,
    horizon: int | None,
    seconds: float,
    progress: float,
    note: str = "",
) -> Snapshot:
    """All of it; of very many trials those that tell most.

    ``note``: what it waits for, where somebody else knows that.
    """
    shown = trials.shown()
    diagnoses = trials.diagnoses(shown)
    return Snapshot(
        study=record.name,
        submission=record.submission,
        spec=record.spec,
        state=record.state,
        task=record.spec.task.label,
        total=total,
        horizon=horizon,
        epoch_steps=record.inspection.epoch_steps if record.inspection else 1.0,
        counts_epochs=record.counts_epochs,
        trials=tuple(trial.view(diagnoses[trial.number]) for trial in shown),
        answer=answer,
        failure=record.failure,
        note=note or _rest(record, trials),
        refused=record.refused,
        seconds=seconds,
        progress=progress,
        warnings=tuple(record.warnings),
        plan=record.inspection.plan if record.inspection else None,
    )


def _rest(record: StudyRecord, trials: Trials) -> str:
    """What a study that trains nothing waits for."""
    if record.state == StudyState.INSPECTING and record.job:
        return "a worker inspects the task: it loads its code and data, and tries a few steps"
    if record.state != StudyState.PAUSED:
        return ""
    running = sum(trial.state == TrialState.RUNNING for trial in trials.active())
    if running:
        return f"pausing: {running} trials train to their next report"
    return f"paused; to go on: justright resume {record.name}"
