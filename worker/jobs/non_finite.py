"""Whether an exception, or what a program said before it ended, follows from a number that is not
finite: then the rate was too hot, and nothing is wrong with the user's code.

Much code looks at its numbers itself and raises: a distribution checks its arguments, a Cholesky
factor does not exist, a loop asserts that its loss is finite. Such a trial has diverged.
"""

from __future__ import annotations

import linecache
import math
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from justright.errors import JustrightError
from worker.user_code.guard import is_users

_VALUE = r"[-+]?(?:nan|inf(?:inity|inite)?)s?(?:\((?:ind|snan)\))?"
#: Words for what is not finite. "inf" is a word here, never a part of one.
_SAYS = re.compile(
    rf"(?<![\w/.]){_VALUE}(?![\w/])|non-?\s?finite|not\s+(?:a\s+)?finite|is_?finite|is_?nan|is_?inf"
    r"|not\s+a\s+number|(?:loss|training|model|gradients?|run)\s+(?:has\s+|have\s+)?(?:diverg|explod)"
    r"|divergence\s+detected",
    re.I,
)
#: ... and where the loss is said to be so, in so many words.
_LOSS_SAYS = re.compile(
    rf"loss\w*\W{{0,3}}(?:\w+\W{{1,2}}){{0,2}}?(?:{_VALUE}(?![\w/])|(?:non-?\s?|not\s+)finite)"
    rf"|(?<![\w/.])(?:{_VALUE}|(?:non-?\s?|not\s+)finite)\s+(?:\w+\s+)?loss"
    r"|loss\s+(?:has\s+)?(?:diverg|explod)",
    re.I,
)
#: A limit, or the lowest loss so far, begins as infinity: that says nothing of the training.
_HARMLESS = re.compile(
    rf"\b(?:best|min(?:imum)?|max(?:imum)?|lowest|smallest|prev(?:ious)?|patience|clip\w*|limit)"
    rf"[\w\s'\"]*[:=(\[]?\s*{_VALUE}|(?:improved|decreased|dropped)\s+\(?(?:from\s+)?{_VALUE}"
    r"|\bno\s+(?:nan|inf)\w*|ignor\w+\s+(?:nan|inf)\w*",
    re.I,
)
#: In messages of errors that have other causes as well: of code that has worked before, they follow
#: from the numbers that its training led to.
_IF_IT_HAS_WORKED = (
    "input should be between 0 and 1",  # a binary cross entropy, which NaN fails as well
    "found invalid values",  # a distribution's argument check: a scale of 0, say
    "must be positive definite",
)
#: Errors of linear algebra: without NaN there is a factor, or singular values.
_ALGEBRA = ("LinAlgError", "_LinAlgError", "NotPositiveDefiniteError", "NanError")
_TOO_LARGE = ("math range error", "result too large", "result out of range", "float infinity")

#: What people raise on purpose when they have looked at a number.
_ON_PURPOSE = (ValueError, RuntimeError, ArithmeticError, AssertionError, StopIteration)
#: Lines above the one that raised in which the condition may stand.
_ABOVE = 1


def speaks_of_it(text: str) -> bool:
    """Whether a text speaks of a number that is not finite, other than a limit or a best so far."""
    return _SAYS.search(_HARMLESS.sub(" ", text)) is not None


def says_loss_is_lost(line: str) -> bool:
    """Whether a line of output says that the loss itself is not finite."""
    return _LOSS_SAYS.search(_HARMLESS.sub(" ", line)) is not None


def non_finite(error: BaseException, *, worked: bool = False) -> str:
    """Why the exception follows from a number that is not finite, in words; "": it does not.

    Looks at what it came from as well. ``worked``: the same code has run well before, with other
    weights, so that an error that a wrong model would have raised at once is none of a wrong model.
    """
    for cause in _chain(error):
        if not isinstance(cause, JustrightError) and _follows(cause, worked):
            return traceback.format_exception_only(cause)[-1].strip()[:300] or type(cause).__name__
    return ""


def _follows(error: BaseException, worked: bool) -> bool:
    text = str(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, (ImportError, SyntaxError, LookupError, NameError, OSError, MemoryError)):
        return False  # it may name a file, a key or a module
    if isinstance(error, FloatingPointError) or kinds.intersection(_ALGEBRA):
        return True
    if isinstance(error, OverflowError):
        return any(part in text.lower() for part in _TOO_LARGE) or speaks_of_it(text)
    if speaks_of_it(text):
        return True
    if worked and any(part in text for part in _IF_IT_HAS_WORKED):
        return True
    return _raised_on_purpose(error)


def _raised_on_purpose(error: BaseException) -> bool:
    """Whether the user's own line raised it because of a number that it had looked at."""
    standard = type(error).__module__ == "builtins"
    if standard and type(error) is not Exception and not isinstance(error, _ON_PURPOSE):
        return False
    frame = _last(error.__traceback__)
    if frame is None or not is_users(frame.tb_frame.f_code.co_filename):
        return False
    file, line = frame.tb_frame.f_code.co_filename, frame.tb_lineno
    lines = [linecache.getline(file, number) for number in range(line - _ABOVE, line + 1)]
    if any(_SAYS.search(text.partition("#")[0]) for text in lines if _tests(text)):
        return True
    if not lines[-1].lstrip().startswith(("raise", "assert")):
        return False
    return any(
        _is_non_finite(value)
        for name, value in frame.tb_frame.f_locals.items()
        if "loss" in name.lower() and not re.match(r"best|min|low|prev", name.lower())
    )


def _tests(line: str) -> bool:
    return line.lstrip().startswith(("if ", "elif ", "assert", "raise"))


def _last(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def _is_non_finite(value: Any) -> bool:
    """Of a number, or of a tensor or array of one number: nothing larger is looked at."""
    torch = sys.modules.get("torch")
    one = getattr(value, "ndim", None) == 0 or getattr(value, "numel", lambda: 0)() == 1
    if not isinstance(value, float) and not (
        one and (torch is None or not isinstance(value, torch.Tensor) or not value.is_meta)
    ):
        return False
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach()
    try:
        return not math.isfinite(float(value))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, by ``from`` or while it was handled."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


_LAST_WORDS = 6  # lines at a program's end that say why it has ended
_TRACEBACK = "Traceback (most recent call last)"


def ended_because(output: Iterable[str]) -> str:
    """The line with which a program that ended with an error speaks of a number that is not
    finite; "": none does.

    After a traceback, its own lines count and no others, but for a loss that is said to be lost.
    """
    lines = [line.strip() for line in output if line.strip()]
    for line in reversed(lines):
        if says_loss_is_lost(line):
            return line
    begin = max((i for i, line in enumerate(lines) if _TRACEBACK in line), default=None)
    last = lines[-_LAST_WORDS:] if begin is None else lines[begin:]
    if begin is not None:
        raised = next((line for line in reversed(last) if re.match(r"[\w.]+(:|$)", line)), "")
        name = raised.partition(":")[0].rpartition(".")[2]
        if name in (*_ALGEBRA, "FloatingPointError") or (
            name == "OverflowError" and any(part in raised.lower() for part in _TOO_LARGE)
        ):
            return raised
        if re.match(r"[\w.]*(Import|ModuleNotFound|Syntax|Key|Index|Name|File\w*|OS)Error", raised):
            return ""
    return next((line for line in reversed(last) if speaks_of_it(line)), "")
