"""Which policy a study gets."""

from __future__ import annotations

import math

import optuna
from optuna.storages import BaseStorage

from justright.messages import Inspection
from justright.spec import StudySpec
from orchestrator.search.freeze_thaw.policy import FreezeThawPolicy
from orchestrator.search.optuna.policy import OptunaPolicy
from orchestrator.search.optuna.samplers import beside_the_rate
from orchestrator.search.policy import Policy
from orchestrator.search.rate_first import RateFirstPolicy


def make_policy(
    study: optuna.Study,
    storage: BaseStorage,
    spec: StudySpec,
    inspection: Inspection,
    lr_range: tuple[float, float],
    hint: float | None = None,
) -> Policy:
    """Freeze and thaw for a task, then what is searched beside the rate; else Optuna's samplers.

    Objectives and programs own their loops, which cannot pause: they are only ever stopped.
    ``hint``: the best rate of a study of a similar task, where the search begins if it can.
    """
    automatic = spec.sampler == "auto" and spec.pruner == "auto"
    initial = inspection.initial_loss
    pauses = inspection.kind == "task" and inspection.epochs is not None
    known = initial is not None and math.isfinite(initial)
    if automatic and pauses and known:
        beside = beside_the_rate(spec, inspection.search_schedule)
        if beside:
            return RateFirstPolicy(study, storage, spec, inspection, lr_range, beside, hint)
        return FreezeThawPolicy(study, storage, spec, inspection, lr_range, hint)
    return OptunaPolicy(study, storage, spec, inspection, lr_range)
