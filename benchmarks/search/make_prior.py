"""Makes the library of surfaces that the search takes for its prior.

    python -m benchmarks.search.make_prior CURVES.json.gz... --output orchestrator/surfaces.npz

From each task of a corpus (``benchmarks.make_curves``): progress of the loss at 36 log rates and 15
shares of the horizon. A training of constant rate that ends earlier is the beginning of a longer
one, so half and a quarter of each long horizon count as tasks as well.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.search.freeze_thaw.library import DEAD, FRACTIONS, LOWEST, RATES, SPACING

_SHARES = (1.0, 0.5, 0.25)  # of a horizon, as tasks of their own
_SHORTEST = 8  # epochs

Array = npt.NDArray[np.floating]


def losses_by_rate(entries: list[dict[str, Any]]) -> Array | None:
    """(rates, epochs + 1) of the main seed, inf once diverged; None where the rates are others."""
    seed = Counter(entry["seed"] for entry in entries).most_common(1)[0][0]
    mine = sorted((e for e in entries if e["seed"] == seed), key=lambda entry: entry["lr"])
    expected = LOWEST + SPACING * np.arange(RATES)
    rates = np.log10([entry["lr"] for entry in mine])
    if len(mine) != RATES or np.abs(rates - expected).max() > 0.01:
        return None
    table = np.full((RATES, mine[0]["num_epochs"] + 1), np.inf)
    for row, entry in zip(table, mine, strict=True):
        for epoch, loss in enumerate(entry["loss"]):
            if loss is None:
                break
            row[epoch] = loss
    return table


def surface(losses: Array) -> Array | None:
    """Progress at FRACTIONS in units of the best rate's at the end; None: nothing was learned."""
    horizon = losses.shape[1] - 1
    alive = np.isfinite(losses)
    lowest = np.minimum.accumulate(losses, axis=1)
    ends = np.where(alive.all(1), lowest[:, -1], np.inf)
    initial, best = losses[0, 0], ends.min()
    if not (np.isfinite(best) and initial > best):
        return None
    columns = []
    for fraction in FRACTIONS:
        epoch = fraction * horizon
        before = min(int(epoch), horizon - 1)
        share = epoch - before
        ok = alive[:, : max(1, int(epoch)) + 1].all(1)
        after = np.where(alive[:, before + 1], lowest[:, before + 1], lowest[:, before])
        with np.errstate(invalid="ignore"):
            progress = (initial - lowest[:, before] * (1 - share) - after * share) / (
                initial - best
            )
        columns.append(np.where(ok, np.clip(progress, 0, 1.5), DEAD))
    return np.stack(columns, 1)


def noise(entries: list[dict[str, Any]], end: int) -> float:
    """Standard deviation, from seed to seed, of the lowest loss until an epoch, in the progress of
    the best rate; nan where fewer than three seeds have trained to the end."""
    seeds = Counter(entry["seed"] for entry in entries)
    main = seeds.most_common(1)[0][0]
    others = [entry for entry in entries if entry["seed"] != main]
    rates = {entry["lr"] for entry in others}
    again = others + [e for e in entries if e["seed"] == main and e["lr"] in rates]
    whole = [e["loss"] for e in again if len(e["loss"]) > end and None not in e["loss"]]
    lowest = np.array([min(losses[: end + 1]) for losses in whole])
    if len(lowest) < 3:
        return float("nan")
    return float(lowest.std(ddof=1) / max(whole[0][0] - lowest.mean(), 1e-12))


def surfaces(corpus: list[dict[str, Any]]) -> Iterator[tuple[Array, float, float, str]]:
    """Each surface, its weight, its noise, and its problem."""
    tasks = defaultdict(list)
    for entry in corpus:
        schedule = entry.get("schedule", "constant")
        key = (entry["problem"], entry["optimizer"], schedule, entry["batch_size"])
        tasks[*key, entry["num_epochs"]].append(entry)
    for (problem, _, schedule, _, horizon), entries in tasks.items():
        losses = losses_by_rate(entries)
        if losses is None:
            continue
        ends = [round(horizon * share) for share in _SHARES]
        if schedule != "constant":
            ends = ends[:1]
        found = [(surface(losses[:, : end + 1]), end) for end in ends if end >= _SHORTEST]
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
