"""Every error a user can meet, worded for them, and the exit codes of the command line.

A message says what was found, what was expected and what to do. ``exit_code`` follows the
contract: 2 where what was typed is wrong, 1 where the world is.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_ANSWER, EXIT_ERROR, EXIT_USAGE, EXIT_NO_ANSWER = 0, 1, 2, 3
EXIT_INTERRUPTED = 130
EXIT_SIGNAL = 128  #: And the signal's number, as a shell shows it.


class JustrightError(Exception):
    """Base of all errors that are shown to a user without a traceback."""

    exit_code: ClassVar[int] = EXIT_ERROR


class UsageError(JustrightError):
    """What was typed is wrong: a path, a name, a range, an option, a key."""

    exit_code: ClassVar[int] = EXIT_USAGE


class MessageError(JustrightError):
    """A message on the wire could not be read."""


class ForgedMessage(MessageError):
    """A message that had to be signed is not, or was altered."""


class BegunBefore(MessageError):
    """A job that somebody has begun, or that was taken back."""


class ExpiredMessage(MessageError):
    """A message that is authentic, and too old; ``body`` is its content."""

    def __init__(self, message: str, body: str) -> None:
        super().__init__(message)
        self.body = body


class RedisUnavailable(JustrightError):
    """Redis did not answer."""


class StorageError(JustrightError):
    """The study storage refused, is damaged, or is written by somebody else."""


class StorageLost(StorageError):
    """Another orchestrator has taken over the study storage; nothing was written."""


class ArtifactError(JustrightError):
    """The place of checkpoints refused."""


class StorageBusy(StorageError):
    """Another process writes the study journal, which has one writer."""


class LifecycleError(JustrightError):
    """A trial was asked to make a transition that its lifecycle does not have."""


class TaskError(JustrightError):
    """The user's task could not be used as it is (its shape, not an exception of its own)."""


class RefusedJob(JustrightError):
    """A worker was given a job that it must not run."""


class ChangedTask(JustrightError):
    """The user's code is not what it was when the study began."""


class UserCodeError(JustrightError):
    """The user's own code raised; ``traceback`` is theirs, trimmed to their frames."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.traceback = traceback
