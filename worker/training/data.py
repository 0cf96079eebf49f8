"""The user's data as batches on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from justright.errors import TaskError

_DATA_SHARE = 0.4  # of a GPU's free memory that data may take
_VALIDATION_BATCH = 1024  # samples of held-out data at once, at most ...
_VALIDATION_BYTES = 64 * 2**20  # ... and bytes of their inputs
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
            count = len(data)
        except TypeError:
            count = 0
        if count == 0:
            raise TaskError(f"{what}() returned a DataLoader of no batches or of no known length.")
        if device.type == "cuda" and data.num_workers:
            # Only these draw no random number here, so that the order of draws stays the same.
            return Ahead(LoaderBatches(data, torch.device("cpu")), device)
        return LoaderBatches(data, device)
    if isinstance(data, Dataset):
        try:
            count = len(data)  # type: ignore[arg-type]
        except TypeError:
            raise TaskError(
                f"{what}() returned a {_describe(data)} without a length, expected one with "
                "__len__ and __getitem__."
            ) from None
        if count == 0:
            raise TaskError(f"{what}() returned an empty {_describe(data)}.")

        stream = isinstance(data, IterableDataset)  # which has an order of its own

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


def samples(inputs: Any, targets: Any) -> int | None:
    """How many samples a batch has, which is how much its mean counts; None: nothing tells.

    By the first tensor within the targets, however they are nested, else within the inputs.
    """
    for part in (targets, inputs):
        plain = isinstance(part, (list, tuple)) and len(part) > 0
        if plain and all(isinstance(item, (int, float, str)) for item in part):
            return len(part)
        for count in _counts(part):
            return count
    return None


def _counts(value: Any) -> Iterator[int]:
    if isinstance(value, PackedSequence):
        yield int(value.batch_sizes[0])
        return
    for tensor in _tensors(value):
        if tensor.ndim:
            yield len(tensor)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def validation_batch(data: Any) -> int:
    """Samples in a batch of held-out data: without gradients there is room for many, of small ones.

    Large images, of which a few fill a GPU, stay at the size that they are trained in.
    """
    if isinstance(data, (tuple, list)) and data and hasattr(data[0], "__getitem__"):
        one: Any = data[0][:1] if len(data[0]) else None
    elif isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        one = data[0] if len(data) else None  # type: ignore[arg-type]
    else:
        return 1
    size = sum(t.numel() * t.element_size() for t in _tensors(one))
    if isinstance(one, np.ndarray):
        size = one.nbytes
    return max(1, min(_VALIDATION_BATCH, _VALIDATION_BYTES // max(1, size)))


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
