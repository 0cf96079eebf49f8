"""Marks: the steps of a training at which its loss is taken and its trial may pause.

All trials of a study share them, so that they are compared at equal steps. They lie close at first,
where a search decides most for least, and at the end of each epoch where epochs are short.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cache

_FIRST = 512  # parts of the horizon, of which the first mark is one ...
_BATCHES = 8  # ... but no fewer steps: so few tell nothing ...
_SHORT = 40  # ... unless they are more than one in so many parts of the horizon
_RATIO = 1.5  # of one mark to the next, early on
_GAP = 12  # parts of the horizon, of which two marks lie apart at most
_NEAR = 0.3  # of the distance between two marks, within which an epoch's end stands for one
_LONG = 6  # steps of an epoch, below which only its end is a mark


@cache
def marks(horizon: int, lap: int | None = None) -> tuple[int, ...]:
    """The marks of a training of so many steps, ascending; the last one is the horizon.

    ``lap``: steps from one evaluation on all held-out data to the next: an epoch, unless the user
    wants another. None: there is none before the horizon.
    """
    if lap is not None and lap < _LONG:
        return (*range(lap, horizon, lap), horizon)
    ends = set(range(lap, horizon, lap)) if lap else set()
    found = {horizon, *ends}
    least = min(_BATCHES, max(1, horizon // _SHORT))
    mark = max(-(-horizon // _FIRST), least)
    while mark < horizon:
        following = max(mark + 1, min(round(mark * _RATIO), mark + -(-horizon // _GAP)))
        gap = following - mark
        if lap and gap >= lap:
            break  # from here on the ends of epochs are close enough
        nearest = _nearest_end(mark, lap, horizon)
        if abs(nearest - mark) > _NEAR * gap:
            found.add(mark)
        mark = following
    return tuple(sorted(found))


def _nearest_end(mark: int, lap: int | None, horizon: int) -> int:
    """The evaluation on all held-out data that is nearest."""
    if not lap:
        return horizon
    before = mark // lap * lap
    after = min(before + lap, horizon)
    return after if before == 0 or after - mark < mark - before else before


def at_or_after(all_marks: Sequence[int], step: float) -> int:
    """The first mark from a step on; the last one where there is none."""
    return all_marks[min(bisect_left(all_marks, step), len(all_marks) - 1)]


def after(all_marks: Sequence[int], step: float) -> int:
    """The first mark after a step; the last one where there is none."""
    return all_marks[min(bisect_right(all_marks, step), len(all_marks) - 1)]
