"""Draws one study of the default search: its trials, and what the curve model expects.

    python -m benchmarks.search.picture [TASK] -o docs/search.svg

Does as the planner says, one trial at a time, in this process.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.search.fine_grid import open_trainer
from justright.messages import TrialWork
from orchestrator.search.freeze_thaw.curve_model import Forecast
from orchestrator.search.freeze_thaw.planner import Planner
from orchestrator.search.loss_curve import LossCurve
from worker.lanes.trial import TrialTraining
from worker.training.trainer import TaskTrainer

_WIDTH, _HEIGHT, _LEFT, _GAP = 720, 230, 60, 50
_BLUE, _GREY, _ORANGE = "#0072b2", "#999999", "#d55e00"  # told apart by the colour-blind
_LOW, _HIGH = -6.0, 1.0  # decades


def study(trainer: TaskTrainer) -> tuple[dict[float, LossCurve], Forecast]:
    """The curves of all trials at the end of the search, by decades, and the last forecast."""
    assert trainer.initial_loss is not None
    marks = trainer.horizon.marks
    planner = Planner(trainer.initial_loss, marks, (_LOW, _HIGH), (-8.0, 3.0), 0)
    trials: dict[float, TrialTraining] = {}
    curves: dict[float, LossCurve] = {}

    def train(x: float, until: int) -> None:
        if x not in trials:
            trials[x] = trainer.start(TrialWork(number=0, lr=10**x, seed=0, attempt=1))
            curves[x] = LossCurve(10**x, {}, trainer.initial_loss)
        for mark in (m for m in marks if trials[x].mark < m <= until):
            results = trainer.train_together([trials[x]], mark, lambda: False)
            assert results is not None
            lost = bool(results[0].diverged)
            loss = math.nan if results[0].loss is None else results[0].loss
            losses = {**curves[x].by_step, mark: loss}
            curves[x] = LossCurve(10**x, losses, trainer.initial_loss, diverged=lost, died=mark)
            if lost:
                return

    for x in planner.probes(30):
        train(x, planner.first)
    while not planner.settled(curves):
        plan = planner.plan(curves, ())
        if plan is None:
            break
        for x in plan.rates:
            train(x, plan.until)
    return curves, planner.forecast(curves)


def draw(curves: dict[float, LossCurve], forecast: Forecast, initial: float) -> str:
    """Both panels, as SVG."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {2 * _HEIGHT + 2 * _GAP}" '
        'font-family="sans-serif" font-size="12" fill="#333333">',
        f'<rect width="{_WIDTH}" height="{2 * _HEIGHT + 2 * _GAP}" fill="#ffffff"/>',
    ]
    lines += [*_trials(curves, initial), *_expected(curves, forecast, initial), "</svg>"]
    return "\n".join(lines) + "\n"


def _trials(curves: dict[float, LossCurve], initial: float) -> Iterator[str]:
    """Losses over the share of the training, on a log scale."""
    horizon = max(curve.steps for curve in curves.values())
    lowest = min(curve.lowest for curve in curves.values())
    first = min(int(curve.points[1]) for curve in curves.values() if len(curve.points) > 1)

    def place(step: float, loss: float) -> tuple[float, float]:
        along = math.log(max(step, first / 2) * 2 / first) / math.log(2 * horizon / first)
        down = (initial - min(loss, initial)) / (initial - lowest)
        return _LEFT + along * (_WIDTH - _LEFT - 20), 25 + down * (_HEIGHT - 35)

    yield from _frame(0, "the loss of each trial", "steps, on a log scale")
    for curve in curves.values():
        points = [place(int(s), float(v)) for s, v in zip(curve.points, curve.losses, strict=True)]
        whole = curve.steps >= horizon and not curve.diverged
        colour = _ORANGE if curve.diverged else _BLUE if whole else _GREY
        yield _line(points, colour, 2 if whole else 1)
        yield f'<circle cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="2.5" fill="{colour}"/>'
    yield _legend()


def _expected(curves: dict[float, LossCurve], forecast: Forecast, initial: float) -> Iterator[str]:
    """What the model expects at the end, over the rate."""
    best = min(curve.lowest for curve in curves.values() if not curve.diverged)
    shown = (forecast.grid >= _LOW) & (forecast.grid <= _HIGH)
    grid = forecast.grid[shown]
    ends = np.where(np.isfinite(forecast.progress), forecast.progress, 0.0)[:, shown]
    low, middle, high = np.quantile(ends, (0.05, 0.5, 0.95), axis=0)
    top = float(high.max())

    def place(x: float, progress: float) -> tuple[float, float]:
        along = (x - _LOW) / (_HIGH - _LOW)
        down = min(1.0, max(0.0, progress / top))
        return (
            _LEFT + along * (_WIDTH - _LEFT - 20),
            _HEIGHT + _GAP + 25 + down * (_HEIGHT - 35),
        )

    yield from _frame(
        _HEIGHT + _GAP, "the loss at the end that the model expects", "log10 of the learning rate"
    )
    upper = [place(float(x), float(v)) for x, v in zip(grid, high, strict=True)]
    lower = [place(float(x), float(v)) for x, v in zip(grid, low, strict=True)]
    outline = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *lower[::-1]])
    yield f'<polygon points="{outline}" fill="{_BLUE}" opacity="0.18"/>'
    yield _line([place(float(x), float(v)) for x, v in zip(grid, middle, strict=True)], _BLUE, 2)
    for x, curve in curves.items():
        seen = (initial - curve.lowest) / (initial - best)
        colour = _ORANGE if curve.diverged else _GREY
        along, down = place(x, 0.0 if curve.diverged else seen * float(middle.max()))
        yield f'<circle cx="{along:.1f}" cy="{down:.1f}" r="3" fill="{colour}"/>'
    for decade in range(int(_LOW), int(_HIGH) + 1):
        along, _ = place(decade, 0.0)
        down = 2 * _HEIGHT + _GAP + 5
        yield f'<text x="{along:.1f}" y="{down}" text-anchor="middle">{decade}</text>'


def _frame(top: int, title: str, below: str) -> Iterator[str]:
    yield f'<text x="{_LEFT}" y="{top + 15}" font-weight="bold">{title}</text>'
    yield (
        f'<text x="{_WIDTH - 20}" y="{top + _HEIGHT + 20}" text-anchor="end">{below}</text>'
        f'<rect x="{_LEFT}" y="{top + 22}" width="{_WIDTH - _LEFT - 20}" height="{_HEIGHT - 30}" '
        'fill="none" stroke="#cccccc"/>'
    )


def _legend() -> str:
    texts = ((_BLUE, "trained to the end"), (_GREY, "frozen"), (_ORANGE, "diverged"))
    return "".join(
        f'<text x="{300 + 140 * place}" y="15" fill="{colour}">{text}</text>'
        for place, (colour, text) in enumerate(texts)
    )


def _line(points: Sequence[tuple[float, float]], colour: str, width: int) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("task", nargs="?", default="examples/digits.py:Digits")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    trainer = open_trainer(arguments.task)
    curves, forecast = study(trainer)
    assert trainer.initial_loss is not None
    arguments.output.write_text(draw(curves, forecast, trainer.initial_loss))


if __name__ == "__main__":
    main()
