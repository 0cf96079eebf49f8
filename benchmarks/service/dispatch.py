"""What a trial costs beside its training: the gap between two jobs, and the reports.

    python -m benchmarks.service.dispatch [--json] [--quick]

prints a table, or with ``--json`` one object. Servers are started here, on this machine's
loopback, and ended. ``--quick`` only shows that it works: its figures are too few to be quoted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend

from benchmarks.service.gap import fork_gaps, in_milliseconds, warm_gaps
from benchmarks.service.reports import Size, orchestrator_rate, stock_rate
from justright.spec import PrunerName
from tests.helpers.servers import postgres_programs, running_postgres, running_redis


@dataclass(frozen=True)
class Plan:
    """How often each thing is done; stock storages get fewer reports, for seconds of work each."""

    warm_jobs: int
    fork_jobs: int
    backlog: Size
    lockstep: Size
    database: Size
    journal: Size


FULL = Plan(41, 9, Size(50, 400), Size(50, 100), Size(50, 30), Size(50, 100))
QUICK = Plan(6, 3, Size(10, 40), Size(10, 10), Size(10, 5), Size(10, 5))


_PRUNERS: dict[PrunerName, str] = {"none": "", "asha": "_asha"}
_LABELS = {
    "justright": "justright's orchestrator",
    "justright_asha": "  pruner asha",
    "justright_lockstep": "  a turn for each step",
    "justright_lockstep_asha": "  a turn for each step, asha",
    "sqlite": "Optuna on SQLite",
    "postgresql": "Optuna on PostgreSQL",
    "redis_journal": "Optuna's journal on Redis",
    "file_journal": "Optuna's journal in a file",
}
_NO_POSTGRES = "no initdb and postgres on this machine (Debian: apt-get install postgresql)"


def measure_gaps(url: str, folder: Path, plan: Plan) -> dict[str, float]:
    """Medians in milliseconds, and how many times shorter ours is."""
    warm = in_milliseconds(warm_gaps(url, folder / "warm", plan.warm_jobs))
    fork = in_milliseconds(fork_gaps(url, folder / "fork", plan.fork_jobs))
    preloaded = in_milliseconds(
        fork_gaps(url, folder / "preloaded", plan.fork_jobs, preload=True),
    )
    return {
        "justright": warm,
        "rq_worker": fork,
        "ratio": round(fork / warm, 1),
        "rq_worker_preloaded": preloaded,
    }


def measure_reports(url: str, folder: Path, plan: Plan) -> dict[str, float | None]:
    """Reports per second of each way; None where its server is not installed here."""
    storages: dict[str, tuple[Size, Callable[[], BaseStorage]]] = {
        "sqlite": (plan.database, lambda: RDBStorage(f"sqlite:///{folder / 'study.db'}")),
        "redis_journal": (plan.journal, lambda: JournalStorage(JournalRedisBackend(url))),
        "file_journal": (
            plan.journal,
            lambda: JournalStorage(JournalFileBackend(str(folder / "stock.log"))),
        ),
    }
    rates: dict[str, float | None] = {}
    for pruner, suffix in _PRUNERS.items():
        rates[f"justright{suffix}"] = orchestrator_rate(url, folder, plan.backlog, pruner)
        rates[f"justright_lockstep{suffix}"] = orchestrator_rate(
            url, folder, plan.lockstep, pruner, lockstep=True
        )
    redis.Redis.from_url(url).flushall()
    for name, (size, open_storage) in storages.items():
        rates[name] = stock_rate(open_storage, size)
    rates["postgresql"] = None
    if postgres_programs() is None:
        sys.stderr.write(f"no rate for PostgreSQL: {_NO_POSTGRES}\n")
    else:
        with running_postgres() as database:
            rates["postgresql"] = stock_rate(lambda: RDBStorage(database), plan.database)
    return {name: rate and round(rate, 1) for name, rate in rates.items()}


def show(gaps: dict[str, float], rates: dict[str, float | None], plan: Plan) -> None:
    """The figures as a table for people."""
    print(f"from one job's end to the next one's start (median of {plan.warm_jobs - 1}, ", end="")
    print(f"{plan.fork_jobs - 1} gaps)")
    print(f"  justright worker, warm           {gaps['justright']:>10.1f} ms")
    print(f"  rq.Worker, forks, imports torch  {gaps['rq_worker']:>10.1f} ms")
    print(f"  the same, torch before the fork  {gaps['rq_worker_preloaded']:>10.1f} ms")
    print(f"  rq.Worker / justright            {gaps['ratio']:>10.1f}")
    print()
    print(f"reports per second into a durable study ({plan.backlog.trials} trials running)")
    ours = rates["justright"] or 0.0
    for name, label in _LABELS.items():
        rate = rates[name]
        if rate is None:
            print(f"  {label:<32} not measured: {_NO_POSTGRES}")
        else:
            against = (
                "" if name.startswith("justright") else f"   justright: {ours / rate:,.1f} times"
            )
            print(f"  {label:<32} {rate:>10,.0f} /s{against}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a smoke test: few of everything")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    warnings.simplefilter("ignore", ExperimentalWarning)
    with tempfile.TemporaryDirectory(prefix="justright-bench-") as place:
        folder = Path(place)
        with running_redis(folder) as url:
            gaps = measure_gaps(url, folder, plan)
            rates = measure_reports(url, folder, plan)
    if arguments.json:
        print(json.dumps({"gap_ms": gaps, "reports_per_second": rates}))
    else:
        show(gaps, rates, plan)


if __name__ == "__main__":
    main()
