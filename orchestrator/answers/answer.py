"""The answer: the best rate, its loss with an interval, the good band and the edge of stability.

A trial's loss is the lowest of its curve: the weights that one would keep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from justright.lifecycle import StudyState, TrialState
from justright.messages import Answer
from orchestrator.search.policy import PLATEAU_SHARE
from orchestrator.search.unit import Unit

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_T95 = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_Z95 = 1.96
_NEIGHBOURS = 7  # rates around the best that the local fit uses
_PARABOLIC = 1.0 + 1e-9  # decades around the best in which the loss is like a parabola


@dataclass
class Result:
    """One trial, as far as the answer needs it."""

    number: int
    lr: float
    state: TrialState
    best: float | None
    params: dict[str, Any] = field(default_factory=dict)
    replicate_of: int | None = None
    diverged: bool = False
    attempt: int = 1
    trained: int = 0  #: Steps, those of lost attempts included.


@dataclass
class _Rate:
    """A rate with the losses of all its replicates."""

    lr: float
    params: dict[str, Any]
    losses: list[float]
    failed: int = 0  #: Replicates that failed: they speak neither for the rate nor against it.

    @property
    def runs(self) -> int:
        return len(self.losses) + self.failed

    @property
    def mean(self) -> float:
        return sum(self.losses) / len(self.losses)


def make_answer(
    study: str,
    state: StudyState,
    reason: str | None,
    results: Sequence[Result],
    *,
    horizon: int | None,
    epoch_steps: float = 1.0,
    initial_loss: float | None,
    seconds: float,
    seed: int,
    target: float | None = None,
    unit_of_time: Literal["epoch", "step"] = "epoch",
) -> Answer:
    """The answer from all trials so far. ``best_lr`` is None where none has completed.

    One that has reached the ``target``, a loss that is good enough, counts as well. ``horizon``: of
    a full training, in steps. ``epoch_steps``: steps of an epoch. ``unit_of_time``: what the user
    counts a training in.
    """
    unit = Unit.of([r.best for r in results], initial_loss)
    if unit.exponent:
        results = [replace(result, best=unit.shrink(result.best)) for result in results]
    rates = _by_rate(results, unit.shrink(target))
    best = _best(rates)
    steps = sum(result.trained for result in results)
    interval = _interval(best, rates) if best else None
    return Answer(
        study=study,
        state=state,
        reason=reason,
        best_lr=best.lr if best else None,
        params=best.params if best else {},
        loss=unit.restore(best.mean) if best else None,
        loss_interval=(unit.restore(interval[0]), unit.restore(interval[1])) if interval else None,
        plateau=_plateau(best, rates, results, unit.shrink(initial_loss)) if best else None,
        edge_of_stability=min((r.lr for r in results if r.diverged), default=None),
        trials=count_ends(results),
        attempts=sum(result.attempt for result in results),
        steps=steps,
        horizon=horizon,
        epochs=round(steps / epoch_steps, 2),
        unit=unit_of_time,
        full_trainings=round(steps / horizon, 2) if horizon else None,
        seconds=round(seconds, 2),
        seed=seed,
    )


def count_ends(results: Sequence[Result]) -> dict[str, int]:
    """How many trials ended in which way."""
    return {
        "complete": sum(r.state == TrialState.COMPLETE for r in results),
        "pruned": sum(r.state == TrialState.PRUNED for r in results),
        "diverged": sum(r.diverged for r in results),
        "failed": sum(r.state == TrialState.FAILED for r in results),
    }


def _by_rate(results: Sequence[Result], target: float | None) -> list[_Rate]:
    """Trials that completed or reached the target, replicates with their original, by rate."""
    rates: dict[int, _Rate] = {}
    for result in results:
        if result.best is None:
            continue
        reached = target is not None and result.best <= target and not result.diverged
        if result.state != TrialState.COMPLETE and not reached:
            continue
        key = result.number if result.replicate_of is None else result.replicate_of
        rates.setdefault(key, _Rate(result.lr, result.params, [])).losses.append(result.best)
    for result in results:
        if result.state == TrialState.FAILED and result.replicate_of in rates:
            rates[result.replicate_of].failed += 1
    return sorted(rates.values(), key=lambda rate: rate.lr)


def _best(rates: Sequence[_Rate]) -> _Rate | None:
    """The lowest mean loss, among the rates with the most replicates.

    A replicate that failed counts for that as one that has run: it was given to the rate because
    the rate is among the best, and says nothing else.
    """
    if not rates:
        return None
    most = max(rate.runs for rate in rates)
    return min((rate for rate in rates if rate.runs == most), key=lambda rate: rate.mean)


def _t95(freedom: int) -> float:
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z, v = _Z95, freedom  # the expansion of Cornish and Fisher (1937)
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v * v)


def _interval(best: _Rate, rates: Sequence[_Rate]) -> tuple[float, float] | None:
    """A 95 % interval of the loss at the best rate; None where nothing tells its noise.

    With replicates: Student's t on them. Without: the scatter of the completed rates nearest to
    the best around a parabola over log rate, which the loss follows near its minimum.
    """
    count = len(best.losses)
    if count > 1:
        spread = math.sqrt(sum((x - best.mean) ** 2 for x in best.losses) / (count - 1))
        half = _t95(count - 1) * spread / math.sqrt(count)
        return best.mean - half, best.mean + half
    near = sorted(_alike(best, rates), key=lambda rate: abs(math.log(rate.lr / best.lr)))
    points = [(math.log10(rate.lr / best.lr), rate.mean) for rate in near[:_NEIGHBOURS]]
    points = [(x, loss) for x, loss in points if abs(x) <= _PARABOLIC]
    freedom = len(points) - 3
    if freedom < 1 or len({x for x, _ in points}) < 4:
        return None
    residuals = _parabola_residuals(points)
    half = _t95(freedom) * math.sqrt(sum(r * r for r in residuals) / freedom)
    return best.mean - half, best.mean + half


def _alike(best: _Rate, rates: Sequence[_Rate]) -> list[_Rate]:
    """The rates that differ from the best in nothing but the rate."""
    return [rate for rate in rates if rate.params == best.params]


def _parabola_residuals(points: Sequence[tuple[float, float]]) -> list[float]:
    """Residuals of the least-squares parabola through the points."""
    sums = [sum(x**k for x, _ in points) for k in range(5)]
    right = [sum(y * x**k for x, y in points) for k in range(3)]
    matrix = [[sums[i + j] for j in range(3)] + [right[i]] for i in range(3)]
    for i in range(3):
        pivot = max(range(i, 3), key=lambda row: abs(matrix[row][i]))
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        for row in range(3):
            if row != i and matrix[i][i] != 0:
                ratio = matrix[row][i] / matrix[i][i]
                matrix[row] = [a - ratio * b for a, b in zip(matrix[row], matrix[i], strict=True)]
    a, b, c = (matrix[i][3] / matrix[i][i] if matrix[i][i] else 0.0 for i in range(3))
    return [y - (a + b * x + c * x * x) for x, y in points]


def _plateau(
    best: _Rate, rates: Sequence[_Rate], results: Sequence[Result], initial: float | None
) -> tuple[float, float]:
    """The band around the best in which the loss stays within 1 % of its scale.

    The scale is what training gains: the untrained loss minus the best. Between completed rates
    the loss is taken to be linear in log rate; a rate that was pruned or diverged bounds the band
    half way to it, unless it was within by then, or was withdrawn before it had a loss.
    """
    alike = _alike(best, rates)
    worst = max(rate.mean for rate in alike)
    scale = max((initial if initial is not None else worst) - best.mean, 0.0)
    limit = best.mean + PLATEAU_SHARE * scale
    pruned = [r for r in results if r.state == TrialState.PRUNED and r.params == best.params]
    # A pruned trial's lowest loss is what it would have reached at worst.
    alike += [
        _Rate(r.lr, r.params, [r.best])
        for r in pruned
        if r.best is not None and r.best <= limit and not r.diverged
    ]
    alike.sort(key=lambda rate: rate.lr)
    stops = [r.lr for r in pruned if r.diverged or (r.best is not None and r.best > limit)]
    colder = [r for r in reversed(alike) if r.lr < best.lr]
    hotter = [r for r in alike if r.lr > best.lr]
    return (
        _reach(best, colder, [lr for lr in stops if lr < best.lr], limit),
        _reach(best, hotter, [lr for lr in stops if lr > best.lr], limit),
    )


def _reach(best: _Rate, outward: Sequence[_Rate], stops: Sequence[float], limit: float) -> float:
    """How far the band goes on one side, over completed rates ordered outward from the best."""
    inside = best
    beyond: _Rate | None = None
    for rate in outward:
        if rate.mean > limit:
            beyond = rate
            break
        inside = rate
    nearest = min(
        (lr for lr in stops if abs(math.log(lr / best.lr)) > abs(math.log(inside.lr / best.lr))),
        key=lambda lr: abs(math.log(lr / best.lr)),
        default=None,
    )
    reach = inside.lr
    if beyond is not None:
        share = (limit - inside.mean) / (beyond.mean - inside.mean)
        reach = inside.lr * (beyond.lr / inside.lr) ** share
    if nearest is not None:
        halfway = math.sqrt(inside.lr) * math.sqrt(nearest)
        closer = abs(math.log(halfway / best.lr)) < abs(math.log(reach / best.lr))
        if beyond is None or closer:
            reach = halfway
    return reach


def as_note(answer: Answer, task: str) -> str:
    """The answer in Markdown, for the dashboard's note."""
    if answer.best_lr is None:
        return f"**No answer** for `{task}`: {answer.reason or answer.state}."
    lines = [
        f"**Best learning rate: {answer.best_lr:.3g}** for `{task}`"
        + (f", loss {answer.loss:.4g}" if answer.loss is not None else ""),
        "",
        f"* state: {answer.state}" + (f", ended by: {answer.reason}" if answer.reason else ""),
    ]
    if answer.metric:
        lines.append(f"* read as the loss: {answer.metric}")
    if answer.loss_interval:
        low, high = answer.loss_interval
        lines.append(f"* loss, 95 % interval: {low:.4g} to {high:.4g}")
    if answer.plateau:
        lines.append(f"* plateau: {answer.plateau[0]:.3g} to {answer.plateau[1]:.3g}")
    if answer.uncertain:
        low, high = answer.uncertain
        lines.append(f"* the best may lie anywhere from {low:.3g} to {high:.3g}")
    if answer.edge_of_stability:
        lines.append(f"* edge of stability: {answer.edge_of_stability:.3g}")
    lines += [f"* {name}: {value}" for name, value in answer.params.items()]
    if answer.importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in answer.importance.items())
        lines.append(f"* what mattered: {shares}")
    lines += [f"* {sentence}" for sentence in (*answer.warnings, *answer.advice)]
    counts = ", ".join(f"{count} {name}" for name, count in answer.trials.items())
    lines.append(f"* trials: {counts}; {answer.trained} in {answer.seconds:g} s")
    return "\n".join(lines)
