"""What an exception means for the study: its kind of failure, in words, and whether this process
can go on after it."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import torch

from justright.errors import ChangedTask, JustrightError, RefusedJob, UsageError, UserCodeError
from justright.failures import Failure, FailureKind
from justright.messages import OutcomeKind
from worker.jobs.attempt import Attempt

#: In the message of an error after which the GPU's context cannot be used any more.
_POISON = ("CUDA error", "cuBLAS", "CUBLAS_STATUS", "cuDNN", "CUDNN_STATUS")

#: In the message of an error for want of a device.
_NO_DEVICE = (
    "No CUDA GPUs are available",
    "Found no NVIDIA driver",
    "Torch not compiled with CUDA enabled",
    "Attempting to deserialize object on a CUDA device",
    "PyTorch is not linked with support for mps devices",
)
#: In the message of an error for want of memory that has no type of its own.
_NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
)


class Failures:
    """Words the errors of a process, and remembers whether one has spoilt it."""

    def __init__(self) -> None:
        self.poisoned = False  #: The next job needs a new process.
        self.refused = ""  #: Why this worker cannot run the present job; "": it can.

    def word(self, error: Exception) -> Failure:
        """The error as the study is told of it."""
        self.poisoned = self.poisoned or is_poison(error)
        failure = failure_of(error)
        if failure.of_worker:
            self.refused = failure.message
        return failure

    def end(self, attempt: Attempt, error: Exception) -> None:
        """End an attempt that the error kept from beginning, or that has no steps of its own."""
        attempt.end(OutcomeKind.FAILED, failure=self.word(error))


def failure_of(error: Exception) -> Failure:
    """Word an exception for the study."""
    message = _text(str(error))
    short_of = shortage(error)
    if isinstance(error, UserCodeError):
        kind = short_of or FailureKind.USER
        return Failure(
            kind=kind,
            message=message,
            traceback=_text(error.traceback),
            elsewhere=kind is FailureKind.USER and lacks(error),
        )
    if not isinstance(error, JustrightError):
        message = f"{type(error).__name__}: {message}"
    kind = short_of or _kind_of(error)
    return Failure(kind=kind, message=message, elsewhere=kind is FailureKind.USAGE or lacks(error))


def _kind_of(error: Exception) -> FailureKind:
    if isinstance(error, UsageError):
        return FailureKind.USAGE
    if isinstance(error, ChangedTask):
        return FailureKind.CHANGED
    return FailureKind.REFUSED if isinstance(error, RefusedJob) else FailureKind.TASK


def lacks(error: BaseException) -> bool:
    """Whether this machine has not what the user's code needs: a package, a file, a device."""
    return any(
        isinstance(cause, (ImportError, FileNotFoundError))
        or any(text in str(cause) for text in _NO_DEVICE)
        for cause in causes(error)
    )


def is_poison(error: BaseException) -> bool:
    """Whether the error, or one that it came from, leaves the GPU's context unusable."""
    return any(
        not isinstance(cause, torch.OutOfMemoryError)
        and any(text in str(cause) for text in _POISON)
        for cause in causes(error)
    )


def shortage(error: BaseException) -> FailureKind | None:
    """What the machine had too little of, where that was the error."""
    for cause in causes(error):
        if isinstance(cause, (torch.OutOfMemoryError, MemoryError)):
            return FailureKind.MEMORY  # NumPy's own is one of Python's
        if isinstance(cause, RuntimeError) and any(text in str(cause) for text in _NO_MEMORY):
            return FailureKind.MEMORY
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return FailureKind.DISK
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _text(value: str) -> str:
    """What can be encoded: a file name in a message may hold half a character."""
    return value.encode("utf-8", "replace").decode()
