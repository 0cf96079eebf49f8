"""How many examples a property is tried on: fewer in the edit loop (``make unit``)."""

from __future__ import annotations

from hypothesis import settings


def tries(count: int) -> int:
    """So many of hypothesis's usual hundred, scaled as the profile in force scales that."""
    assert settings.default is not None
    return max(2, count * settings.default.max_examples // 100)
