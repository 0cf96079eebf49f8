"""The list of mutations keeps up with the code."""

from __future__ import annotations

import pytest

from tests.mutate.__main__ import MUTATIONS
from tests.mutate.mutation import Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_a_mutation_applies_to_the_code_as_it_is(mutation: Mutation) -> None:
    assert mutation.wrong() == ""
    assert mutation.old != mutation.new


def test_each_has_a_name_of_its_own() -> None:
    assert len({one.name for one in MUTATIONS}) == len(MUTATIONS)
