"""Notes as optuna-dashboard shows them, without its import, which takes seconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from optuna.storages import BaseStorage

from justright.failures import Failure

_SIZE = 2045  # optuna-dashboard's limit for one part
_OF_A_TRIAL = re.compile(r"dashboard:(\d+):note_")


def save_note(storage: BaseStorage, study_id: int, text: str, trial_id: int | None = None) -> None:
    """Put a note (Markdown) on a study, or on one of its trials, in the place of the last one."""
    prefix = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
    known = storage.get_study_system_attrs(study_id)
    version = cast(int, known.get(f"{prefix}note_ver", 0)) + 1
    parts = [text[at : at + _SIZE] for at in range(0, len(text), _SIZE)]
    for index, part in enumerate(parts):
        storage.set_study_system_attr(study_id, f"{prefix}note_str:{index}", part)
    stale = len(parts)
    while known.get(f"{prefix}note_str:{stale}"):
        storage.set_study_system_attr(study_id, f"{prefix}note_str:{stale}", "")
        stale += 1
    storage.set_study_system_attr(study_id, f"{prefix}note_ver", version)


def failure_note(attempt: int, failure: Failure) -> str:
    """Why an attempt failed: the user's traceback, or the last lines of output."""
    text = f"Attempt {attempt} failed ({failure.kind}): {failure.message}\n"
    shown = failure.traceback or failure.output
    return text + (f"\n```\n{shown}\n```\n" if shown else "")


def renumbered(attributes: dict[str, Any], trials: Sequence[int]) -> dict[str, Any]:
    """System attributes with the trials' own numbers in the names of their notes replaced."""
    return {
        _OF_A_TRIAL.sub(
            lambda found: (
                f"dashboard:{trials[int(found[1])]}:note_"
                if int(found[1]) < len(trials)
                else found[0]
            ),
            name,
        ): value
        for name, value in attributes.items()
    }
