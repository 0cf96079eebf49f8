"""Makes the library of surfaces that the search takes for its prior.

    python -m benchmarks.search.make_prior CURVES.json.gz... --output orchestrator/surfaces.npz

From each task of a corpus (``benchmarks.make_curves``): progress of the loss at 36 log rates and 18
shares of the horizon. A training of constant rate that ends earlier is the beginning of a longer
one, so half and a quarter of each long horizon count as tasks as well.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.search.freeze_thaw.library import DEAD, FRACTIONS, LOWEST, RATES, SPACING

_SHARES = (1.0, 0.5, 0.25)  # of a horizon, as tasks of their own
_FEWEST = 8  # losses of a training

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Losses:
    """The trainings of one task with its main seed."""

    steps: Array  #: (points,), 0 first.
    table: Array  #: (rates, points), inf once diverged.

    def until(self, end: float) -> Losses:
        """Those of a training that ends earlier."""
        kept = self.steps <= end + 1e-9
        return Losses(self.steps[kept], self.table[:, kept])


def losses_by_rate(entries: list[dict[str, Any]]) -> Losses | None:
    """What was seen of each rate of the library's grid; None where the rates are others."""
    seed = Counter(entry["seed"] for entry in entries).most_common(1)[0][0]
    mine = sorted((e for e in entries if e["seed"] == seed), key=lambda entry: entry["lr"])
    expected = LOWEST + SPACING * np.arange(RATES)
    rates = np.log10([entry["lr"] for entry in mine])
    if len(mine) != RATES or np.abs(rates - expected).max() > 0.01:
        return None
    steps = max((steps_of(entry) for entry in mine), key=len)
    table = np.full((RATES, len(steps)), np.inf)
    for row, entry in zip(table, mine, strict=True):
        for place, loss in enumerate(entry["loss"]):
            if loss is None:
                break
            row[place] = loss
    return Losses(np.array(steps, dtype=float), table)


def steps_of(entry: dict[str, Any]) -> list[int]:
    """Where its losses were taken: after steps, or after epochs."""
    return entry.get("steps") or list(range(len(entry["loss"])))


def horizon_of(entry: dict[str, Any]) -> int:
    return entry.get("num_steps") or entry["num_epochs"]  # type: ignore[no-any-return]


def surface(losses: Losses) -> Array | None:
    """Progress at FRACTIONS in units of the best rate's at the end; None: nothing was learned."""
    steps, table = losses.steps, losses.table
    alive = np.logical_and.accumulate(np.isfinite(table), axis=1)
    lowest = np.minimum.accumulate(np.where(alive, table, np.inf), axis=1)
    ends = np.where(alive.all(1), lowest[:, -1], np.inf)
    initial, best = table[0, 0], ends.min()
    if not (np.isfinite(best) and initial > best):
        return None
    columns = []
    for fraction in FRACTIONS:
        place = fraction * steps[-1]
        after = min(int(np.searchsorted(steps, place - 1e-9)), len(steps) - 1)
        before = max(after - 1, 0)
        share = (place - steps[before]) / max(steps[after] - steps[before], 1e-9)
        later = np.where(alive[:, after], lowest[:, after], lowest[:, before])
        progress = (initial - lowest[:, before] * (1 - share) - later * share) / (initial - best)
        ok = alive[:, after] if share > 0.5 or before == 0 else alive[:, before]
        columns.append(np.where(ok, np.clip(progress, 0, 1.5), DEAD))
    return np.stack(columns, 1)


def noise(entries: list[dict[str, Any]], end: float) -> float:
    """Standard deviation, from seed to seed, of the lowest loss until a step, in the progress of
    the best rate; nan where fewer than three seeds have trained to the end."""
    seeds = Counter(entry["seed"] for entry in entries)
    main = seeds.most_common(1)[0][0]
    others = [entry for entry in entries if entry["seed"] != main]
    rates = {entry["lr"] for entry in others}
    again = others + [e for e in entries if e["seed"] == main and e["lr"] in rates]
    lowest = []
    for entry in again:
        steps, losses = steps_of(entry), entry["loss"]
        if None not in losses and steps[len(losses) - 1] >= end - 1e-9:
            seen = [loss for step, loss in zip(steps, losses, strict=False) if step <= end + 1e-9]
            lowest.append(min(seen))
    if len(lowest) < 3:
        return float("nan")
    found = np.array(lowest)
    return float(found.std(ddof=1) / max(again[0]["loss"][0] - found.mean(), 1e-12))


def surfaces(corpus: list[dict[str, Any]]) -> Iterator[tuple[Array, float, float, str]]:
    """Each surface, its weight, its noise, and its problem."""
    tasks = defaultdict(list)
    for entry in corpus:
        about = ("problem", "optimizer", "schedule", "warmup", "batch_size")
        key = tuple(str(entry.get(name)) for name in about)
        tasks[key, horizon_of(entry)].append(entry)
    for ((problem, _, schedule, *_), horizon), entries in tasks.items():
        losses = losses_by_rate(entries)
        if losses is None:
            continue
        shares = _SHARES if schedule in ("constant", "None") else _SHARES[:1]
        ends = [horizon * share for share in shares]
        parts = [(losses.until(end), end) for end in ends]
        found = [(surface(part), end) for part, end in parts if len(part.steps) > _FEWEST]
        kept = [(one, noise(entries, end)) for one, end in found if one is not None]
        yield from ((one, 1 / len(kept), spread, problem) for one, spread in kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("curves", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    corpus = []
    for path in arguments.curves:
        corpus += json.loads(gzip.decompress(path.read_bytes()))
    found = list(surfaces(corpus))
    spread = np.array([spread for _, _, spread, _ in found])
    problems = [problem for *_, problem in found]
    np.savez_compressed(
        arguments.output,
        surfaces=np.stack([one for one, *_ in found]).astype(np.float16),
        weights=np.array([weight for _, weight, _, _ in found], dtype=np.float32),
        noise=np.where(np.isfinite(spread), spread, np.nanmedian(spread)).astype(np.float32),
        problems=np.array(problems),
    )
    print(f"{len(found)} surfaces of {len(set(problems))} problems")


if __name__ == "__main__":
    main()
