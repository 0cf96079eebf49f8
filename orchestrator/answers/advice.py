"""What an answer means, in sentences for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

from justright.lifecycle import TrialState
from justright.messages import Answer
from justright.spec import DEFAULT_LR, WIDEST_LR, StudySpec
from orchestrator.answers.answer import Result

_EDGE = 0.1  # decades from an end of the range, within which the answer lies at it
_FLAT = 2.0  # decades over which a rate hardly matters
_APART = 0.3  # decades between rates that one would like to tell apart


def with_words(
    answer: Answer,
    spec: StudySpec,
    results: Sequence[Result],
    own_range: tuple[float, float] | None = None,
) -> Answer:
    """The answer with its shape and what follows from it.

    ``own_range``: where an objective named a range, what it has in common with the user's.
    """
    if answer.best_lr is None:
        return answer
    flat = _flat(answer)
    # Where the rate hardly matters, nobody needs to tell two rates apart.
    noisy = None if flat else _too_noisy(answer, spec, results)
    found = [_at_the_edge(answer, spec, own_range), flat, noisy]
    known = [one for one in found if one is not None]
    shape = known[0][0] if known else "bowl"
    return answer.model_copy(
        update={"shape": shape, "advice": tuple(sentence for _, sentence in known)}
    )


def _at_the_edge(
    answer: Answer, spec: StudySpec, own_range: tuple[float, float] | None
) -> tuple[str, str] | None:
    """Of the range that the user gave, of an objective's own, or of all that is ever tried."""
    given = spec.lr or (WIDEST_LR if own_range is None else DEFAULT_LR)
    searched = own_range or given
    if answer.best_lr is None:
        return None
    if math.log10(searched[1] / searched[0]) <= 2 * _EDGE:
        return None
    for end, limit, shape, name in zip(
        searched, given, ("edge_low", "edge_high"), ("cold", "hot"), strict=True
    ):
        if abs(math.log10(answer.best_lr / end)) > _EDGE + 1e-9:
            continue
        low, high = given
        if own_range is not None and not math.isclose(end, limit):
            return shape, (
                f"the best rate lies at the {name} end of the range that the objective asks for: "
                f"widen it there, beyond {end:g}"
            )
        if spec.lr is None and own_range is not None:
            return shape, (
                f"the best rate lies at the {name} end of what is searched, {searched[0]:g}:"
                f"{searched[1]:g}: give a wider --lr, and ask for as much in the objective"
            )
        if spec.lr is None:
            return shape, (
                f"the best rate lies at the {name} end of all that is tried, {low:g}:{high:g}: "
                "check the scale of the loss and of the data"
            )
        return shape, (
            f"the best rate lies at the {name} end of the range you gave, --lr "
            f"{low:g}:{high:g}: widen it"
        )
    return None


def _flat(answer: Answer) -> tuple[str, str] | None:
    if answer.plateau is None or math.log10(answer.plateau[1] / answer.plateau[0]) < _FLAT:
        return None
    low, high = answer.plateau
    return "flat", f"the loss is flat from {low:.2g} to {high:.2g}: the rate hardly matters there"


def _too_noisy(
    answer: Answer, spec: StudySpec, results: Sequence[Result]
) -> tuple[str, str] | None:
    """A rate far away whose loss lies within the noise of the best one's."""
    if answer.loss is None or answer.loss_interval is None or answer.best_lr is None:
        return None
    low, high = answer.loss_interval
    rivals = [
        result
        for result in results
        if result.state == TrialState.COMPLETE
        and result.best is not None
        and abs(math.log10(result.lr / answer.best_lr)) > _APART
        and result.best - answer.loss < (high - low) / 2
    ]
    if not rivals:
        return None
    rival = min(rivals, key=lambda result: result.best or 0.0)
    more = max(3, spec.replicates + 2)
    return "noisy", (
        f"too noisy to tell {answer.best_lr:.3g} from {rival.lr:.3g} apart: use --replicates {more}"
    )
