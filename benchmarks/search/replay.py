"""Replays real trainings through the orchestrator's own studies, to see what a search costs.

    python -m benchmarks.search.replay CURVES.json.gz [--policy NAME] [--seeds N] [--json]

A study (``StudyRun`` with its trials and its policy, nothing of it made for this) gives jobs; what
a worker would report is read from a file of curves instead. Regret of a rate: its lowest loss above
the best rate's, over the median rate's above it, 1 where it diverged; of the mean over seeds, where
the file has several. Cost c: epochs or steps trained, over the horizon. At each cost the
recommendation counts: what the search would answer if it stopped. With lanes, *rounds* is the time
if all lanes of a job run at once, in full trainings.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table

from benchmarks.search.curve_files import CurvesError
from benchmarks.search.replay_curves import CurveTask, read_tasks
from benchmarks.search.replay_policies import NAMES, PLAIN, SPECS
from justright.lane_plan import LanePlan
from justright.lifecycle import StudyState
from justright.messages import Answer, Inspection, Outcome, OutcomeKind, Report, Started, TrainJob
from justright.spec import make_spec
from orchestrator.search.choosing import choose_policy
from orchestrator.storage import ledger
from orchestrator.studies.study_run import StudyRun

COSTS = (0.25, 0.5, 1, 2, 4, 8)


@dataclass
class Track:
    """Regret by what was spent so far: epochs, or the time of a job's longest trial."""

    horizon: int
    found: dict[float, float] = field(default_factory=dict)

    def due(self, epochs: float) -> list[float]:
        """The costs that have been reached, and have no regret yet."""
        return [c for c in COSTS if c not in self.found and epochs >= c * self.horizon - 1e-9]

    def fill(self, regret: float) -> dict[str, float]:
        """What counts at each cost; where the search had stopped before, its answer."""
        return {f"{c:g}": self.found.get(c, regret) for c in COSTS}


@dataclass
class Result:
    """One replayed study."""

    task: str
    policy: str
    regret: dict[str, float]
    timed: dict[str, float]
    spent: float  #: Full trainings until it stopped.
    rounds: float
    answer: float  #: Regret of what it answered.
    seconds: float  #: For each decision.


class Replay:
    """A study at work on the curves of a task."""

    def __init__(self, task: CurveTask, policy: str, seed: int, lanes: int) -> None:
        self._task, self._policy, self._lanes = task, policy, lanes
        self._epochs = self._rounds = 0
        self._steps: dict[int, int] = {}
        self._by_cost, self._by_time = Track(task.horizon), Track(task.horizon)
        self._thinking, self._decisions = 0.0, 0
        low, high = task.lr_range
        values = {"name": task.study, "task": {"target": "/t.py:T"}, "lr": (low, high)}
        spec = make_spec({**values, "seed": seed, **SPECS.get(policy, {})})
        self._seed = seed
        storage = optuna.storages.InMemoryStorage()
        study = optuna.create_study(study_name=task.study, storage=storage)
        study.set_user_attr(ledger.STATE, StudyState.INSPECTING)
        study.set_user_attr(ledger.SPEC, spec.model_dump(mode="json"))
        make_policy = PLAIN.get(policy, choose_policy)
        self._run = StudyRun(study, storage, max_attempts=3, make_policy=make_policy)
        self._look()

    def _look(self) -> None:
        job = self._run.next_job(self._lanes, 1, _new_id)
        assert job is not None
        plan = LanePlan(lanes=self._lanes)
        length = "steps" if self._task.by_steps else "epochs"
        about: dict[str, Any] = {
            length: self._task.horizon,
            "initial_loss": self._task.initial_loss,
        }
        self._run.apply(Inspection(study=job.study, job=job.id, plan=plan, **about))

    def result(self) -> Result:
        """Go on until the search ends or has spent enough."""
        most = COSTS[-1] * self._task.horizon
        while self._epochs < most and (job := self._next()) is not None:
            self._train(job)
        answer = self._regret()
        return Result(
            task=self._task.name,
            policy=self._policy,
            regret=self._by_cost.fill(answer),
            timed=self._by_time.fill(answer),
            spent=self._epochs / self._task.horizon,
            rounds=self._rounds / self._task.horizon,
            answer=answer,
            seconds=self._thinking / max(1, self._decisions),
        )

    @property
    def answer(self) -> Answer | None:
        """The study's, once it has ended."""
        return self._run.record.answer

    def _next(self) -> TrainJob | None:
        began = time.perf_counter()
        reason = self._run.ending.reason()
        if reason is not None:
            self._run.finish(StudyState.COMPLETE, reason)
            return None
        job = self._run.next_job(self._lanes, 1, _new_id)
        self._thinking += time.perf_counter() - began
        self._decisions += 1
        assert job is None or isinstance(job, TrainJob), "the task has been looked at"
        return job

    def _regret(self) -> float:
        """Of the answer, or of what it would be now."""
        if self.answer is not None:
            return self._task.regret(self.answer.best_lr)
        policy = self._run.search.policy
        found = policy.recommend() if policy is not None else None
        return self._task.regret((found or {}).get("lr"))

    def _train(self, job: TrainJob) -> None:
        """Answer as a worker would, mark by mark; trials that are behind catch up first."""
        horizon = self._task.horizon
        until = job.until or horizon
        numbers = tuple((work.number, work.attempt) for work in job.trials)
        self._run.apply(Started(study=job.study, job=job.id, worker="w", trials=numbers))
        curves = {w.number: self._task.curve(w.lr, w.seed - self._seed) for w in job.trials}
        before = min(self._steps.get(work.number, 0) for work in job.trials)
        left = list(job.trials)
        for step in (m for m in job.marks or range(1, until + 1) if before < m <= until):
            if not left:
                break
            self._rounds += step - before
            before = step
            ended = set()
            for work in left:
                come = self._steps.get(work.number, 0)
                if come >= step:
                    continue
                self._steps[work.number] = step
                self._epochs += step - come
                loss = curves[work.number][step]
                ids: dict[str, Any] = {
                    "study": job.study,
                    "trial": work.number,
                    "attempt": work.attempt,
                }
                dead = not math.isfinite(loss)
                self._run.apply(Report(step=step, loss=None if dead else loss, **ids))
                if dead or step == until:
                    whole = OutcomeKind.COMPLETE if until == horizon else OutcomeKind.PAUSED
                    kind = OutcomeKind.DIVERGED if dead else whole
                    self._run.apply(Outcome(kind=kind, step=step, **ids))
                    ended.add(work.number)
            ended |= self._judge(job, step)
            left = [work for work in left if work.number not in ended]
            self._mark()

    def _judge(self, job: TrainJob, step: int) -> set[int]:
        """Stop those that the policy gives up."""
        began = time.perf_counter()
        self._run.prune()
        self._thinking += time.perf_counter() - began
        attempts = {work.number: work.attempt for work in job.trials}
        told = {n: d for n, d in self._run.drain().decisions.items() if n in attempts}
        for number, decision in told.items():
            if decision.attempt == attempts[number]:
                ids: dict[str, Any] = {
                    "study": job.study,
                    "trial": number,
                    "attempt": attempts[number],
                }
                self._run.apply(Outcome(kind=OutcomeKind.STOPPED, step=step, **ids))
        return set(told)

    def _mark(self) -> None:
        costs, times = self._by_cost.due(self._epochs), self._by_time.due(self._rounds)
        if costs or times:
            regret = self._regret()
            self._by_cost.found |= dict.fromkeys(costs, regret)
            self._by_time.found |= dict.fromkeys(times, regret)


def _new_id() -> str:
    return uuid.uuid4().hex


def replay(task: CurveTask, policy: str, seed: int, lanes: int) -> Result:
    """One study of one task."""
    return Replay(task, policy, seed, lanes).result()


def _job(arguments: tuple[CurveTask, str, int], lanes: int) -> Result:
    return replay(*arguments, lanes)


def summary(results: Sequence[Result], lanes: int) -> dict[str, Any]:
    """Means over tasks and seeds, for each policy and each of its tasks."""
    policies, tasks = {}, []
    for name in dict.fromkeys(result.policy for result in results):
        mine = [result for result in results if result.policy == name]
        whole = _means(mine, lanes)
        worst = sorted(result.answer for result in mine)
        whole["stop"]["p90_regret"] = worst[min(len(worst) - 1, int(0.9 * len(worst)))]
        whole["seconds_per_decision"] = statistics.fmean(result.seconds for result in mine)
        policies[name] = whole
        for task in dict.fromkeys(result.task for result in mine):
            about = _means([result for result in mine if result.task == task], lanes)
            tasks.append({"task": task, "policy": name, **about})
    return {"policies": policies, "tasks": tasks}


def _means(results: Sequence[Result], lanes: int) -> dict[str, Any]:
    keys = [f"{c:g}" for c in COSTS]
    found: dict[str, Any] = {
        "regret": {k: statistics.fmean(r.regret[k] for r in results) for k in keys},
        "stop": {
            "full_trainings": statistics.fmean(r.spent for r in results),
            "regret": statistics.fmean(r.answer for r in results),
        },
    }
    if lanes > 1:
        found["rounds"] = {
            "stop": statistics.fmean(r.rounds for r in results),
            "regret": {k: statistics.fmean(r.timed[k] for r in results) for k in keys},
        }
    return found


def show(found: dict[str, Any], lanes: int) -> None:
    """The policies, as a table in percent."""
    title = "mean regret in % at cost c (full trainings)"
    table = Table(
        "policy", *(f"c = {c:g}" for c in COSTS), "stops at c", "regret", "p90", title=title
    )
    if lanes > 1:
        table.add_column("rounds")
    table.add_column("ms / decision")
    for name, about in found["policies"].items():
        stop = about["stop"]
        shares = [*about["regret"].values(), stop["regret"], stop["p90_regret"]]
        cells = [f"{100 * share:.1f}" for share in shares]
        cells.insert(len(COSTS), f"{stop['full_trainings']:.2f}")
        if lanes > 1:
            cells.append(f"{about['rounds']['stop']:.2f}")
        table.add_row(name, *cells, f"{1000 * about['seconds_per_decision']:.1f}")
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("curves", type=Path)
    parser.add_argument("--policy", action="append", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--lanes", type=int, default=1, metavar="K")
    parser.add_argument("--only", default="", metavar="TEXT", help="only tasks with it in the name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = arguments.policy or list(NAMES)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"--policy: found {unknown[0]}, expected one of {', '.join(NAMES)}")
    for option in ("seeds", "lanes", "jobs"):
        if getattr(arguments, option) < 1:
            parser.error(f"--{option}: found {getattr(arguments, option)}, expected at least 1")
    try:
        tasks = read_tasks(arguments.curves)
    except CurvesError as error:
        parser.error(str(error))
    usable = [task for task in tasks if task.usable and arguments.only in task.name]
    sys.stderr.write(f"{len(usable)} of {len(tasks)} tasks\n")
    if not usable:
        parser.error("no task has four whole rates and a median above its best, and that name")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    wanted = [(t, n, s) for n in names for t in usable for s in range(arguments.seeds)]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(partial(_job, lanes=arguments.lanes), wanted))
    found = summary(results, arguments.lanes)
    if arguments.json:
        print(json.dumps(found))
    else:
        show(found, arguments.lanes)


if __name__ == "__main__":
    main()
