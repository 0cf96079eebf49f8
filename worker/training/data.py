"""The user's data as batches on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)

from justright.errors import TaskError
from worker.training.samples import samples

_DATA_SHARE = 0.4  # of a GPU's free memory that data may take
_SEEDS = 2**62  # from which a loader's own generators are seeded

Batch = tuple[Any, Any]


class Batches(Protocol):
    """Batches (inputs, targets). Iterating twice from the same torch seed gives the same order."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...

    def of_size(self, batch_size: int) -> Batches:
        """The same data, which are not copied, in batches of another size.

        Raises:
            TaskError: the user's own DataLoader decides that.
        """
        ...

    def part(self, count: int) -> Batches:
        """So many of the samples, drawn once for all, or a few more, in no order of their own; the
        first ones where they cannot be picked."""
        ...


class TensorBatches:
    """Tensors that stay on the device; a batch is an index into them."""

    def __init__(
        self, inputs: torch.Tensor, targets: torch.Tensor, batch_size: int, shuffle: bool
    ) -> None:
        self._inputs, self._targets = inputs, targets
        self._batch_size, self._shuffle = batch_size, shuffle
        count = len(inputs)
        # A last batch of one sample makes BatchNorm raise in training.
        lonely = shuffle and count > batch_size and count % batch_size == 1
        self._count = count - 1 if lonely else count

    def of_size(self, batch_size: int) -> TensorBatches:
        return TensorBatches(self._inputs, self._targets, batch_size, self._shuffle)

    def part(self, count: int) -> TensorBatches:
        rows = _drawn(len(self._inputs), count).to(self._inputs.device)
        return TensorBatches(self._inputs[rows], self._targets[rows], self._batch_size, False)

    @property
    def samples(self) -> int:
        """How many there are."""
        return self._count

    def __len__(self) -> int:
        return -(-self._count // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if not self._shuffle:
            for at in range(0, self._count, self._batch_size):
                end = at + self._batch_size
                yield self._inputs[at:end], self._targets[at:end]
            return
        # Drawn on the CPU, so that every device sees the same order.
        order = torch.randperm(len(self._inputs)).to(self._inputs.device)
        for at in range(0, self._count, self._batch_size):
            rows = order[at : min(at + self._batch_size, self._count)]
            yield self._inputs[rows], self._targets[rows]


class Ahead:
    """Batches in the host's memory, each copied to the device while the one before is used."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self.batches, self._device = batches, device
        self._side: Any = None
        if device.type == "cuda":
            self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.batches)

    def of_size(self, batch_size: int) -> Ahead:
        return Ahead(self.batches.of_size(batch_size), self._device)

    def part(self, count: int) -> Ahead:
        return Ahead(self.batches.part(count), self._device)

    def __iter__(self) -> Iterator[Batch]:
        ready: Batch | None = None
        for batch in self.batches:
            coming = self._copy(batch)
            if ready is not None:
                yield self._taken(ready)
            ready = coming
        if ready is not None:
            yield self._taken(ready)

    def _copy(self, batch: Batch) -> Batch:
        if self._side is None:
            return _move(batch, self._device)  # type: ignore[no-any-return]
        with torch.cuda.stream(self._side):
            return _move(_pin(batch), self._device)  # type: ignore[no-any-return]

    def _taken(self, batch: Batch) -> Batch:
        """It is used from here on: after its copy, and its memory not before we are done."""
        if self._side is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._side)
            each_tensor(batch, lambda tensor: _keep_for(tensor, current))
        return batch


class LoaderBatches:
    """A DataLoader whose batches are moved to the device."""

    def __init__(
        self,
        loader: DataLoader[Any],
        device: torch.device,
        again: Callable[[int], DataLoader[Any]] | None = None,
    ) -> None:
        """``again``: the same loader with another batch size; None: it is the user's own."""
        self.loader, self._device, self._again = loader, device, again

    def of_size(self, batch_size: int) -> LoaderBatches:
        if self._again is None:
            raise TaskError(
                "the batch size is that of the DataLoader which train_data() returns: to search "
                "it, return the Dataset, or a pair of tensors."
            )
        return LoaderBatches(self._again(batch_size), self._device, self._again)

    def part(self, count: int) -> Batches:
        loader = self.loader
        try:
            there = len(loader.dataset)  # type: ignore[arg-type]
        except TypeError:
            return First(self, count)
        plain = type(loader.batch_sampler) is BatchSampler and not loader.drop_last
        if isinstance(loader.dataset, IterableDataset) or not plain:
            return First(self, count)
        return LoaderBatches(
            DataLoader(
                Subset(loader.dataset, _drawn(there, count).tolist()),
                batch_size=loader.batch_size,
                collate_fn=loader.collate_fn,
                num_workers=loader.num_workers,
                worker_init_fn=loader.worker_init_fn,
            ),
            self._device,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for generator in _generators(self.loader):
            generator.manual_seed(int(torch.randint(_SEEDS, ())))
        if self.loader.persistent_workers:
            # They would go on with the random numbers of whatever they loaded before.
            self.loader._iterator = None
        for batch in self.loader:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise TaskError(
                    f"found a batch that is a {_describe(batch)}, expected a pair "
                    "(inputs, targets)."
                )
            yield _move(batch[0], self._device), _move(batch[1], self._device)


class First:
    """The first batches of some, as many as have so many samples."""

    def __init__(self, batches: Batches, count: int) -> None:
        self._batches, self._samples = batches, count

    def __len__(self) -> int:
        return len(self._batches)

    def of_size(self, batch_size: int) -> First:
        return First(self._batches.of_size(batch_size), self._samples)

    def part(self, count: int) -> First:
        return First(self._batches, min(count, self._samples))

    def __iter__(self) -> Iterator[Batch]:
        seen = 0
        for inputs, targets in self._batches:
            yield inputs, targets
            seen += samples(inputs, targets) or 1
            if seen >= self._samples:
                return


def _drawn(there: int, count: int) -> torch.Tensor:
    """Some of so many samples, always the same ones, in their own order."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(there, generator=generator)[:count].sort().values


def size_of(batches: Batches) -> int | None:
    """How many samples there are; None: nobody knows."""
    inner = batches.batches if isinstance(batches, Ahead) else batches
    if isinstance(inner, TensorBatches):
        return inner.samples
    if isinstance(inner, LoaderBatches):
        try:
            return len(inner.loader.dataset)  # type: ignore[arg-type]
        except TypeError:
            return None
    return None


def as_batches(
    data: Any, *, batch_size: int, device: torch.device, shuffle: bool, what: str
) -> Batches:
    """Turn what ``train_data`` or ``validation_data`` returned into batches.

    Raises:
        TaskError: it has none of the known forms, or inputs and targets do not match.
    """
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        data = data.tensors
    if isinstance(data, DataLoader):
        try:
            empty = len(data) == 0
        except TypeError:  # of no known length
            empty = False
        if empty:
            raise TaskError(f"{what}() returned a DataLoader of no batches.")
        if device.type == "cuda" and data.num_workers:
            # Only these draw no random number here, so that the order of draws stays the same.
            return Ahead(LoaderBatches(data, torch.device("cpu")), device)
        return LoaderBatches(data, device)
    if isinstance(data, Dataset):
        stream = isinstance(data, IterableDataset)  # which has an order of its own
        try:
            count = len(data)  # type: ignore[arg-type]
        except TypeError:
            if not stream:
                raise TaskError(
                    f"{what}() returned a {_describe(data)} without a length, expected one with "
                    "__len__ and __getitem__, or an IterableDataset."
                ) from None
            count = -1
        if count == 0:
            raise TaskError(f"{what}() returned an empty {_describe(data)}.")

        def load(size: int) -> DataLoader[Any]:
            lonely = shuffle and count > size > 1 and count % size == 1
            return DataLoader(
                data, batch_size=size, shuffle=shuffle and not stream, drop_last=lonely
            )

        return LoaderBatches(load(batch_size), device, load)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        inputs, targets = (_tensor(part) for part in data)
        if inputs is not None and targets is not None:
            if len(inputs) != len(targets) or len(inputs) == 0:
                raise TaskError(
                    f"{what}() returned {len(inputs)} inputs and {len(targets)} targets, expected "
                    "as many of the one as of the other, and at least one."
                )
            if not fits(inputs, targets, device=device):
                return Ahead(TensorBatches(inputs, targets, batch_size, shuffle), device)
            return TensorBatches(inputs.to(device), targets.to(device), batch_size, shuffle)
    raise TaskError(
        f"{what}() returned a {_describe(data)}, expected a pair of tensors (inputs, targets), "
        "a torch Dataset or a DataLoader."
    )


def fits(*tensors: torch.Tensor, device: torch.device) -> bool:
    """Whether they leave the device room to train."""
    if device.type != "cuda" or all(tensor.device.type == "cuda" for tensor in tensors):
        return True
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return size <= _DATA_SHARE * torch.cuda.mem_get_info(device)[0]


def _tensor(part: Any) -> torch.Tensor | None:
    if isinstance(part, np.ndarray):
        try:
            part = torch.from_numpy(np.ascontiguousarray(part))
        except TypeError:  # strings, objects
            return None
    return part if isinstance(part, torch.Tensor) and part.ndim > 0 else None


def _generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    """The generators that a loader keeps for itself: torch's seed does not reach them."""
    places = (loader, loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    found = (getattr(place, "generator", None) for place in places)
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _describe(data: Any) -> str:
    if isinstance(data, (tuple, list)):
        inner = ", ".join(type(part).__name__ for part in data[:4])
        return f"{type(data).__name__} of {len(data)} ({inner})"
    return type(data).__name__


def each_tensor(value: Any, call: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A batch of the same form, with the result of ``call`` for each of its tensors."""
    if isinstance(value, torch.Tensor):
        return call(value)
    if isinstance(value, dict):
        return {key: each_tensor(item, call) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(each_tensor(item, call) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(each_tensor(item, call) for item in value)
    return value


def _keep_for(tensor: torch.Tensor, stream: Any) -> torch.Tensor:
    """Its memory is used by a stream other than the one that it was made on."""
    tensor.record_stream(stream)
    return tensor


def _move(value: Any, device: torch.device) -> Any:
    return each_tensor(value, lambda tensor: tensor.to(device, non_blocking=True))


def _pin(value: Any) -> Any:
    """In memory from which a device copies while the host goes on."""
    return each_tensor(value, torch.Tensor.pin_memory)


def lonely_batch(batches: Batches) -> bool:
    """Whether the last batch of a DataLoader of the user's own has one sample."""
    inner = batches.batches if isinstance(batches, Ahead) else batches
    if not isinstance(inner, LoaderBatches):
        return False
    loader = inner.loader
    try:
        count = len(loader.dataset)  # type: ignore[arg-type]
    except TypeError:
        return False
    size = loader.batch_size
    return size is not None and size > 1 and not loader.drop_last and count % size == 1
