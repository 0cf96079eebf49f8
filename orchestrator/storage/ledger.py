"""The ledger: the one Optuna storage, and the names of what justright writes into it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend

from justright.errors import StorageError, UsageError
from justright.settings import without_password
from orchestrator.storage.journal import GroupCommitJournal

log = logging.getLogger(__name__)

optuna.logging.set_verbosity(optuna.logging.WARNING)

# User attributes of a study.
SPEC = "spec"  #: StudySpec, as JSON data
STATE = "state"  #: StudyState
INSPECTION = "inspection"  #: Inspection: what a worker saw of the task
RANGE = "lr_range"  #: [low, high] that is searched, where it is not the spec's
METRIC = "metric"  #: the name by which a program's losses are read
WARNINGS = "warnings"  #: what was found to be odd, in sentences
HINT = "hint"  #: the best rate of a similar study, from which the search begins
REASON = "reason"  #: why the study ended
ANSWER = "answer"  #: Answer, as JSON data
SUBMISSION = "submission"  #: id of the latest Submit
SPENT = "seconds"  #: seconds since the submission, pauses of study and service left out
FAILURE = "failure"  #: Failure, where the study failed

# User attributes of a trial. STATE and FAILURE as above.
ATTEMPT = "attempt"
LOST = "lost"  #: attempts that were lost, not given back
SEED = "seed"
PLACE = "place"  #: what sets the study's checkpoints apart from those of others of its name
TIDIED = "tidied"  #: whether all were told that the study has ended
JOB = "job"  #: id of the job that carries it
UNTIL = "until"  #: the step that it is to be trained to at present; absent: the horizon
REPLICATE_OF = "replicate_of"  #: number of the trial whose rate it repeats
BESIDE = "beside"  #: present: it searches settings beside the rate
STOPPING = "stopping"  #: why it was told to stop
DIVERGED = "diverged"  #: why it counts as diverged
WHY = "reason"  #: why it was pruned
WORKER = "worker"
TRAIN = "train_losses"  #: [step, loss] of each epoch's training loss, when it paused or ended
DIAGNOSIS = "diagnosis"  #: what is the matter with it, in a word


@dataclass(frozen=True)
class Ledger:
    """An Optuna storage and how to make what was written durable.

    Writes may wait in memory until ``commit`` returns. Nothing may be told to the outside
    (a job, a decision, an answer) before what it rests on is committed.
    """

    storage: BaseStorage
    commit: Callable[[], None]
    close: Callable[[], None]
    failures: tuple[type[Exception], ...] = ()  #: What its calls raise while a database is away.

    def studies(self) -> dict[str, optuna.Study]:
        """All studies that justright made, by name."""
        found = self.storage.get_all_studies()
        return {
            study.study_name: optuna.load_study(study_name=study.study_name, storage=self.storage)
            for study in found
            if SPEC in study.user_attrs
        }

    def study(self, name: str) -> optuna.Study:
        """One of them."""
        return optuna.load_study(study_name=name, storage=self.storage)

    def drop(self, name: str) -> None:
        """Delete a study, with all its trials."""
        optuna.delete_study(study_name=name, storage=self.storage)

    def create(self, name: str, attributes: dict[str, Any]) -> optuna.Study:
        """A new study that minimizes the loss. It is ours once SPEC is written: the last one.

        Raises:
            UsageError: the storage has a study of that name, made by somebody else.
        """
        try:
            study = optuna.create_study(storage=self.storage, study_name=name, direction="minimize")
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(study_name=name, storage=self.storage)
            if STATE not in study.user_attrs or study.trials:  # else: one that a kill left
                raise UsageError(
                    f"the study storage has a study {name} that was not made by justright. It is "
                    "left as it is: choose another --name."
                ) from None
        for key, value in attributes.items():
            study.set_user_attr(key, value)
        return study


def open_ledger(place: str) -> Ledger:
    """Open the storage: a journal file's path, or a SQLAlchemy URL.

    Raises:
        StorageError: it refused. Passwords are not shown.
    """
    if "://" not in place:
        journal = GroupCommitJournal(Path(place).expanduser().absolute())
        try:
            storage = replayed(journal, place)
        except StorageError:
            journal.close()
            raise
        return Ledger(storage, journal.commit, journal.close)
    from sqlalchemy.exc import SQLAlchemyError

    from orchestrator.storage.fence import take_over

    database = open_database(place)
    try:
        token = take_over(database.engine)
    except SQLAlchemyError as error:
        raise database_failed(place, error) from None
    log.info("writing the study database with token %d", token)
    failures = (SQLAlchemyError, optuna.exceptions.StorageInternalError)
    return Ledger(database, lambda: None, database.remove_session, failures)


def replayed(journal: BaseJournalBackend, place: object) -> JournalStorage:
    """Optuna's storage on a journal.

    Raises:
        StorageError: its lines make no sense to Optuna, which has an exception for each way.
    """
    try:
        return JournalStorage(journal)
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(
            f"Optuna cannot read the study journal {place}: {type(error).__name__}: {error}. "
            "If it is damaged, move it away and keep a copy."
        ) from error


def open_database(url: str) -> optuna.storages.RDBStorage:
    """Optuna's own storage on any database that SQLAlchemy speaks to.

    Raises:
        UsageError: the URL names no known database.
        StorageError: the database refused.
    """
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    shown = without_password(url)
    if url.partition("?")[0].count("@") > 1:
        # SQLAlchemy would take what follows the first one for the host, and name it in its errors.
        raise UsageError(
            f"the storage {shown} has more than one @: write one that belongs to the password as "
            "%40 (and likewise : as %3A, / as %2F)."
        )
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except (ArgumentError, NoSuchModuleError):
        raise UsageError(
            f"found {shown!r} as the study storage, expected the path of a journal file or a "
            "SQLAlchemy URL such as postgresql+psycopg://USER:PASSWORD@HOST/NAME."
        ) from None
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or "of its database"
        raise StorageError(
            f"the storage {shown} needs the Python package {package}, which is not installed here. "
            "For PostgreSQL write postgresql+psycopg://..., after "
            "pip install 'justright[postgres]'."
        ) from None
    except SQLAlchemyError as error:
        raise StorageError(
            f"the study storage {shown} refused: {_first_line(error)}. Check that the server "
            "runs, the database exists and the user may write to it."
        ) from None


def database_failed(place: str, error: Exception) -> StorageError:
    """Word a failure of a database that had been opened."""
    cause = error.__cause__ or error  # Optuna wraps what SQLAlchemy raised
    return StorageError(f"the study storage {without_password(place)}: {_first_line(cause)}")


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    text = str(cause).strip().splitlines()
    return without_password(text[0]) if text else type(error).__name__
