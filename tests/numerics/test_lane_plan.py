"""All that is fused, and every optimizer's state in and out of stacks at each turn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from tests.unit.worker.lanes.test_lane_plan import (
    FUSED,
    OPTIMIZERS,
    Layers,
    Sometimes,
    assert_lanes_equal,
    check_states,
    trainer_of,
)


@pytest.mark.parametrize("case", FUSED)
def test_what_is_fused_equals_separate_trainings(case: str) -> None:
    build, names = FUSED[case]
    assert_lanes_equal(trainer_of(build, **names))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("fused", ["first", "last", "in the middle", "at both ends"])
@pytest.mark.parametrize("build", [Layers, Sometimes])
def test_states_go_in_and_out_of_stacks(
    optimizer: str, fused: str, build: Callable[[], nn.Module]
) -> None:
    check_states(optimizer, fused, build)
