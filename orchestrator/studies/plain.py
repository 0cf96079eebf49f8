"""What is said of a study whose numbers cannot be relied on: nothing here looks at a loss."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import optuna

from justright.failures import Failure
from justright.lifecycle import StudyState
from justright.messages import Answer, Snapshot
from orchestrator.answers.answer import Result, count_ends
from orchestrator.studies.study_record import StudyRecord

log = logging.getLogger(__name__)


def give_up(study: optuna.Study, failure: Failure) -> Snapshot | None:
    """A study that cannot even be taken up has failed: write that down, and say it.

    None where there is nothing to say: it had ended, or its record itself cannot be read, as one of
    a newer release. Then it is left as it is.
    """
    try:
        record = StudyRecord(study)
    except (KeyError, ValueError):
        log.warning("the study %s cannot be read; it is left as it is", study.study_name)
        return None
    if not record.active:
        return None
    record.set_failure(failure)
    record.set_reason("failed")
    record.set_answer(no_answer(record, (), record.spent))
    record.set_state(StudyState.FAILED)
    return plain_snapshot(record)


def no_answer(record: StudyRecord, results: Sequence[Result], seconds: float) -> Answer:
    """The answer of a study that was broken off: how far it got, and no rate."""
    return Answer(
        study=record.name,
        state=StudyState.FAILED,
        reason=record.reason,
        best_lr=None,
        params={},
        loss=None,
        loss_interval=None,
        plateau=None,
        edge_of_stability=None,
        trials=count_ends(results),
        attempts=sum(result.attempt for result in results),
        epochs=sum(result.trained for result in results),
        full_trainings=None,
        seconds=round(seconds, 2),
        seed=record.spec.seed,
    )


def plain_snapshot(record: StudyRecord, note: str = "") -> Snapshot:
    """What clients are shown of it: the study, without its trials."""
    return Snapshot(
        study=record.name,
        submission=record.submission,
        spec=record.spec,
        state=record.state,
        task=record.spec.task.label,
        total=record.spec.trials,
        horizon=record.spec.epochs,
        answer=record.answer,
        failure=record.failure,
        note=note,
        refused=record.refused,
        seconds=record.spent,
        warnings=tuple(record.warnings),
    )
