"""Optuna's samplers, by the names of the command line.

Two things that Optuna leaves to its users are mended here: samplers learn from trials that were
pruned or diverged, and a sampler that comes back after a restart does not repeat itself.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Container, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from justright.errors import StorageError
from justright.spec import KNOWN_GOOD_LR, StudySpec
from orchestrator.search.lessons import above
from orchestrator.search.optuna.bisection import RESOLUTION, BisectionSampler
from orchestrator.search.space import Distributions
from orchestrator.storage import ledger

LEARNS_NOTHING = frozenset({"random", "qmc", "grid"})  #: Samplers that look at no result.
TPE_STARTUP = 10  #: Trials that TPE, and GP, draw at random first.
_GRID = 3  # values of a range beside the rate, in a grid


def start_rates(spec: StudySpec, lr_range: tuple[float, float]) -> list[float]:
    """Rates to begin with: a known-good one and, for ``auto``, a spread over the range.

    The spread halves the widest gap each time (van der Corput's sequence), so whatever its length
    it covers the range evenly; a random start may leave decades untried.
    """
    low, high = lr_range
    rates = [KNOWN_GOOD_LR] if low <= KNOWN_GOOD_LR <= high else []
    if spec.sampler == "auto":
        ratio = math.log(high / low)
        spread = max(2, min(7, spec.trials // 3))
        points = (low * math.exp(ratio * _van_der_corput(i)) for i in range(1, spread + 1))
        rates += [rate for rate in points if not _is_tried(rate, rates)]
    return rates[: spec.trials]


def _is_tried(rate: float, tried: Sequence[float]) -> bool:
    return any(abs(math.log10(rate / other)) < RESOLUTION for other in tried)


def _van_der_corput(index: int) -> float:
    value, unit = 0.0, 0.5
    while index:
        value += unit * (index & 1)
        index >>= 1
        unit /= 2
    return value


def make_sampler(spec: StudySpec, space: Distributions, asked: int) -> BaseSampler:
    """The sampler of a study that has asked for ``asked`` trials so far.

    Raises:
        StorageError: it needs a package that is not installed here.
    """
    # A sampler's random state is not stored: after a restart it must not draw the same again.
    seed = (spec.seed * 7919 + asked) % 2**31
    starts = len(start_rates(spec, _lr_range(space)))
    match spec.sampler:
        case "auto" if len(space) == 1:
            return BisectionSampler(seed)
        case "auto" | "tpe":
            startup = starts if spec.sampler == "auto" else TPE_STARTUP
            sampler: BaseSampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
            return LearnsFromAll(sampler, uses_pruned=True)
        case "gp":
            _need("torch", "gp")
            return LearnsFromAll(
                optuna.samplers.GPSampler(seed=seed, deterministic_objective=False),
                uses_pruned=False,
            )
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case "qmc":
            _need("scipy", "orchestrator")
            # Its place in the sequence is stored in the study, so the seed must stay the same.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return optuna.samplers.QMCSampler(
                    seed=spec.seed, scramble=True, warn_independent_sampling=False
                )
        case "grid":
            return EndlessGrid(_grid(spec, space, starts), seed=spec.seed)


def _lr_range(space: Distributions) -> tuple[float, float]:
    distribution = cast(FloatDistribution, space["lr"])
    return distribution.low, distribution.high


def _grid(spec: StudySpec, space: Distributions, starts: int) -> dict[str, list[Any]]:
    """As many points as the study has trials to spend, evenly on the log scale, ends included."""
    beside = {name: _values(space[name], _GRID) for name in space if name != "lr"}
    others = math.prod(len(values) for values in beside.values())
    return {"lr": _values(space["lr"], max(2, (spec.trials - starts) // others)), **beside}


def _values(distribution: BaseDistribution, count: int) -> list[Any]:
    """All choices, or so many values of a range, ends included."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution)
    low, high = distribution.low, distribution.high
    shares = [i / (count - 1) for i in range(count - 1)]
    if distribution.log:
        return [*(low * (high / low) ** share for share in shares), high]
    return [*(low + (high - low) * share for share in shares), high]


def _need(package: str, extra: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise StorageError(
            f"this sampler needs {package} where the orchestrator runs: "
            f"pip install 'justright[{extra}]'."
        )


class EndlessGrid(optuna.samplers.GridSampler):
    """Optuna's grid without its call of ``Study.stop``, which only works inside ``optimize``.

    A trial that was enqueued with some of its parameters gets the others at random.
    """

    def __init__(self, search_space: dict[str, list[Any]], seed: int) -> None:
        super().__init__(search_space, seed)
        self._free = optuna.samplers.RandomSampler(seed=seed)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        return None

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if "grid_id" not in trial.system_attrs:
            return self._free.sample_independent(study, trial, param_name, param_distribution)
        return super().sample_independent(study, trial, param_name, param_distribution)


_MOST_TAUGHT = 200  # finished trials that a sampler learns from, at most ...
_BEST_TAUGHT = 75  # ... of which so many are the best


class LearnsFromAll(BaseSampler):
    """Lets a sampler learn from every finished trial, the pruned and the diverged ones included.

    In Optuna a pruned trial carries its last loss as its value, a diverged one perhaps none at all.
    """

    def __init__(self, inner: BaseSampler, uses_pruned: bool) -> None:
        """``uses_pruned``: whether Optuna's sampler looks at pruned trials.

        True, as of TPE, which ranks them by how long they ran. That would speak for a rate that
        blew up late, so a diverged trial is shown without its losses: behind all others.

        False, as of GP, which leaves them out and proposes the same hopeless rate again and again.
        So they are shown as complete with their last loss, and diverged ones with a finite value
        worse than all others.
        """
        self._inner, self._uses_pruned = inner, uses_pruned
        self._shown: tuple[int | None, _Lesson | None] = (None, None)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        return self._inner.infer_relative_search_space(self._lesson(study, trial), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Distributions
    ) -> dict[str, Any]:
        return self._inner.sample_relative(self._lesson(study, trial), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._inner.sample_independent(
            self._lesson(study, trial), trial, param_name, param_distribution
        )

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._inner.reseed_rng()

    def _lesson(self, study: Study, trial: FrozenTrial | None = None) -> Study:
        """The study as it is shown for one proposal."""
        number = None if trial is None else trial.number
        known, lesson = self._shown
        if lesson is None or number is None or known != number:
            lesson = _Lesson(study, self._uses_pruned)
            self._shown = (number, lesson)
        return cast(Study, lesson)


class _Lesson:
    """A study as a sampler shall see it: the same but for what its trials are worth.

    Samplers read trials through ``Study._get_trials``; Optuna's Hyperband narrows it likewise.
    """

    def __init__(self, study: Study, uses_pruned: bool) -> None:
        self._study, self._uses_pruned = study, uses_pruned
        self._all: list[FrozenTrial] | None = None  #: Read once for a proposal.

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        if self._all is None:
            trials = _telling(self._study._get_trials(deepcopy=False, states=None))
            worst = _worse_than_all(trials)
            self._all = [self._taught(trial, worst) for trial in trials]
        found = [trial for trial in self._all if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    get_trials = _get_trials

    def _taught(self, trial: FrozenTrial, worst: float) -> FrozenTrial:
        if trial.state != TrialState.PRUNED:
            return trial
        diverged = ledger.DIVERGED in trial.user_attrs
        if self._uses_pruned:
            # TPE ranks the pruned by their last step, and those without any behind all others.
            return _without_losses(trial) if diverged else trial
        if diverged:
            return _as_complete(trial, worst)
        last = _last_loss(trial)
        return _as_complete(trial, worst if last is None else min(last, worst))


def _telling(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Of very many trials those that tell a sampler most: the best, and the latest.

    What TPE takes for good are at most the 25 best (Optuna's own rule), which are all among them;
    so a proposal costs the same in a study of thousands.
    """
    finished = [trial for trial in trials if trial.state.is_finished()]
    if len(finished) <= _MOST_TAUGHT:
        return trials
    valued = [trial for trial in finished if trial.values is not None]
    best = sorted(valued, key=lambda trial: trial.values[0])[:_BEST_TAUGHT]
    latest = finished[_BEST_TAUGHT - _MOST_TAUGHT :]
    kept = {trial.number for trial in (*best, *latest)}
    return [t for t in trials if not t.state.is_finished() or t.number in kept]


def _as_complete(trial: FrozenTrial, value: float) -> FrozenTrial:
    changed = copy.copy(trial)
    changed.state = TrialState.COMPLETE
    changed.value = value
    return changed


def _without_losses(trial: FrozenTrial) -> FrozenTrial:
    changed = copy.copy(trial)
    changed.intermediate_values = {}
    return changed


def _last_loss(trial: FrozenTrial) -> float | None:
    if not trial.intermediate_values:
        return None
    last = trial.intermediate_values[max(trial.intermediate_values)]
    return last if math.isfinite(last) else None


def _worse_than_all(trials: Sequence[FrozenTrial]) -> float:
    """A finite value above every sane one, by the spread of the values: no outlier for a GP."""
    values: list[float] = []
    for trial in trials:
        if ledger.DIVERGED in trial.user_attrs:
            continue
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            values.append(trial.value)
        elif trial.state == TrialState.PRUNED and (last := _last_loss(trial)) is not None:
            values.append(last)
    if not values:
        return 1.0
    return above(values)
