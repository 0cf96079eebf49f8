"""Which exceptions, and which last words of a program, follow from a number that is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributions
from torch.nn import functional

from justright.errors import UserCodeError
from worker.jobs.non_finite import ended_because, non_finite, says_loss_is_lost, speaks_of_it
from worker.user_code.guard import user_code

NAN = torch.tensor(math.nan)


class Unstable(Exception):
    """A user's own."""


def asserts() -> None:
    loss = NAN
    assert torch.isfinite(loss)


def raises_if() -> None:
    if not math.isfinite(float(NAN)):
        raise Unstable("bad step")


def raises_beside_its_loss() -> None:
    total_loss = float("nan")
    if total_loss != total_loss:
        raise RuntimeError("the run is over")


def raises_from() -> None:
    try:
        with np.errstate(all="raise"):
            np.float64(1e300) * np.float64(1e300)
    except FloatingPointError as error:
        raise Unstable("a step failed") from error


def raise_it(error: Exception) -> Callable[[], Any]:
    def call() -> None:
        raise error

    return call


TOO_HOT: dict[str, Callable[[], Any]] = {
    "normal": lambda: distributions.Normal(NAN, 1.0),
    "categorical": lambda: distributions.Categorical(logits=NAN.expand(3)),
    "multinomial": lambda: torch.multinomial(NAN.expand(3), 1),
    "cholesky": lambda: torch.linalg.cholesky(-torch.eye(2)),
    "cholesky of numpy": lambda: np.linalg.cholesky(-np.eye(2)),
    "svd": lambda: np.linalg.svd(np.full((2, 2), math.nan)),
    "exp": lambda: math.exp(1e9),
    "power": lambda: 1e300**2,
    "whole number of nan": lambda: int(NAN.item()),
    "whole number of inf": lambda: int(math.inf),
    "sklearn": raise_it(ValueError("Input X contains NaN.\nSomeEstimator does not accept it")),
    "sklearn, inf": raise_it(ValueError("Input contains infinity or a value too large")),
    "clipped norm": raise_it(RuntimeError("The total norm of order 2.0 is non-finite")),
    "anomaly": raise_it(RuntimeError("Function 'MulBackward0' returned nan values in its 0th")),
    "own words": raise_it(Unstable("loss became NaN at step 3")),
    "exploded": raise_it(RuntimeError("the training diverged")),
    "assert": asserts,
    "if": raises_if,
    "a loss beside it": raises_beside_its_loss,
    "from": raises_from,
}


def error_of(call: Callable[[], Any]) -> UserCodeError:
    with pytest.raises(UserCodeError) as caught:
        user_code(call)
    return caught.value


@pytest.mark.parametrize("call", TOO_HOT.values(), ids=TOO_HOT)
def test_it_follows_from_a_number_that_is_not_finite(call: Callable[[], Any]) -> None:
    why = non_finite(error_of(call))
    assert why
    assert "Traceback" not in why


def raises_beside_a_limit() -> None:
    best_loss = math.inf
    loss = 0.5
    raise RuntimeError(f"no data: {loss}, {best_loss > 1}")


def looks_up_beside_nan() -> None:
    loss = math.nan
    dict.fromkeys("")[str(loss)]


FAULTS: dict[str, Callable[[], Any]] = {
    "shapes": lambda: torch.ones(2, 3) @ torch.ones(2, 3),
    "key": lambda: dict.fromkeys("")["nan"],
    "file": lambda: Path("/no/such/nan").read_text(),
    "name": raise_it(NameError("name 'inf' is not defined")),
    "module": raise_it(ImportError("cannot import name 'inf' from 'math'")),
    "nanometers": raise_it(ValueError("nanometers of information in banana.info")),
    "a file's name": raise_it(ValueError("cannot read runs/nan/info.inf")),
    "a limit": raise_it(ValueError("no data, best loss: inf")),
    "an int of C": raise_it(OverflowError("Python int too large to convert to C long")),
    "division": lambda: 1 / 0,
    "best": raises_beside_a_limit,
    "lookup beside nan": looks_up_beside_nan,
    "no sigmoid": lambda: functional.binary_cross_entropy(torch.tensor(3.0), torch.tensor(1.0)),
    "scale of 0": lambda: distributions.Normal(0.0, torch.tensor(0.0)),
}


@pytest.mark.parametrize("call", FAULTS.values(), ids=FAULTS)
def test_another_fault_is_none(call: Callable[[], Any]) -> None:
    assert non_finite(error_of(call)) == ""


@pytest.mark.parametrize("name", ["no sigmoid", "scale of 0"])
def test_code_that_has_worked_before_was_led_there_by_its_training(name: str) -> None:
    assert non_finite(error_of(FAULTS[name]), worked=True)


SAYS = [
    "Loss is nan, stopping training", "Loss is inf, stopping training", "loss: nan",
    "NaN loss encountered at step 30", "non-finite loss: 3", "train loss = -inf", "loss diverged",
    "loss_total: tensor(nan, device='cuda:0')", "WARNING:  Non-finite loss, ending training nan",
    "The loss became infinite", "loss 1.#IND -nan",
]  # fmt: skip
SAYS_NOT = [
    "best val_loss: inf", "val_loss improved from inf to 0.5", "min loss: inf", "loss: 0.5",
    "training on info.txt", "grad clip inf", "nan-aware loss",
    "Validation loss decreased (inf --> 3)",
    "gloss information", "best loss so far: inf", "no NaN in the data",
]  # fmt: skip


@pytest.mark.parametrize("line", SAYS)
def test_a_line_that_gives_the_loss_up(line: str) -> None:
    assert says_loss_is_lost(line)


@pytest.mark.parametrize("line", SAYS_NOT)
def test_a_line_that_does_not(line: str) -> None:
    assert not says_loss_is_lost(line)


@pytest.mark.parametrize("text", ["max_norm: inf", "best: nan", "no nan found", "runs/inf/x"])
def test_a_limit_says_nothing(text: str) -> None:
    assert not speaks_of_it(text)


TRACEBACK = ["Traceback (most recent call last):", '  File "t.py", line 3, in <module>']


@pytest.mark.parametrize(
    "output",
    [
        ["epoch 1", "Loss is nan, stopping training"],
        ["loss: nan", *["row"] * 20, *TRACEBACK, "KeyError: 'x'"],
        [*TRACEBACK, "    assert torch.isfinite(loss)", "AssertionError"],
        [*TRACEBACK, "ValueError: Expected parameter loc (...) of Normal", "tensor([nan, nan])"],
        [*TRACEBACK, "numpy.linalg.LinAlgError: Matrix is not positive definite"],
        [*TRACEBACK, "OverflowError: math range error"],
        ["gradient norm is not finite: giving up", "", "bye"],
    ],
)
def test_a_program_that_ended_because_of_it(output: list[str]) -> None:
    assert ended_because(output)


@pytest.mark.parametrize(
    "output",
    [
        ["best loss: inf", *TRACEBACK, "FileNotFoundError: no such file"],
        ["clip = inf", *["row"] * 20, "error: no data"],
        ["gradient clip off, dropping nan rows", *TRACEBACK, "RuntimeError: out of data"],
        [*TRACEBACK, "KeyError: 'nan'"],
        ["usage: train.py [--lr LR]", "train.py: error: unrecognized arguments"],
        [],
    ],
)
def test_a_program_that_ended_for_another_reason(output: list[str]) -> None:
    assert ended_because(output) == ""
