"""What a study wants done outside of the ledger, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field

from justright.messages import Decision


@dataclass(frozen=True)
class Effects:
    """What has become due since the last ``drain``. The ledger says the same, so that what a kill
    keeps from being let out becomes due again; so it may be let out twice, and only after the
    ledger was committed."""

    withdrawn: tuple[str, ...] = ()  #: Jobs that nobody has begun: they are to leave the queue.
    revoked: tuple[str, ...] = ()  #: Jobs that were taken back: whoever trains them is to stop.
    decisions: dict[int, Decision] = field(default_factory=dict)  #: By the trial's number.
    tidy: bool = False  #: The study has ended: what its trials have left is to be removed.
