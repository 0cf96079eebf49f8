"""Mutations of the orchestrator: its studies, its answers, its storage."""

from __future__ import annotations

from tests.mutate.mutation import Mutation

_UNIT = "tests/unit/orchestrator/"
_RECONCILE = _UNIT + "test_reconcile.py"
_RECOVERY = _UNIT + "test_recovery.py"
_NUISANCES = _UNIT + "test_nuisances.py"
_COMMANDS = _UNIT + "test_commands.py"
_STUDIES = _UNIT + "studies/"
_INTERRUPTIONS = _STUDIES + "test_interruptions.py"
_EDITED = _STUDIES + "test_edited_task.py"
_REFUSALS = _STUDIES + "test_refusals.py"
_FENCING = _STUDIES + "test_fencing.py"
_ANSWER = _UNIT + "answers/test_answer.py"
_DIAGNOSIS = _UNIT + "answers/test_diagnosis.py"

_RUN = "orchestrator/studies/study_run.py"
_BOOK = "orchestrator/studies/trial_book.py"
_TRIALS = "orchestrator/studies/trials.py"
_LOOP = "orchestrator/reconcile.py"

MUTATIONS = (
    # -- attempts, pools, leases
    Mutation(
        "older attempts are accepted", _TRIALS,
        "record.attempt != attempt", "record.attempt < attempt", (_FENCING,),
    ),
    Mutation(
        "studies of other pools are dispatched", _LOOP,
        "[run for run in self._active() if run.record.spec.pool == pool]", "self._active()",
        (_FENCING,),
    ),
    Mutation(
        "no fairness among studies", _LOOP,
        "sorted(runs, key=lambda run: busy[run.name])", "list(runs)", (_FENCING,),
    ),
    Mutation(
        "a backlog is no guard", _LOOP,
        "if now >= self._look_at_places and not backlog:", "if now >= self._look_at_places:",
        (_FENCING,),
    ),
    Mutation(
        "what was missing long ago is held against a job", _LOOP,
        "                self._missing_since.clear()", "                pass", (_FENCING,),
    ),
    Mutation(
        "a job that is there again is still missing", _LOOP,
        "                self._missing_since.pop(job, None)\n                continue",
        "                continue", (_FENCING,),
    ),
    Mutation(
        "a third of a lease is none", _LOOP,
        "self._lease / 3 if running else self._lease", "0.0 if running else self._lease",
        (_FENCING, _RECOVERY),
    ),
    Mutation(
        "until is written after the move", _BOOK,
        """        self._writer.until(record, until)
        self._writer.move(record, "d")
        self._writer.begin_again(record)
        return record""",
        """        self._writer.move(record, "d")
        self._writer.until(record, until)
        self._writer.begin_again(record)
        return record""",
        (_FENCING,),
    ),
    # -- one study hurts nobody else
    Mutation(
        "a study's fault passes", "orchestrator/studies/guard.py",
        "        except Exception as error:\n            log.exception(\"study %s fails\"",
        "        except ZeroDivisionError as error:\n            log.exception(\"study %s fails\"",
        (_NUISANCES,),
    ),
    Mutation(
        "what cannot be ended in order is not broken off", "orchestrator/studies/guard.py",
        "        run.break_off(failure)", "        pass", (_NUISANCES,),
    ),
    Mutation(
        "losses are not scaled", "orchestrator/search/unit.py",
        "0 if abs(exponent) <= _ORDINARY else exponent", "0", (_NUISANCES,),
    ),
    Mutation(
        "the budget of trials is left to the policy", "orchestrator/studies/study_search.py",
        "if searching <= spec.trials and len(book.trials) <= most_trials(spec):", "if True:",
        (_NUISANCES,),
    ),
    Mutation(
        "a search that has nothing goes on for ever", "orchestrator/studies/study_search.py",
        "            self.exhausted = True", "            pass", (_NUISANCES,),
    ),
    Mutation(
        "the timeout waits for the inspection", _RUN,
        "            self.clock.start()  # it is at work, or waits for somebody who is",
        "            pass", (_NUISANCES,),
    ),
    # -- refusals and commands
    Mutation(
        "a refusal costs an attempt", _RUN,
        "self._book.put_out_again(record, failure.message)\n        self.record.version += 1",
        "self._book.lose(record)\n        self.record.version += 1", (_REFUSALS,),
    ),
    Mutation(
        "one refusal is that of all", "orchestrator/studies/refusals.py",
        "if not names or any(name not in self._said for name in names):", "if not names:",
        (_REFUSALS,),
    ),
    Mutation(
        "no patience with who is just starting", "orchestrator/studies/refusals.py",
        "_PATIENCE = 5.0  #", "_PATIENCE = 0.0  #", (_REFUSALS,),
    ),
    Mutation(
        "a worker that has trained is not believed", "orchestrator/studies/refusals.py",
        "or worker not in self._served", "or True", (_REFUSALS,),
    ),
    Mutation(
        "the least of the lanes rules the pool", _LOOP,
        "most = max(told) if len(told) == len(workers) else None",
        "most = min(told) if len(told) == len(workers) else None", (_REFUSALS,),
    ),
    Mutation(
        "a name that was made up may be an old one's", "orchestrator/studies/commands.py",
        "        if message.fresh:", "        if False:", (_COMMANDS,),
    ),
    Mutation(
        "a command is answered before the commit", _LOOP,
        "            self._broker.answer(outbox.replies)", "            pass", (_COMMANDS,),
    ),
    Mutation(
        "an edited task goes on", _RUN,
        "        self.pause()\n        choice", "        choice", (_EDITED,),
    ),
    Mutation(
        "mixed losses are not said", _RUN,
        "            record.warn(_MIXED", "            str(_MIXED",
        (_EDITED,),
    ),
    # -- giving up, snapshots
    Mutation(
        "two failures end a study", "orchestrator/studies/giving_up.py",
        "_HOPELESS = 3", "_HOPELESS = 2", (_UNIT + "studies/test_giving_up.py", _RECONCILE),
    ),
    Mutation(
        "the refused are not shown", "orchestrator/studies/snapshot.py",
        "        refused=record.refused,\n", "", (_FENCING,),
    ),
    Mutation(
        "the plan is not shown", "orchestrator/studies/snapshot.py",
        "        plan=record.inspection.plan if record.inspection else None,\n", "", (_FENCING,),
    ),
    Mutation(
        "a job mixes steps", _RUN,
        "alike = [record for record in waiting if record.until == waiting[0].until]",
        "alike = waiting", (_FENCING,),
    ),
    Mutation(
        "replicates count in what mattered", "orchestrator/studies/current_answer.py",
        "trials = originals(self._study.get_trials(deepcopy=False))",
        "trials = self._study.get_trials(deepcopy=False)", (_FENCING,),
    ),
    Mutation(
        "a turn looks at all trials", _TRIALS,
        "            del self._active[number]", "            pass",
        (_STUDIES + "test_growth.py",),
    ),
    # -- answers
    Mutation(
        "a diverged trial meets the target", "orchestrator/answers/answer.py",
        "result.best <= target and not result.diverged", "result.best <= target", (_ANSWER,),
    ),
    Mutation(
        "a failed replicate flips the answer", "orchestrator/answers/answer.py",
        "return len(self.losses) + self.failed", "return len(self.losses)", (_ANSWER,),
    ),
    Mutation(
        "flat and noisy are both said", "orchestrator/answers/advice.py",
        "noisy = None if flat else", "noisy =", (_ANSWER,),
    ),
    Mutation(
        "a jump needs be twice as high", "orchestrator/answers/diagnosis.py",
        "> _JUMP * gained", "> 2 * _JUMP * gained", (_DIAGNOSIS,),
    ),
    Mutation(
        "what is behind may be far behind", "orchestrator/answers/diagnosis.py",
        "gained < _BEHIND * ahead", "gained < 0.5 * ahead", (_DIAGNOSIS,),
    ),
    Mutation(
        "what has risen may rise more", "orchestrator/answers/diagnosis.py",
        "> _RISEN * gained", "> 5 * _RISEN * gained", (_DIAGNOSIS,),
    ),
    Mutation(
        "what is stuck may be stuck more", "orchestrator/answers/diagnosis.py",
        "gained <= _STUCK * ahead", "gained <= 0 * ahead", (_DIAGNOSIS,),
    ),
    # -- storage, leadership
    Mutation(
        "a token is not compared", "orchestrator/storage/fence.py",
        "if found != token:", "if False:", ("tests/unit/orchestrator/storage/test_token.py",),
    ),
    Mutation(
        "lost leadership goes unnoticed", "orchestrator/main.py",
        "            self.lost.set()", "            pass", (_UNIT + "test_leadership.py",),
    ),
    Mutation(
        "trials that trained on do not count", "orchestrator/studies/giving_up.py",
        " or record.step > furthest or at_work", " or at_work", (_STUDIES + "test_giving_up.py",),
    ),
    Mutation(
        "the edge of an objective's own range is the flag's", "orchestrator/answers/advice.py",
        "not math.isclose(end, limit)", "False", (_UNIT + "answers",),
    ),
    Mutation(
        "below what the leader returned is hopeless", "orchestrator/search/optuna/pruners.py",
        "reached <= leader.value", "False", (_UNIT + "search", _UNIT + "answers"),
    ),
)  # fmt: skip
