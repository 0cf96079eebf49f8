"""Reading a metric from a program's output: every way people print it, and what is no metric."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.jobs.program import DEFAULT_METRICS, MetricReader

NUMBERS = st.floats(allow_nan=False)
NAMES = st.sampled_from([*DEFAULT_METRICS, "val/loss", "eval.rmse", "perplexity", "f1-error"])
SPACE = st.sampled_from(["", " ", "  ", "\t"])
FORMATS = st.sampled_from(["{!r}", "{:e}", "{:.3f}", "{:+.4g}", "{:.2E}", "{:.0f}"])
BEFORE = st.sampled_from(
    ["", "epoch 3/10 ", "[2024-05-01 12:00:00] ", "step=7, ", "100%|###| 5/5 - "]
)
AFTER = st.sampled_from(["", "\n", ", lr: 0.1\n", " (best 0.1)", "; accuracy=0.9", "]\n"])


def same(found: float | None, number: float) -> bool:
    return found is not None and (found == number or (math.isnan(found) and math.isnan(number)))


@given(NAMES, NUMBERS, FORMATS, BEFORE, AFTER, SPACE, SPACE, st.sampled_from(":="), st.booleans())
def test_a_number_behind_its_name(
    name: str, number: float, form: str, before: str, after: str,
    left: str, right: str, sign: str, capital: bool,
) -> None:  # fmt: skip
    text = form.format(number)
    shown = name.upper() if capital else name
    line = f"{before}{shown}{left}{sign}{right}{text}{after}"
    assert same(MetricReader(name).read(line), float(text)), line
    assert MetricReader("other").read(line) is None


@given(NAMES, st.floats(), st.dictionaries(st.text(max_size=5), st.integers() | st.text()))
def test_a_line_of_json(name: str, number: float, others: dict[str, object]) -> None:
    line = json.dumps({**others, name: number})
    assert same(MetricReader(name).read(line), number), line
    assert same(MetricReader(name).read(f"  {line}\n"), number), line


@given(st.text())
def test_no_line_is_too_odd(line: str) -> None:
    for name in (None, "loss"):
        found = MetricReader(name).read(line)
        assert found is None or isinstance(found, float)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_no_json_is_too_odd(value: object) -> None:
    found = MetricReader("loss").read(json.dumps({"loss": value}))
    number = isinstance(value, int) and not isinstance(value, bool)
    assert found == (value if number else None)


LINES: dict[str, float | None] = {
    "loss: nan": math.nan,
    "loss=-inf": -math.inf,
    "Loss: Infinity": math.inf,
    "loss NaN lr 0.1": math.nan,
    "loss 0.25": 0.25,
    "loss: .5": 0.5,
    "loss: 5.": 5.0,
    "loss: 1e-3 ": 1e-3,
    '{"loss": NaN}': math.nan,
    '{"loss": 3}': 3.0,
    "{'loss': 0.3466, 'epoch': 1.0}": 0.3466,  # a dict that was printed, as transformers does
    'epoch 1 {"loss": 0.5}': 0.5,
    "train_loss: 0.5": None,
    "loss_scale: 1024": None,
    "loss": None,
    "loss: n/a": None,
    "loss: none so far": None,
    "the loss information follows": None,
    "loss nanometers": None,
    "loss infinite? no": None,
    "losses: 3": None,
    "loss2: 0.5": None,
    "my.loss: 0.5": None,
    '{"loss": true}': None,
    '{"loss": null}': None,
    "[0.1, 0.2]": None,
    '{"loss": 1%s}' % ("0" * 400): math.inf,
}


@pytest.mark.parametrize(("line", "value"), LINES.items(), ids=[line[:30] for line in LINES])
def test_a_line(line: str, value: float | None) -> None:
    found = MetricReader("loss").read(line)
    assert found is None if value is None else same(found, value)


def test_without_a_name_a_validation_loss_goes_before_a_training_loss() -> None:
    reader = MetricReader(None)
    assert reader.read("starting") is None
    assert reader.read("loss: 0.9 val_loss: 0.7") == 0.7
    assert reader.name == "val_loss"
    assert reader.read("loss: 0.8") is None, "another metric is not mixed in"
    assert reader.read("val_loss: 0.6") == 0.6


@pytest.mark.parametrize("name", DEFAULT_METRICS)
def test_each_usual_name_is_found(name: str) -> None:
    reader = MetricReader(None)
    assert reader.read(f"epoch 1: {name} = 0.5") == 0.5
    assert reader.name == name
