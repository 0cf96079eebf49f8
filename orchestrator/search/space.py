"""What a study searches, as Optuna's distributions: the rate, and what else is asked for."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from justright.search_space import DEFAULTS, Searched
from justright.spec import StudySpec

Distributions = dict[str, BaseDistribution]


def search_space(
    lr_range: tuple[float, float], beside: Distributions | None = None
) -> Distributions:
    """What is searched: the rate on a log scale, and what else."""
    return {"lr": FloatDistribution(*lr_range, log=True), **(beside or {})}


def beside_the_rate(spec: StudySpec, search_schedule: bool) -> Distributions:
    """What is searched beside the rate: by the spec, and the schedule if the task wants it."""
    searched = dict(spec.search)
    if search_schedule:
        searched.setdefault("schedule", DEFAULTS["schedule"])
    return {name: _distribution(searched[name]) for name in sorted(searched)}


def _distribution(searched: Searched) -> BaseDistribution:
    if searched.choices:
        return CategoricalDistribution(searched.choices)
    assert searched.low is not None
    assert searched.high is not None
    return FloatDistribution(searched.low, searched.high, log=searched.log)
