"""Mutations of the search: what is trained next, and what is expected of it."""

from __future__ import annotations

from tests.mutate.mutation import Mutation

_SEARCH = "tests/unit/orchestrator/search/"
_PLANNER = _SEARCH + "test_planner.py"
_FREEZE = _SEARCH + "test_freeze_thaw.py"
_RATE_FIRST = _SEARCH + "test_rate_first.py"
_TABLES = _SEARCH + "test_calibration.py"
_NUISANCES = "tests/unit/orchestrator/test_nuisances.py"
_POLICY = "orchestrator/search/freeze_thaw/policy.py"
_MODEL = "orchestrator/search/freeze_thaw/curve_model.py"

MUTATIONS = (
    Mutation(
        "what is gained at once is never taken off", _MODEL,
        "found[_TRIVIAL * self._leading() <= least] = 0", "found[0] = 0", (_PLANNER,),
    ),
    Mutation(
        "... and taken off though a rate beside the best has not moved", _MODEL,
        "found = np.where(_TRIVIAL > 0, -np.inf, 0.0)", "found = np.zeros(len(_TRIVIAL))",
        (_PLANNER,),
    ),
    Mutation(
        "the noise of seeds is worth a training", _MODEL,
        "excess = _regrets(progress, spread_of_seeds[:, None])", "excess = _regrets(progress)",
        (_PLANNER,),
    ),
    Mutation(
        "a frozen trial matters by its loss alone", "orchestrator/answers/importance.py",
        "behind = (trial.value - by_then) / (initial - by_then)", "return trial.value",
        (_RATE_FIRST,),
    ),
    Mutation(
        "the interval is a third as wide", _POLICY,
        "spread * gained)", "spread * gained / 3)", (_TABLES,),
    ),
    Mutation(
        "the plateau needs less chance", _POLICY, "_SAFE = 0.94", "_SAFE = 0.2", (_TABLES,),
    ),
    Mutation(
        "failed rates are not closed", _POLICY,
        "trials[x].state != told and not _diverged(trials[x])", "False", (_TABLES,),
    ),
    Mutation(
        "a rate in a narrow range is rounded", _POLICY,
        "for digits in (6, 17):", "for digits in (6,):", (_NUISANCES,),
    ),
    Mutation(
        "a hint weighs nothing", _MODEL, "_UNHINTED = 0.2", "_UNHINTED = 1.0", (_TABLES,),
    ),
    Mutation(
        "a hint is ten times as wide", _MODEL,
        "_HINT_SPREAD = 0.4", "_HINT_SPREAD = 4.0", (_TABLES,),
    ),
    Mutation(
        "what a task does differently is not seen", _MODEL,
        "_RESIDUAL, _REACH = 0.05, 0.4", "_RESIDUAL, _REACH = 0.0001, 0.4", (_TABLES,),
    ),
    Mutation(
        "a full training must promise twice as much", "orchestrator/search/freeze_thaw/planner.py",
        "<= _WORTH * spent", "<= 2 * _WORTH * spent", (_TABLES,),
    ),
    Mutation(
        "replicates go to all finalists", "orchestrator/search/asking.py",
        "open_ = [t for t in finalists if not _apart(losses[t.number], best)]",
        "open_ = list(finalists)", (_TABLES,),
    ),
    Mutation(
        "two runs tell a rate apart", "orchestrator/search/asking.py",
        "min(len(losses), len(best)) < 3", "min(len(losses), len(best)) < 2", (_TABLES,),
    ),
    Mutation(
        "one finalist less", "orchestrator/search/asking.py", "FINALISTS = 3", "FINALISTS = 2",
        (_TABLES,),
    ),
    Mutation(
        "a trial that a kill has left is asked twice", "orchestrator/search/asking.py",
        "self._waits = self._any_waits()  #: A trial", "self._waits = False  #: A trial",
        (_SEARCH + "test_samplers.py",),
    ),
    Mutation(
        "a warm-up is judged from its first step", "orchestrator/search/rate_first.py",
        "return warmup + _AFTER if warmup else 0.0", "return 0.0", (_TABLES,),
    ),
    Mutation(
        "the highest loss is recommended", "orchestrator/search/rate_first.py",
        "return dict(min(complete, key=lambda trial: trial.value or 0.0).params)",
        "return dict(max(complete, key=lambda trial: trial.value or 0.0).params)", (_TABLES,),
    ),
    Mutation(
        "the rate does not move with the batch", "orchestrator/search/rate_first.py",
        "    return math.sqrt(size)", "    return 1.0", (_RATE_FIRST,),
    ),
    Mutation(
        "what cannot pause is paused", "orchestrator/search/choosing.py",
        "pauses = inspection.pauses and", "pauses =", (_TABLES,),
    ),
)  # fmt: skip
