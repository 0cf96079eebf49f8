"""From the orchestrator to a worker: jobs, and what their trials shall do."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from justright.lane_plan import LanePlan
from justright.messages.base import DATA, STEPS_VERSION, Message
from justright.spec import Scalar, TaskRef


class TrialWork(BaseModel):
    """One trial of a job: what to train, and from where."""

    model_config = DATA

    number: int = Field(ge=0)
    lr: float = Field(gt=0, allow_inf_nan=False)
    params: dict[str, Scalar] = Field(default_factory=dict)  #: Anything searched beside the rate.
    seed: int = Field(ge=0)
    attempt: int = Field(ge=1)


class _Job(Message):
    """What all jobs say of themselves and their study."""

    model_config = ConfigDict(**DATA, populate_by_name=True)

    type: Literal["job"] = "job"
    id: str
    study: str
    task: TaskRef
    checkpoint_prefix: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]*$",
        validation_alias="place",  # its name on the wire: jobs of the first edition have it
        serialization_alias="place",
    )
    """The folder of the study's checkpoints within the artifacts; "": it keeps none."""
    stall: float | None = Field(default=None, gt=0)  #: Seconds without a sign of life to wait.

    @model_validator(mode="before")
    @classmethod
    def _of_steps(cls, fields: Any) -> Any:
        """A job that counts in steps is of a version that a worker of the first edition refuses: it
        would take them for epochs."""
        if isinstance(fields, dict) and (fields.get("marks") or fields.get("steps")):
            return {"v": STEPS_VERSION} | fields
        return fields

    def encode(self) -> str:
        return self.model_dump_json(by_alias=True)


class TrainJob(_Job):
    """Train these trials until a step, each from its last checkpoint if it has one."""

    epochs: int | None = Field(default=None, ge=1)  #: The horizon; None: the task's own ...
    steps: int | None = Field(default=None, ge=1)  #: ... in optimizer steps.
    until: int | None = Field(default=None, ge=1)  #: The step to stop at; None: the horizon.
    marks: tuple[int, ...] = ()
    """Optimizer steps at which losses are taken. None: at the end of each epoch, and epochs are
    what ``until`` and all reports count, as in the first edition."""
    seed: int = 0
    metric: str | None = None  #: The name under which a program prints its loss.
    known_metric: str = ""  #: The one by which the study's trainings were read so far.
    trials: tuple[TrialWork, ...] = Field(min_length=1)
    plan: LanePlan = LanePlan()  #: How to train them.
    sources: dict[str, str] = Field(default_factory=dict)  #: Fingerprints of the code to train.


class InspectJob(_Job):
    """Look at the task and describe it."""

    epochs: int | None = Field(default=None, ge=1)  #: The horizon; None: the task's own ...
    steps: int | None = Field(default=None, ge=1)  #: ... in optimizer steps.
    seed: int = 0
    search: tuple[str, ...] = ()  #: Settings that will be searched beside the rate.
    lanes: int | None = Field(default=None, ge=1)  #: Plan for so many; None: measure.
    most: int = Field(default=1, ge=1)  #: More lanes than that would stay empty.


class TidyJob(_Job):
    """Remove the study's checkpoints: it has ended."""

    tidy: Literal[True] = True


Job = TrainJob | InspectJob | TidyJob


def kind_of_job(fields: dict[str, Any]) -> str:
    """Which of the three jobs it is: on the wire all are of type "job"."""
    if fields.get("tidy"):
        return "tidy"
    return "inspect" if fields.get("trials", []) == [] else "train"


class Decision(Message):
    """What a trial shall do at its next report."""

    type: Literal["decision"] = "decision"
    attempt: int
    #: "leave" is a worker's own, told by its parent: give the trial back.
    action: Literal["stop", "pause", "leave"]
    reason: str
