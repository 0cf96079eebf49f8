"""Mutations of the worker: its trainings, its lanes, its checkpoints, its parent."""

from __future__ import annotations

from tests.mutate.mutation import Mutation

_UNIT = "tests/unit/worker/"
_KINDS = _UNIT + "training/test_kinds_of_fault.py"
_TRAINER = _UNIT + "training/test_task_trainer.py"
_COST = _UNIT + "checkpoints/test_cost.py"
_SOURCES = _UNIT + "user_code/test_sources.py"
_PARENT = _UNIT + "parent/test_refusing_and_orders.py"

MUTATIONS = (
    Mutation(
        "too hot is measured against nothing", "worker/training/trainer.py",
        "reference = self.task.divergence_factor * max(self.scale, gained)",
        "reference = self.task.divergence_factor * abs(initial or 0.0)", (_KINDS,),
    ),
    Mutation(
        "too hot is ten times as far", "justright/task.py",
        "divergence_factor: float = 100.0", "divergence_factor: float = 1e30", (_KINDS,),
    ),
    Mutation(
        "a loss that is no number is none", "worker/training/evaluation.py",
        "    if not math.isfinite(loss):", "    if loss == math.inf:", (_KINDS, _TRAINER),
    ),
    Mutation(
        "checkpoints may cost ten times as much", "worker/checkpoints/store.py",
        "_COST_SHARE = 0.05", "_COST_SHARE = 0.5", (_COST,),
    ),
    Mutation(
        "lanes are no matter for what a checkpoint costs", "worker/checkpoints/store.py",
        "self.lanes * self._cost / _COST_SHARE", "self._cost / _COST_SHARE", (_COST,),
    ),
    Mutation(
        "NumPy's random state is not restored", "worker/lanes/randomness.py",
        "    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))", "    pass",
        (_KINDS,),
    ),
    Mutation(
        "Python's random state is not restored", "worker/lanes/randomness.py",
        "    random.setstate((version, tuple(numbers), gauss))", "    pass", (_KINDS,),
    ),
    Mutation(
        "state of the model's own is not restored", "worker/lanes/trial.py",
        "        restore(self.model, state.get(\"own\", {}))\n", "", (_KINDS,),
    ),
    Mutation(
        "one module for all trials", "worker/training/trainer.py",
        "            return copy.deepcopy(model)", "            return model", (_KINDS,),
    ),
    Mutation(
        "a rate that is not taken passes", "worker/training/inspecting.py",
        "        if found[0] != found[1]:\n            return", "        return", (_KINDS,),
    ),
    Mutation(
        "settings that do not exist pass", "worker/training/inspecting.py",
        "trainer.warnings = check_settings(trainer.task)", "trainer.warnings = []", (_KINDS,),
    ),
    Mutation(
        "batches count alike", "worker/training/stepping.py",
        "number = samples(inputs, targets) or 1", "number = 1", (_KINDS,),
    ),
    Mutation(
        "batches of held-out data are large", "worker/training/samples.py",
        "_VALIDATION_BYTES // max(1, size)", "10**9", (_KINDS,),
    ),
    Mutation(
        "our arguments reach the user's file", "worker/user_code/loading.py",
        "    sys.argv = [str(path)]  #", "    #", (_KINDS,),
    ),
    Mutation(
        "a trial that raised for a nan has failed", "worker/jobs/task_job.py",
        "        if not lost:", "        if True:", (_UNIT + "jobs/test_raised_divergence.py",),
    ),
    Mutation(
        "comments are code", "worker/user_code/sources.py",
        "            content = ast.dump(ast.parse(content)).encode()", "            pass",
        (_SOURCES,),
    ),
    Mutation(
        "a changed helper is the same", "worker/user_code/sources.py",
        "if found.get(name, mark) != mark", "if False", (_SOURCES,),
    ),
    Mutation(
        "a worker that refuses takes the next job", "worker/parent/refusing.py",
        "        if not self._in_a_row:\n            return 0.0", "        return 0.0", (_PARENT,),
    ),
    Mutation(
        "a worker that refuses for ever never rests long", "worker/parent/refusing.py",
        "_IN_A_ROW = 3", "_IN_A_ROW = 30", (_PARENT,),
    ),
    Mutation(
        "a trial that goes on stops its neighbours", "worker/parent/orders.py",
        "all_told = len(told) == len(job.trials)", "all_told = len(told) > 0", (_PARENT,),
    ),
    Mutation(
        "lanes may take the host's memory", "worker/lanes/plan.py",
        "_GPU_MEMORY, _HOST_MEMORY = 0.8, 0.4", "_GPU_MEMORY, _HOST_MEMORY = 0.8, 4.0", (_PARENT,),
    ),
    Mutation(
        "no GPU is seen", "worker/main.py",
        "if line.startswith(\"GPU \")]", "if line.startswith(\"TPU \")]", (_PARENT,),
    ),
    Mutation(
        "a training loss stands for the validation loss", "worker/jobs/metric_reader.py",
        "if not self._chosen and (self._known == key or (not self._known and rank == CLEAR)):",
        "if not self._chosen:", (_UNIT + "jobs/test_metric_reader.py",),
    ),
    Mutation(
        "what is not finite ends a training before it began", "worker/jobs/metric_reader.py",
        "return bool(series.values)", "return True", (_UNIT + "jobs/test_metric_reader.py",),
    ),
    Mutation(
        "a best loss is a loss", "worker/jobs/metric_names.py",
        "\"loss\" not in words or _BEST.intersection(words)", "\"loss\" not in words",
        (_UNIT + "jobs/test_metric_reader.py",),
    ),
    Mutation(
        "programs hold back what they print", "worker/jobs/program.py",
        "{\"PYTHONUNBUFFERED\": \"1\", **own}", "{**own}", (_UNIT + "jobs/test_program.py",),
    ),
    Mutation(
        "a program that ends on nan has failed", "worker/jobs/program.py",
        "ended_because(self._tail) if code > 0 else \"\"", "\"\"",
        (_UNIT + "jobs/test_program.py",),
    ),
    Mutation(
        "linear algebra never fails of nan", "worker/jobs/non_finite.py",
        " or kinds.intersection(_ALGEBRA)", "", (_UNIT + "jobs/test_non_finite.py",),
    ),
    Mutation(
        "of two reports of a step the last one counts", "worker/jobs/objective_trial.py",
        "if step in self.reported:", "if False:", (_UNIT + "jobs",),
    ),
    Mutation(
        "what rises is minimized without a word", "worker/jobs/objective_source.py",
        "if rises(name):", "if False:", (_UNIT + "jobs/test_objective_source.py",),
    ),
)  # fmt: skip
