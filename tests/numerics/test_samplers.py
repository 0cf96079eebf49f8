"""Gaussian processes that learn from what stock Optuna's ignore."""

from __future__ import annotations

from optuna.samplers import GPSampler

from orchestrator.search.optuna.samplers import LearnsFromAll
from tests.unit.orchestrator.search.test_samplers import hot_ones, stopped_when_hot


def test_gp_learns_from_the_pruned_and_diverged_that_stock_optuna_ignores() -> None:
    stock, ours = 0, 0
    for seed in range(2):
        stock += hot_ones(GPSampler(seed=seed, deterministic_objective=False), stopped_when_hot)
        inner = GPSampler(seed=seed, deterministic_objective=False)
        ours += hot_ones(LearnsFromAll(inner, uses_pruned=False), stopped_when_hot)
    assert 2 * ours < stock
