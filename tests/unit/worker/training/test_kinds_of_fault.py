"""Faults of a task that nothing used to notice: each works all the same, or is said."""

from __future__ import annotations

import functools
import random
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from justright.errors import TaskError, UsageError
from justright.messages import TrialWork
from justright.spec import TaskRef
from justright.task import Task
from worker.training.evaluation import divergence
from worker.training.samples import samples, validation_batch
from worker.training.trainer import TaskTrainer
from worker.user_code.loading import load

CPU = torch.device("cpu")
INPUTS = torch.randn(65, 4, generator=torch.Generator().manual_seed(1))
CLASSES = (INPUTS[:, 0] > 0).long()


class Small(Task):
    epochs = 3
    batch_size = 16

    def model(self) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))

    def train_data(self) -> Any:
        return INPUTS, CLASSES


def look(task: Task) -> TaskTrainer:
    trainer = TaskTrainer(task, CPU, threads=1)
    trainer.inspect(0)
    return trainer


def work(lr: float = 0.05, seed: int = 0) -> TrialWork:
    return TrialWork(number=0, lr=lr, seed=seed, attempt=1)


# -- too hot, against the scale of the losses ------------------------------------------------------


class Moved(Small):
    """Its loss is stretched and moved, which changes nothing of what is learned."""

    stretch, shift = 1.0, 0.0

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        return super().loss(output, target) * self.stretch + self.shift


class ZeroStart(Moved):
    """A critic: its loss is exactly 0 at first, and has no bound below."""

    def model(self) -> torch.nn.Module:
        model = super().model()
        assert isinstance(model, torch.nn.Sequential)
        torch.nn.init.zeros_(model[2].weight)  # type: ignore[arg-type]
        torch.nn.init.zeros_(model[2].bias)  # type: ignore[arg-type]
        return model

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        signs = 2.0 * target - 1
        score: torch.Tensor = output[:, 0]
        loss: torch.Tensor = (-signs * score).mean() + 0.1 * (score**2).mean()
        return loss * self.stretch + self.shift


def verdicts(task: Moved, rates: list[float]) -> list[tuple[bool, ...]]:
    """Whether each epoch of each rate counts as diverged. The rate is stretched as well."""
    trainer = look(task)
    found = []
    for lr in rates:
        trial = trainer.start(work(lr / task.stretch))
        found.append(tuple(bool(trainer.train_epoch(trial).diverged) for _ in range(3)))
    return found


@pytest.mark.parametrize("kind", [Moved, ZeroStart])
@pytest.mark.parametrize(
    "change", [{"shift": 10.0}, {"shift": -10.0}, {"stretch": 16.0}, {"stretch": 2.0**-10}], ids=str
)
def test_a_constant_or_a_factor_changes_no_verdict(
    kind: type[Moved], change: dict[str, float]
) -> None:
    rates = [0.01, 0.3, 30.0, 1e4]
    plain = verdicts(kind(optimizer="sgd"), rates)
    assert verdicts(kind(optimizer="sgd", **change), rates) == plain
    assert not any(plain[0]), "a rate that trains well counts as too hot"
    assert any(plain[-1]), "a rate that blows up does not"


@pytest.mark.parametrize(
    ("loss", "initial", "reference", "too_hot"),
    [
        (5.0, 2.3, 100.0, False),
        (103.0, 2.3, 100.0, True),
        (-3.0, -2.0, 1.0, False),
        (1.0, -2.0, 1.0, True),
        (50.0, 0.0, 100.0, False),
        (1e30, 0.0, 0.0, False),  # nothing tells what would be far
        (1e30, None, 100.0, False),
        (float("nan"), None, 0.0, True),
        (float("-inf"), -5.0, 1.0, True),
    ],
)
def test_what_counts_as_too_hot(
    loss: float, initial: float | None, reference: float, too_hot: bool
) -> None:
    assert bool(divergence(loss, "in epoch 1", initial, reference)) == too_hot


# -- the optimizer --------------------------------------------------------------------------------


def of_function(parameters: Any, lr: float) -> torch.optim.Optimizer:
    """As many a task has it: outside of the class."""
    return torch.optim.SGD(parameters, lr=lr, momentum=0.5)


class AsMethod(Small):
    wd = 0.05

    def optimizer(self, params: Any, lr: float) -> Any:
        return torch.optim.AdamW(params, lr=lr, weight_decay=self.wd)


class OfTheModel(Small):
    def optimizer(self, model: Any, lr: float) -> Any:
        return torch.optim.SGD(model.parameters(), lr=lr)


class NamedRate(Small):
    def optimizer(self, params: Any, *, lr: float) -> Any:  # type: ignore[override]
        return torch.optim.SGD(params, lr=lr)


class AsFunction(Small):
    optimizer: Any = of_function


class AsStatic(Small):
    optimizer = staticmethod(lambda p, lr: torch.optim.Adam(p, lr))


class AsClass(Small):
    optimizer: Any = torch.optim.RMSprop


class AsPartial(Small):
    optimizer: Any = functools.partial(torch.optim.AdamW, weight_decay=0.1)


class AsInstance(Small):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.optimizer = lambda p, lr: torch.optim.SGD(p, lr=lr)


FORMS = [AsMethod, OfTheModel, NamedRate, AsFunction, AsStatic, AsClass, AsPartial, AsInstance]


@pytest.mark.parametrize("form", FORMS)
def test_however_an_optimizer_is_written_it_gets_its_rate(form: type[Small]) -> None:
    assert look(form()).start(work(0.123)).base_rates == [0.123]


class Forgets(Small):
    optimizer = staticmethod(lambda p, lr: torch.optim.Adam(p, lr=1e-3))


class ForgetsAsMethod(Small):
    def optimizer(self, params: Any, lr: float) -> Any:
        return torch.optim.SGD(params, lr=0.5)


@pytest.mark.parametrize(("task", "rate"), [(Forgets, "0.001"), (ForgetsAsMethod, "0.5")])
def test_an_optimizer_that_does_not_take_the_rate(task: type[Small], rate: str) -> None:
    with pytest.raises(TaskError, match=f"rate is {rate} whatever rate it is given"):
        look(task())


# -- settings that nothing reads -------------------------------------------------------------------

TYPOS = {
    "epoch": "epochs", "batchsize": "batch_size", "scheduler": "schedule", "grad_clip": "clip_grad",
    "Epochs": "epochs", "optimiser": "optimizer", "weightdecay": "weight_decay", "lr": "--lr",
    "learning_rate": "--lr", "num_epochs": "epochs", "loss_fn": "loss\\(output", "seed": "--seed",
    "trian_data": "train_data", "direction": "minimized", "early_stopping": "search decides",
}  # fmt: skip


@pytest.mark.parametrize("name", TYPOS)
def test_a_setting_that_no_task_has(name: str) -> None:
    kind = type("Mistyped", (Small,), {name: 3})
    with pytest.raises(TaskError, match=TYPOS[name]):
        look(kind())


class Uses(Small):
    """Attributes of its own, which its methods read: in the open, by name, and in a closure."""

    epoch = 3
    scheduler = "mine"
    depth = 2

    def model(self) -> torch.nn.Module:
        layers = [torch.nn.Linear(4, 4) for _ in range(self.depth + self.epoch)]
        assert getattr(self, "scheduler") == "mine"  # noqa: B009
        return torch.nn.Sequential(*layers, torch.nn.Linear(4, 2))


def test_what_a_tasks_own_methods_read_is_its_own_business() -> None:
    assert look(Uses()).warnings == []


def test_what_nothing_reads_is_said() -> None:
    kind = type("Idle", (Small,), {"width": 64, "_private": 1})
    [warning] = look(kind()).warnings
    assert "width" in warning
    assert "_private" not in warning


def test_a_file_is_imported_without_our_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parses.py").write_text(
        "import argparse, justright\n"
        "parser = argparse.ArgumentParser()\n"
        "parser.add_argument('--hidden', type=int, default=8)\n"
        "ARGUMENTS = parser.parse_args()\n"
        "class Mine(justright.Task):\n    hidden = ARGUMENTS.hidden\n"
    )
    monkeypatch.setattr("sys.argv", ["justright", "tune", "parses.py:Mine", "--trials", "4"])
    found = load(TaskRef(target=f"{tmp_path}/parses.py:Mine"))
    assert isinstance(found, Task)
    assert found.hidden == 8  # type: ignore[attr-defined]


# -- how much a batch counts -----------------------------------------------------------------------


BATCHES: list[tuple[Any, Any, int | None]] = [
    (torch.zeros(5, 2), torch.zeros(5), 5),
    (torch.zeros(5, 2), {"a": torch.zeros(5), "b": torch.zeros(5, 3)}, 5),
    ({"x": torch.zeros(7, 2)}, None, 7),
    ((torch.zeros(3), [torch.zeros(3, 1)]), None, 3),
    (torch.zeros(4, 2), (torch.zeros(()), {"deep": [torch.zeros(4)]}), 4),
    (pack_sequence([torch.zeros(3), torch.zeros(2)], enforce_sorted=False), None, 2),
    ([torch.zeros(9), torch.zeros(4)], [0.5, 1.5, 2.5], 3),
    ("a text", None, None),
    (None, torch.zeros(()), None),
]


@pytest.mark.parametrize(("inputs", "targets", "count"), BATCHES)
def test_the_samples_of_a_batch(inputs: Any, targets: Any, count: int | None) -> None:
    assert samples(inputs, targets) == count


class Uneven(Small):
    """An autoencoder: the targets are None, and the last batch is smaller."""

    def model(self) -> torch.nn.Module:
        return torch.nn.Linear(4, 4)

    def train_data(self) -> Any:
        pairs = TensorDataset(INPUTS)
        return DataLoader(pairs, batch_size=16, collate_fn=lambda rows: (rows_of(rows), None))

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        mean: torch.Tensor = output.square().mean()
        return mean + len(output)


def rows_of(rows: Any) -> torch.Tensor:
    return torch.stack([row[0] for row in rows])


def test_a_mean_over_batches_weighs_by_samples() -> None:
    trainer = look(Uneven())
    result = trainer.train_epoch(trainer.start(work(1e-12)))
    assert result.loss is not None
    by_samples = (4 * 16 * 16 + 1 * 1) / 65
    assert by_samples < result.loss < by_samples + 2
    assert trainer.warnings == []


def test_where_nothing_tells_it_is_said() -> None:
    class Opaque(Uneven):
        def model(self) -> torch.nn.Module:
            return OfTexts()

        def train_data(self) -> Any:
            rows = TensorDataset(torch.arange(8))
            return DataLoader(rows, batch_size=4, collate_fn=lambda _: (Rows(), None))

    [warning] = look(Opaque()).warnings
    assert "counts the same" in warning


class Rows:
    """A batch of a kind that nobody knows."""


class OfTexts(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, rows: Rows) -> torch.Tensor:
        return self.weight


@pytest.mark.parametrize(
    ("shape", "expected"), [((4,), 1024), ((3, 224, 224), 111), ((3, 2048, 2048), 1)]
)
def test_batches_of_held_out_data_keep_to_a_size_in_memory(
    shape: tuple[int, ...], expected: int
) -> None:
    inputs = torch.zeros(1, *shape).expand(2000, *shape)
    assert validation_batch((inputs, torch.zeros(2000))) == expected
    assert validation_batch(TensorDataset(inputs)) == expected


class Stream(IterableDataset[Any]):
    def __len__(self) -> int:
        return len(INPUTS)

    def __iter__(self) -> Any:
        return iter(zip(INPUTS, CLASSES, strict=True))


def test_a_stream_that_has_a_length_is_data() -> None:
    class Streamed(Small):
        def train_data(self) -> Any:
            return Stream()

    trainer = look(Streamed())
    assert trainer.train_epoch(trainer.start(work())).loss is not None


class Doubled(Stream):
    """Gives twice what its length says, as one that each of two workers reads whole."""

    def __iter__(self) -> Any:
        return iter([*zip(INPUTS, CLASSES, strict=True)] * 2)


def test_more_batches_than_the_length_says_are_an_error() -> None:
    class Twice(Small):
        def train_data(self) -> Any:
            return DataLoader(Doubled(), batch_size=13)

    trainer = look(Twice())
    with pytest.raises(TaskError, match="more batches than its length says"):
        trainer.train_epoch(trainer.start(work()))


def test_a_last_batch_of_one_under_batch_norm() -> None:
    class LastOne(Small):
        norm = "BatchNorm1d"

        def model(self) -> torch.nn.Module:
            return torch.nn.Sequential(
                torch.nn.Linear(4, 8), getattr(torch.nn, self.norm)(8), torch.nn.Linear(8, 2)
            )

        def train_data(self) -> Any:
            return DataLoader(TensorDataset(INPUTS, CLASSES), batch_size=16, shuffle=True)

    with pytest.raises(TaskError, match="last batch of train_data\\(\\) has 1 sample"):
        look(LastOne())
    look(LastOne(norm="LayerNorm"))  # which one sample is enough for


# -- state of the model's own ----------------------------------------------------------------------


class Counts(torch.nn.Module):
    """Counters and buffers outside of its state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
        self.calls, self.width = 0, 4
        self.recent: deque[float] = deque(maxlen=3)
        self.average: torch.Tensor
        self.register_buffer("average", torch.zeros(2), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(inputs)
        if self.training:
            self.calls += 1
            self.recent.append(float(output.detach().mean()))
            self.average = 0.9 * self.average + 0.1 * output.detach().mean(0)
        found: torch.Tensor = output * (1 + 0.1 * self.calls) + self.average + sum(self.recent)
        return found


class Counting(Small):
    kind: type[torch.nn.Module] = Counts

    def model(self) -> torch.nn.Module:
        return self.kind()


def test_state_of_the_models_own_comes_along() -> None:
    trainer = look(Counting())
    assert trainer.own_state == {".average": True, ".calls": True, ".recent": True}
    assert trainer.warnings == []
    whole = trainer.start(work())
    expected = [trainer.train_epoch(whole).loss for _ in range(3)]
    first = trainer.start(work())
    found = [trainer.train_epoch(first).loss]
    state = first.state()
    for _ in range(2):
        later = trainer.start(work())
        later.restore(state)
        found.append(trainer.train_epoch(later).loss)
        state = later.state()
    assert found == expected


class Draws(Counts):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        noise: torch.Tensor = torch.rand((), generator=self.generator)
        return super().forward(inputs) + noise


def test_state_that_no_checkpoint_holds_is_said() -> None:
    trainer = look(Counting(kind=Draws))
    assert trainer.own_state[".generator"] is False
    [warning] = trainer.warnings
    assert "generator" in warning
    assert "do not pause" in warning


# -- one object for all trials ---------------------------------------------------------------------


class Kept(Small):
    """The same module each time, or one whose first part is always the same."""

    whole = True

    def model(self) -> torch.nn.Module:
        if not hasattr(self, "_model"):
            self._model = super().model()
        assert isinstance(self._model, torch.nn.Sequential)
        if self.whole:
            return self._model
        return torch.nn.Sequential(self._model[0], torch.nn.Tanh(), torch.nn.Linear(8, 2))


@pytest.mark.parametrize("whole", [True, False])
def test_each_trial_begins_where_the_first_one_did(whole: bool) -> None:
    trainer = look(Kept(whole=whole))
    runs = []
    for _ in range(3):
        trial = trainer.start(work(0.5))
        runs.append([trainer.train_epoch(trial).loss for _ in range(2)])
    assert runs[0] == runs[1] == runs[2]
    assert any("returned before" in text for text in trainer.warnings)


def test_a_new_module_each_time_is_not_copied() -> None:
    trainer = look(Small())
    assert not trainer.shares_model
    assert trainer.warnings == []


# -- random numbers of other libraries -------------------------------------------------------------


class Noisy(Small):
    """Its loss draws from Python's and from NumPy's generators."""

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        noise = random.random() + float(np.random.rand())
        return super().loss(output, target) * (1 + noise)


def test_random_numbers_of_python_and_numpy_go_on_in_the_middle_of_an_epoch() -> None:
    from worker.lanes.randomness import random_state

    trainer = look(Noisy())
    whole = trainer.start(work())
    expected = trainer.train_epoch(whole).loss
    halted = trainer.start(work())

    def after_two() -> bool:
        halted.random = random_state()
        return halted.batch >= 2

    assert trainer.train_lanes(trainer.lanes([halted]), after_two) is None
    state = halted.state()
    random.seed(99)
    np.random.seed(99)
    later = trainer.start(work())
    later.restore(state)
    assert trainer.train_epoch(later).loss == expected


def test_a_setting_given_on_the_command_line_must_exist() -> None:
    with pytest.raises(UsageError, match="no setting 'epoch'"):
        Small(epoch=3)
