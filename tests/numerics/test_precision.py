"""Half precision of convolutions: seconds where the processor has no such numbers."""

from __future__ import annotations

import pytest

from tests.unit.worker.training.test_precision import check_precision


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_in_lanes_and_alone(precision: str) -> None:
    check_precision("digits.py:DigitsCNN", precision)
