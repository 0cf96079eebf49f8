"""What the ledger says of a study itself: read once, and written with each change."""

from __future__ import annotations

from typing import Any

import optuna

from justright.failures import Failure
from justright.lifecycle import STUDY_ACTIVE, STUDY_FINISHED, StudyState
from justright.messages import Answer, Inspection
from justright.spec import StudySpec
from orchestrator.storage import ledger

_REFUSED_KEPT = 8  # refused submissions that are remembered
_MOST_WARNINGS = 20  # more are not read


class StudyRecord:
    """The study's own facts. Whoever changes one calls a method, which writes it at once."""

    def __init__(self, study: optuna.Study) -> None:
        attributes = study.user_attrs
        self._study = study
        self.spec = StudySpec.model_validate(attributes[ledger.SPEC])
        self.name = self.spec.name
        self.state = StudyState(attributes[ledger.STATE])
        self.reason: str | None = attributes.get(ledger.REASON)
        self.submission: str = attributes.get(ledger.SUBMISSION, "")
        # The name alone would lead a new study to the checkpoints of one that was deleted.
        self.checkpoint_prefix = f"{self.name}-{attributes.get(ledger.PLACE, 'x')}"
        self.job: str = attributes.get(ledger.JOB, "")  #: The one that looks at the task.
        self.spent: float = attributes.get(ledger.SPENT, 0.0)
        self.hint: float | None = attributes.get(ledger.HINT)
        self.untold = attributes.get(ledger.TIDIED) is False  #: Of its end.
        self.failure: Failure | None = None
        if attributes.get(ledger.FAILURE) is not None:
            self.failure = Failure.model_validate(attributes[ledger.FAILURE])
        self.range: tuple[float, float] | None = None  #: Of rates, where an objective named one.
        if ledger.RANGE in attributes:
            low, high = attributes[ledger.RANGE]
            self.range = (low, high)
        self.answer: Answer | None = None  #: The final one.
        if ledger.ANSWER in attributes and not self.active:
            self.answer = Answer.model_validate(attributes[ledger.ANSWER])
        self.inspection: Inspection | None = None
        if ledger.INSPECTION in attributes:
            self.inspection = Inspection.model_validate(attributes[ledger.INSPECTION])
        self.metric: str = attributes.get(ledger.METRIC, "")
        """The name by which a program's losses are read; "": not known yet, or it has none."""
        self.warnings: list[str] = list(attributes.get(ledger.WARNINGS, ()))
        self.refused: dict[str, str] = {}  #: Refused submissions, and why. In memory only.
        self.version = 0  #: Counts what clients are shown of it.

    @property
    def working(self) -> bool:
        """Whether something new may be trained."""
        return self.state in STUDY_ACTIVE

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.state not in STUDY_FINISHED

    @property
    def lr_range(self) -> tuple[float, float]:
        """The rates that are searched."""
        return self.range or self.spec.lr_range

    @property
    def counts_epochs(self) -> bool:
        """Whether its user counts a training in epochs, not in steps."""
        return self.inspection is None or self.inspection.epochs is not None

    # -- changes --------------------------------------------------------------------------------

    def set_state(self, state: StudyState) -> None:
        self.state = state
        self.version += 1
        self._write(ledger.STATE, state)

    def set_job(self, job: str) -> None:
        """The job that looks at the task; "": none."""
        self.job = job
        self._write(ledger.JOB, job)

    def forget_job(self) -> None:
        """Nobody looks at the task at present. Not written: what a kill finds is looked for."""
        self.job = ""

    def set_inspection(self, inspection: Inspection) -> None:
        self.inspection = inspection
        self._write(ledger.INSPECTION, inspection.model_dump(mode="json"))
        for text in inspection.warnings:
            self.warn(text)

    def set_range(self, lr_range: tuple[float, float]) -> None:
        self.range = lr_range
        self._write(ledger.RANGE, list(lr_range))

    def set_spent(self, seconds: float) -> None:
        self.spent = seconds
        self._write(ledger.SPENT, seconds)

    def set_reason(self, reason: str | None) -> None:
        self.reason = reason
        self._write(ledger.REASON, reason)

    def set_failure(self, failure: Failure | None) -> None:
        self.failure = failure
        self._write(ledger.FAILURE, failure and failure.model_dump(mode="json"))

    def set_answer(self, answer: Answer) -> None:
        """The final answer."""
        self.answer = answer
        self._write(ledger.ANSWER, answer.model_dump(mode="json"))

    def reopen(self) -> None:
        """It goes on after its end: no reason, failure or answer holds any more."""
        self.answer = None
        self.set_reason(None)
        self.set_failure(None)

    def set_untold(self, untold: bool) -> None:
        """Whether somebody has still to hear of its end."""
        self.untold = untold
        self._write(ledger.TIDIED, not untold)

    def set_submission(self, submission: str, spec: StudySpec) -> None:
        """The latest submission, with its stop rules."""
        self.submission = submission
        self._write(ledger.SUBMISSION, submission)
        self.version += 1
        self.spec = spec
        self._write(ledger.SPEC, spec.model_dump(mode="json"))

    def set_metric(self, metric: str) -> None:
        """The first name that was read is that of all."""
        if metric and not self.metric:
            self.metric = metric
            self._write(ledger.METRIC, metric)

    def warn(self, text: str) -> None:
        """Note what its user should hear of; each sentence once."""
        if text in self.warnings or len(self.warnings) >= _MOST_WARNINGS:
            return
        self.warnings.append(text)
        self.version += 1
        self._write(ledger.WARNINGS, self.warnings)

    def refuse(self, submission: str, why: str) -> None:
        """Tell a client that its submission was not taken. Kept for a while."""
        self.refused[submission] = why
        while len(self.refused) > _REFUSED_KEPT:
            del self.refused[next(iter(self.refused))]
        self.version += 1

    def _write(self, key: str, value: Any) -> None:
        self._study.set_user_attr(key, value)


def has_ended(study: optuna.Study) -> bool:
    """Whether a study wants nothing more, and all have heard of its end."""
    attributes = study.user_attrs
    told = attributes.get(ledger.TIDIED) is not False
    return attributes.get(ledger.STATE) in STUDY_FINISHED and told
