"""Reading a metric from a program's output: every way people print it, and what is no metric."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from justright.errors import TaskError
from worker.jobs.metric_reader import MetricReader

NUMBERS = st.floats(allow_nan=False)
USUAL = ("val_loss", "validation_loss", "valid_loss", "test_loss", "loss")
NAMES = st.sampled_from([*USUAL, "val/loss", "eval.rmse", "perplexity", "f1-error"])
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
    if isinstance(value, str):  # as transformers writes numbers
        assert found is None or float(value.strip().replace(",", "").replace("_", "")) == found
        return
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


def series(
    lines: list[str], metric: str | None = None, known: str = ""
) -> tuple[list[float], list[float], str]:
    """What is reported as it is printed, what is at the end, and by which name."""
    reader = MetricReader(metric, known)
    found = [value for line in lines if (value := reader.read(line)) is not None]
    return found, reader.rest(), reader.name


def test_a_line_with_both_is_read_for_the_validation_loss() -> None:
    reader = MetricReader(None)
    assert reader.read("starting") is None
    assert reader.read("loss: 0.9 val_loss: 0.7") == 0.7
    assert reader.name == "val_loss"
    assert reader.read("loss: 0.8") is None, "another metric is not mixed in"
    assert reader.read("val_loss: 0.6") == 0.6


@pytest.mark.parametrize("name", USUAL)
def test_each_usual_name_is_found(name: str) -> None:
    found, rest, read = series([f"epoch 1: {name} = 0.5"])
    assert (found + rest, read) == ([0.5], name)


#: Lines of one line each, and the loss that is to be read from it without a name.
FORMS: dict[str, float | None] = {
    "Epoch 1/5 - val loss: 0.6": 0.6,
    "val_loss: 1,234.50": 1234.5,
    "val_loss=1_234.5, lr=0.1": 1234.5,
    "val_loss: 12,345,678": 12345678.0,
    "val_loss: 0,5": 0.5,
    "val_loss: 12,5": None,
    "val_loss: 1.2k": None,
    "{'eval_loss': '1.23', 'eval_runtime': '0.03', 'epoch': '1'}": 1.23,
    '{"eval_loss": "1.23"}': 1.23,
    '{"metrics": {"val": {"loss": 0.5}}, "loss": 0.1}': 0.5,
    "epoch 1 val_loss: tensor(0.5000, device='cuda:0')": 0.5,
    "val_loss: tensor([0.5], grad_fn=<MeanBackward0>)": 0.5,
    "val_loss: np.float64(0.5)": 0.5,
    "val_loss: <tf.Tensor: shape=(), dtype=float32, numpy=0.5>": 0.5,
    "val_loss: [0.5]": 0.5,
    "val_loss: [0.9, 0.8]": None,
    "epoch 1 val_loss: \x1b[1;32m0.5\x1b[0m": 0.5,
    "\x1b[32mval_loss\x1b[0m: 0.5": 0.5,
    "val_loss: -nan(ind)": math.nan,
    "val loss 12.5%": 12.5,
    "Val Loss is 3.4e-2": 0.034,
    "valid/loss 0.5": 0.5,
    "validation-loss -> 0.5": 0.5,
    "| val/loss     | 0.5 |": 0.5,
    "Loss/val: 0.5": 0.5,
    "valLoss: 0.5": 0.5,
    "loss (val): 0.5": 0.5,
    "Val. loss: 0.5": 0.5,
    "step 0: train loss 4.2, val loss 4.3": 4.3,
    "Train: loss 0.5 acc 0.7 | Val: acc 0.8 loss 0.6": 0.6,
    "Losses: train 0.5, val 0.6": 0.6,
    "val: {'loss': 0.5, 'acc': 0.9}": 0.5,
    "Test set: Average loss: 0.0268, Accuracy: 9900/10000 (99%)": 0.0268,
    "Validation loss after epoch 3/10 is 0.5": 0.5,
    "loss[3] = 0.5": 0.5,
    "3/3 [=====] - 1s 3ms/step - loss: 0.4 - val_loss: 0.6": 0.6,
    "100%|###| 3/3 [00:00<00:00, 100.1it/s, loss=0.5, val_loss=0.6]": 0.6,
    "val_loss_step: 0.5 val_loss_epoch: 0.6": 0.6,
    "lr=0.01 best_val_loss=0.3 val_loss=0.5": 0.5,
    "val_loss: 0.5 (best 0.3)": 0.5,
    "best val_loss: 0.3": None,
    "val_loss (best): 0.3": None,
    "val_loss improved from inf to 0.5": None,
    "lowest loss so far: inf": None,
    "bbox_loss: 0.3": None,
    "loss scale: 1024": None,
    "the loss is 3 times as high": 3.0,
    "kl loss: 0.3 loss: 0.7": 0.7,
    "2024-05-01 12:00:00,123 INFO loss: 0.5": 0.5,
    "train_loss: 0.5": 0.5,
    "a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a_a!: 3": None,
}


@pytest.mark.parametrize(("line", "value"), FORMS.items(), ids=[line[:40] for line in FORMS])
def test_a_form_that_people_print(line: str, value: float | None) -> None:
    if value is None:
        with pytest.raises(TaskError, match=r"never printed"):
            series([line])
        return
    found, rest, _ = series([line])
    assert same((found + rest)[0], value)
    assert len(found + rest) == 1


TABLES = {
    "csv": "epoch,loss,val_loss\n1,0.4,0.6\n2,0.3,0.5",
    "markdown": "| epoch | train loss | val loss |\n|---|---|---|\n"
    "| 1 | 0.4 | 0.6 |\n| 2 | 0.3 | 0.5 |",
    "box": "│ epoch │ loss │ val_loss │\n│ 1 │ 0.4 │ 0.6 │\n│ 2 │ 0.3 │ 0.5 │",
    "columns": "  epoch    train_loss    valid_loss     dur\n-----  -----  -----  ----\n"
    "   1   0.4    0.6   0.1\n   2   0.3   0.5   0.1",
}  # fmt: skip


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_table(table: str) -> None:
    assert series(table.splitlines())[:2] == ([0.6, 0.5], [])


def test_a_validation_loss_goes_before_whatever_was_printed_first() -> None:
    lines = ["train loss: 0.1", "loss: 0.1", "test loss: 0.9", "val loss: 0.6", "loss: 0.0"]
    assert series([*lines, "val loss: 0.5"]) == ([0.6, 0.5], [], "val loss")


def test_without_a_validation_loss_a_training_loss_is_known_at_the_end() -> None:
    lines = ["loss: 0.3", "train_loss: 0.9", "loss: 0.2"]
    assert series(lines) == ([], [0.3, 0.2], "loss")
    assert series(lines, known="loss") == ([0.3, 0.2], [], "loss")


def test_what_the_first_training_was_read_by_is_read_in_all() -> None:
    with pytest.raises(TaskError, match=r"printed 'loss', while other trainings .* by 'val loss'"):
        series(["loss: 0.3"], known="val loss")
    assert series(["loss: 0.3", "val_loss: 0.4"], known="loss")[0] == [0.3]


def test_a_heading_says_what_the_next_lines_are_about() -> None:
    lines = ["Train:", "  loss: 0.1, acc: 0.9", "=== Validation ===", "  loss: 0.5, acc: 0.7"]
    assert series(lines) == ([0.5], [], "validation loss")
    assert series(lines, "acc") == ([0.7], [], "validation acc")


@pytest.mark.parametrize(
    ("metric", "line", "value"),
    [
        ("acc@1", "acc@1: 76.2 acc@5: 90", 76.2),
        ("top1", "Top-1: 24", 24.0),
        ("eval_loss", "Eval Loss: 0.5", 0.5),
        ("loss", "total loss: 0.5", 0.5),
        ("train_loss", "val_loss: 0.5 train loss: 0.1", 0.1),
        ("val_loss", "best val_loss: 0.3, val_loss: 0.5", 0.5),
        ("rmse", "Train: rmse 0.1 | Val: rmse 0.5", 0.5),
        ("best_loss", "best loss: 0.25", 0.25),
    ],
)
def test_a_name_that_was_given(metric: str, line: str, value: float) -> None:
    assert series([line], metric)[0] == [value]


@pytest.mark.parametrize("line", ["val loss: 0.5", "best loss: 0.5", "val/loss: 0.5", "loss2 0.5"])
def test_a_given_name_is_no_other_one_of_it(line: str) -> None:
    with pytest.raises(TaskError, match=r"never printed loss"):
        series([line], "loss")


def test_several_losses_of_which_none_is_the_loss() -> None:
    with pytest.raises(TaskError, match=r"several losses, 'kl loss', 'recon loss'.*--metric"):
        series(["kl loss: 0.3 recon loss: 0.1"])


def test_what_was_printed_instead_is_said() -> None:
    with pytest.raises(TaskError, match="numbers called 'accuracy', 'lr'"):
        series(["accuracy: 0.9 lr: 0.1"])
    with pytest.raises(TaskError, match=r"no number could be read.*\nval_loss: 12,5"):
        series(["val_loss: 12,5"])


LOST: dict[str, tuple[list[str], list[float]]] = {
    "before it has trained": (["train loss: nan val loss: 2", "train loss: 1 val loss: 1"], [2, 1]),
    "after it has": (["train loss: 1 val loss: 2", "train loss: nan"], [2, math.nan]),
    "at once": (["val_loss: nan"], [math.nan]),
    "a part": (["kl loss: nan, val loss: 2"], [2]),
    "the best": (["best val_loss: inf", "val_loss: 2"], [2]),
}


@pytest.mark.parametrize(("lines", "values"), LOST.values(), ids=LOST)
def test_what_is_not_finite_ends_a_training_that_has_begun(
    lines: list[str], values: list[float]
) -> None:
    reader = MetricReader(None)
    found = [value for line in lines if (value := reader.read(line)) is not None]
    assert len(found) == len(values)
    assert all(same(one, other) for one, other in zip(found, values, strict=True))
