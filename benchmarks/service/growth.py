"""What a trial costs the orchestrator as its study grows, and the memory that the study takes.

The orchestrator's own code on its own journal, with every turn committed to the disk; workers and
Redis are a broker in this process that trains nothing, so that all time is the orchestrator's.
Figures are of one run: the mean over the trials before each size, so that a machine that is slow
for a while is slow for all of them.

    python -m benchmarks.service.growth --json
    python -m benchmarks.service.growth --sampler tpe --sizes 300,1000
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from justright.brokers.memory import MemoryBroker
from justright.messages import (
    Hello,
    Inspection,
    Outcome,
    OutcomeKind,
    Report,
    Started,
    Submit,
    TrainJob,
    WorkerInfo,
)
from justright.settings import Settings
from justright.spec import StudySpec, TaskRef
from orchestrator.reconcile import Reconciler
from orchestrator.storage.ledger import open_ledger

SIZES = (300, 3000, 10_000)
WINDOW = 200  #: Trials before each size over which the cost of one is taken, at least ...
_SHARE = 10  # ... and this part of all
LANES = 16  #: Trials of a job.
_LEASE = 1e6  # seconds: nothing is lost here
_MIB = 2**20


@dataclass
class Found:
    """By the number of trials."""

    ms_per_trial: dict[int, float]
    memory_mb: dict[int, float]

    @property
    def ratio(self) -> float:
        sizes = sorted(self.ms_per_trial)
        return self.ms_per_trial[sizes[-1]] / self.ms_per_trial[sizes[0]]


def measure(folder: Path, sizes: tuple[int, ...], sampler: str) -> Found:
    """One study of as many trials as the largest size, one step each."""
    broker = MemoryBroker()
    books = open_ledger(str(folder / "journal.log"))
    reconciler = Reconciler(broker, books, Settings(lease=_LEASE))
    info = WorkerInfo(name="w", pool="default", host="h", pid=1, device="cpu", lanes=LANES)
    broker.beat(info, _LEASE)
    broker.exchange([Hello(worker="w")])
    spec = StudySpec.model_validate(
        {
            "name": "s", "task": TaskRef(target="/t.py:T"), "trials": max(sizes), "pruner": "none",
            "sampler": sampler, "lr": (1e-5, 1.0),
        }
    )  # fmt: skip
    broker.send(Submit(id="s1", spec=spec))
    found = Found({}, {})
    trained, spent = 0, {0: 0.0}
    while trained < max(sizes):
        began = time.perf_counter()
        reconciler.turn(wait=0.0)
        spent[trained] = spent.get(trained, 0.0) + time.perf_counter() - began
        trained += _train(broker)
        spent.setdefault(trained, 0.0)
        for size in sizes:
            if trained >= size and size not in found.ms_per_trial:
                within = {
                    n: s for n, s in spent.items() if size - max(WINDOW, size // _SHARE) <= n < size
                }
                trials = max(within) - min(within) + LANES
                found.ms_per_trial[size] = 1000 * sum(within.values()) / trials
                found.memory_mb[size] = _memory()
    books.close()
    return found


def _train(broker: MemoryBroker) -> int:
    """What a worker does with the next job, at once; how many trials it trained."""
    job = broker.take("default", "w", _LEASE)
    if job is None:
        return 0
    if not isinstance(job, TrainJob):
        broker.exchange([Inspection(study="s", job=job.id, epochs=1, initial_loss=2.0)])
        return 0
    numbers = tuple((work.number, work.attempt) for work in job.trials)
    broker.exchange([Started(study="s", job=job.id, worker="w", trials=numbers)])
    for work in job.trials:
        loss = 0.1 + abs(work.lr - 0.03)
        base = {"study": "s", "trial": work.number, "attempt": work.attempt, "step": 1}
        broker.exchange([Report.model_validate(base | {"loss": loss})])
        broker.exchange([Outcome.model_validate(base | {"kind": OutcomeKind.COMPLETE})])
    return len(job.trials)


def _memory() -> float:
    """MiB of this process that are in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    resident = next(line for line in lines if line.startswith("VmRSS"))
    return int(resident.split()[1]) * 1024 / _MIB


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.growth")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    options = parser.parse_args()
    sizes = tuple(sorted(int(text) for text in options.sizes.split(",")))
    with tempfile.TemporaryDirectory(prefix="justright-growth-") as folder:
        found = measure(Path(folder), sizes, options.sampler)
    ms = {str(size): round(value, 3) for size, value in found.ms_per_trial.items()}
    ends = (sizes[0], sizes[-1])
    memory = {str(size): round(found.memory_mb[size], 1) for size in ends}
    if options.json:
        answer = {"ms_per_trial": ms, "ratio": round(found.ratio, 3), "memory_mb": memory}
        print(json.dumps(answer))
        return 0
    for size, value in ms.items():
        print(f"{size:>6} trials: {value} ms for one more")
    print(f"ratio {found.ratio:.2f}; memory {memory} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
