"""Batches: every form of the user's data, each sample once an epoch, and the same order again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset, TensorDataset

from justright.errors import TaskError
from worker.training.data import Ahead, Batches, TensorBatches, as_batches, fits

CPU = torch.device("cpu")
COUNT, SIZE = 22, 8
INPUTS = torch.arange(COUNT * 3, dtype=torch.float32).reshape(COUNT, 3)
TARGETS = torch.arange(COUNT)


class Rows(Dataset[Any]):
    """A Dataset as people write them: a length and an item."""

    def __init__(self, count: int = COUNT) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Any:
        return INPUTS[row % COUNT], row


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(Rows(), batch_size=SIZE, **options)


def own_generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


FORMS: dict[str, Callable[[], Any]] = {
    "tensors": lambda: (INPUTS, TARGETS),
    "list-of-tensors": lambda: [INPUTS, TARGETS],
    "numpy": lambda: (INPUTS.numpy(), TARGETS.numpy()),
    "numpy-and-tensor": lambda: (INPUTS.numpy(), TARGETS),
    "TensorDataset": lambda: TensorDataset(INPUTS, TARGETS),
    "Dataset": Rows,
    "Subset": lambda: Subset(Rows(COUNT + 9), range(COUNT)),
    "DataLoader": lambda: loader(shuffle=True),
    "DataLoader-with-generator": lambda: loader(shuffle=True, generator=own_generator()),
    "DataLoader-with-sampler": lambda: loader(
        sampler=RandomSampler(Rows(), generator=own_generator())
    ),
}


def batches_of(data: Any, *, batch_size: int = SIZE, shuffle: bool = True) -> Batches:
    return as_batches(data, batch_size=batch_size, device=CPU, shuffle=shuffle, what="train_data")


def order(batches: Batches, seed: int) -> list[int]:
    torch.manual_seed(seed)
    return [int(target) for _, targets in batches for target in targets]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_sample_comes_exactly_once_with_its_target(form: Callable[[], Any]) -> None:
    batches = batches_of(form())
    torch.manual_seed(0)
    seen = list(batches)
    assert len(seen) == len(batches) == 3
    assert [len(targets) for _, targets in seen] == [8, 8, 6]
    inputs, targets = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert sorted(targets.tolist()) == list(range(COUNT))
    assert torch.equal(inputs, INPUTS[targets])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_order_follows_from_the_seed_alone(form: Callable[[], Any]) -> None:
    batches = batches_of(form())
    first = order(batches, seed=1)
    assert first != list(range(COUNT)), "it is shuffled"
    assert order(batches, seed=2) != first
    assert order(batches, seed=1) == first
    assert order(batches_of(form()), seed=1) == first


@pytest.mark.parametrize("form", ["tensors", "numpy", "TensorDataset", "Dataset", "Subset"])
def test_validation_data_keeps_its_order(form: str) -> None:
    assert order(batches_of(FORMS[form](), shuffle=False), seed=0) == list(range(COUNT))


def test_a_loader_keeps_its_own_batches() -> None:
    given = DataLoader(Rows(), batch_size=5, drop_last=True)
    batches = batches_of(given, batch_size=SIZE)
    assert order(batches, seed=0) == list(range(20))
    assert len(batches) == 4


# -- a lonely last sample ----------------------------------------------------------------------

LONELY: dict[str, Callable[[], Any]] = {
    "tensors": lambda: (INPUTS[:17], TARGETS[:17]),
    "TensorDataset": lambda: TensorDataset(INPUTS[:17], TARGETS[:17]),
    "Dataset": lambda: Rows(17),
    "Subset": lambda: Subset(Rows(), range(17)),
}


@pytest.mark.parametrize("form", LONELY.values(), ids=LONELY)
def test_batchnorm_never_meets_a_batch_of_one(form: Callable[[], Any]) -> None:
    """The sample that is left over is left out, each epoch another one."""
    batches = batches_of(form())
    model = torch.nn.BatchNorm1d(3).train()
    left_out = set()
    for seed in range(8):
        torch.manual_seed(seed)
        seen: list[int] = []
        for inputs, targets in batches:
            model(inputs)
            seen += targets.tolist()
        assert len(seen) == len(set(seen)) == 16
        left_out |= set(range(17)) - set(seen)
    assert len(left_out) > 1
    assert len(batches) == 2


@pytest.mark.parametrize("form", LONELY.values(), ids=LONELY)
def test_validation_leaves_nothing_out(form: Callable[[], Any]) -> None:
    assert order(batches_of(form(), shuffle=False), seed=0) == list(range(17))


def test_data_of_one_sample_is_one_batch() -> None:
    assert order(batches_of((INPUTS[:1], TARGETS[:1])), seed=0) == [0]


def test_batches_of_one_are_as_the_user_wants_them() -> None:
    batches = batches_of((INPUTS, TARGETS), batch_size=1)
    assert sorted(order(batches, seed=0)) == list(range(COUNT))


# -- batches with structure --------------------------------------------------------------------


class Pair(NamedTuple):
    words: torch.Tensor
    lengths: torch.Tensor


class Structured(Dataset[Any]):
    def __init__(self, make: Callable[[torch.Tensor], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, row: int) -> Any:
        return self.make(INPUTS[row]), row


@pytest.mark.parametrize(
    "make",
    [
        lambda row: {"words": row, "lengths": row[0]},
        lambda row: (row, row[0]),
        lambda row: Pair(row, row[0]),
    ],
    ids=["dict", "tuple", "namedtuple"],
)
def test_inputs_may_be_made_of_several_tensors(make: Callable[[torch.Tensor], Any]) -> None:
    batches = batches_of(Structured(make), shuffle=False)
    inputs, targets = next(iter(batches))
    parts = [inputs["words"], inputs["lengths"]] if isinstance(inputs, dict) else list(inputs)
    assert torch.equal(parts[0], INPUTS[:SIZE])
    assert torch.equal(parts[1], INPUTS[:SIZE, 0])
    assert targets.tolist() == list(range(SIZE))
    if not isinstance(inputs, dict):
        assert hasattr(inputs, "words") == hasattr(make(INPUTS[0]), "words")


# -- what does not fit -------------------------------------------------------------------------

WRONG: dict[str, tuple[Any, str]] = {
    "none": (None, r"train_data\(\) returned a NoneType, expected a pair of tensors"),
    "one-tensor": (INPUTS, r"returned a Tensor, expected a pair"),
    "three": ((INPUTS, TARGETS, TARGETS), r"tuple of 3 \(Tensor, Tensor, Tensor\)"),
    "lists": (([1.0, 2.0], [0, 1]), r"tuple of 2 \(list, list\)"),
    "generator": ((row for row in INPUTS), r"returned a generator"),
    "unequal": ((INPUTS, TARGETS[:20]), r"22 inputs and 20 targets, expected as many"),
    "empty": ((INPUTS[:0], TARGETS[:0]), r"0 inputs and 0 targets, .*at least one"),
    "scalars": ((torch.tensor(1.0), torch.tensor(0)), r"train_data\(\) returned"),
    "strings": ((np.array(["a", "b"]), np.array([0, 1])), r"train_data\(\) returned"),
    "empty-dataset": (Rows(0), r"train_data\(\) returned"),
}


@pytest.mark.parametrize(("data", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_told(data: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        batches_of(data)


def test_numpy_that_was_turned_round_is_read() -> None:
    """torch.from_numpy refuses negative strides; the user's data is good all the same."""
    turned = INPUTS.numpy()[::-1]
    batches = batches_of((turned, TARGETS.numpy()), shuffle=False)
    inputs, _ = next(iter(batches))
    assert np.array_equal(inputs.numpy(), turned[:SIZE])


def test_a_batch_that_is_no_pair_is_told() -> None:
    data = TensorDataset(INPUTS, TARGETS, TARGETS)
    with pytest.raises(TaskError, match=r"a batch that is a list of 3 .*expected a pair"):
        list(batches_of(data))


def test_batches_that_are_copied_ahead_are_the_same() -> None:
    inputs, targets = torch.randn(50, 3), torch.arange(50)
    batches = TensorBatches(inputs, targets, 16, shuffle=True)
    ahead = Ahead(batches, torch.device("cpu"))
    assert len(ahead) == len(batches)
    for _ in range(2):  # again and again
        torch.manual_seed(3)
        expected = [targets.tolist() for _, targets in batches]
        torch.manual_seed(3)
        found = list(ahead)
        assert [targets.tolist() for _, targets in found] == expected
        assert all(torch.equal(x, inputs[rows]) for x, rows in found)


def test_data_too_large_for_the_device_stay_with_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is a CPU here: that all is asked for is shown, not the copying itself."""
    free = [1e9]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 1e9))
    gpu, small = torch.device("cuda"), torch.zeros(100, 10)
    assert fits(small, small, device=gpu)
    free[0] = 10_000
    assert not fits(small, small, device=gpu)
    assert fits(small, small, device=torch.device("cpu"))
