"""How the trials of a study are trained side by side, as a worker has measured it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class LanePlan(BaseModel):
    """How the trials of a study are trained, as a worker has measured it."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    lanes: int = Field(default=1, ge=1)  #: Trials in a job.
    stack: int = Field(default=1, ge=1)  #: Trials that are fused, at most; 1: none are.
    fuse_from: int = Field(default=2, ge=2)  #: Fewer than that are trained one by one.
    speedup: float = Field(default=1.0, gt=0)  #: Steps of all lanes per second, over one by one.
    reason: str = ""  #: Why they are trained one by one.

    @property
    def text(self) -> str:
        """For people; "" where there is nothing to say."""
        if self.stack > 1:
            return f"{self.stack} lanes, together {self.speedup:g} times as fast as one by one"
        return f"trained one by one: {self.reason}" if self.reason else ""
