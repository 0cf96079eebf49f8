"""Faster, or more exact, forms of some operations while they are computed for all lanes at once.

``torch.func.vmap`` gives every operation a first dimension of lanes; its own rules serve most of
them well: a linear layer becomes a batched matrix product, a convolution a grouped one. Where it
takes a detour, the form here goes straight. Results are the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch.overrides import TorchFunctionMode

_ATTENTION = functional.scaled_dot_product_attention
_NARROW = 64  # inputs of a filter up to which a matrix product with unfolded windows is quicker
_MANY = 32  # lanes from which on the form of a small loss pays for its own overhead


class LaneForms(TorchFunctionMode):
    """While it is entered, within vmap over lanes, calls take their form for lanes."""

    def __init__(self, lanes: int) -> None:
        super().__init__()
        self._forms: dict[Any, Callable[..., torch.Tensor]] = {
            functional.batch_norm: _batch_norm,
            functional.linear: _linear,
            functional.conv2d: _conv2d,
            functional.max_pool2d: _pool(functional.max_pool2d),
            functional.avg_pool2d: _pool(functional.avg_pool2d),
            functional.adaptive_avg_pool2d: _pool(functional.adaptive_avg_pool2d),
            functional.dropout: _dropout,
            _ATTENTION: _attention,
        }
        if lanes >= _MANY:
            self._forms[functional.cross_entropy] = _cross_entropy

    def __enter__(self) -> Any:
        # nn.MultiheadAttention calls it within a function of torch, where no mode sees it; and the
        # shortcut that torch has for a whole encoder layer knows no lanes.
        functional.scaled_dot_product_attention = _attention  # type: ignore[assignment]
        self._fastpath = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        functional.scaled_dot_product_attention = _ATTENTION
        torch.backends.mha.set_fastpath_enabled(self._fastpath)
        super().__exit__(*exception)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        form = self._forms.get(func, func)
        return form(*args, **(kwargs or {}))


class _Form(torch.autograd.Function):
    """A function that is only ever called within vmap; autograd records what ``vmap`` does."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError


def _channels(x: torch.Tensor, dim: int | None, lanes: int) -> torch.Tensor:
    """All lanes' channels side by side: (batch, lanes * channels, ...), a view if it can be."""
    if dim is None:
        x = x.unsqueeze(1).expand(x.shape[0], lanes, *x.shape[1:])
    else:
        x = x.movedim(dim, 1)
    return x.reshape(x.shape[0], lanes * x.shape[2], *x.shape[3:])


def _by_pixel(x: torch.Tensor) -> torch.Tensor:
    """Images with the channels of a pixel side by side, in which CPUs normalize and pool faster."""
    if x.ndim == 4 and x.device.type == "cpu":
        return x.contiguous(memory_format=torch.channels_last)
    return x


def _lanes(x: torch.Tensor, lanes: int) -> tuple[torch.Tensor, int]:
    """The way back from ``_channels``, and where the lanes are."""
    return x.view(x.shape[0], lanes, x.shape[1] // lanes, *x.shape[2:]), 1


class _BatchNorm(_Form):
    """All lanes' channels in one call, weight and bias included: vmap multiplies apart."""

    @staticmethod
    def forward(
        x: torch.Tensor,
        mean: torch.Tensor | None,
        var: torch.Tensor | None,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
    ) -> torch.Tensor:
        return functional.batch_norm(x, mean, var, weight, bias, training, momentum, eps)

    @staticmethod
    def vmap(info: Any, dims: Any, x: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, int]:
        lanes = info.batch_size
        tensors = [_flat(t, dim, lanes) for t, dim in zip(rest[:4], dims[1:5], strict=True)]
        x = _by_pixel(_channels(x, dims[0], lanes))
        return _lanes(functional.batch_norm(x, *tensors, *rest[4:]), lanes)


def _flat(tensor: torch.Tensor | None, dim: int | None, lanes: int) -> torch.Tensor | None:
    """The tensors of all lanes in a row; a view, since running statistics are updated in it."""
    if tensor is None:
        return None
    if dim is None:
        return tensor.repeat(lanes)
    return tensor.movedim(dim, 0).view(-1)


def _batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    arguments = (input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _BatchNorm.apply(*arguments)  # type: ignore[no-any-return,no-untyped-call]


class _Pool(_Form):
    """Pooling of all lanes' channels in one call."""

    @staticmethod
    def forward(x: torch.Tensor, pool: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return pool(x)

    @staticmethod
    def vmap(
        info: Any, dims: Any, x: torch.Tensor, pool: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, int]:
        found = pool(_by_pixel(_channels(x, dims[0], info.batch_size)))
        if found.requires_grad:  # its backward pass is slow when the two are of different order
            found.register_hook(_by_pixel)
        return _lanes(found, info.batch_size)


def _pool(operation: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def form(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if input.ndim != 4 or not _in_lanes(input):
            return operation(input, *args, **kwargs)
        found = _Pool.apply(input, lambda x: operation(x, *args, **kwargs))  # type: ignore[no-untyped-call]
        return found  # type: ignore[no-any-return]

    return form


class _Conv2d(_Form):
    """All lanes' filters as one convolution: in groups, where each lane has its own input."""

    @staticmethod
    def forward(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, groups: int, options: Any
    ) -> torch.Tensor:
        return functional.conv2d(x, weight, bias, *options, groups)

    @staticmethod
    def vmap(
        info: Any,
        dims: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        groups: int,
        options: Any,
    ) -> tuple[torch.Tensor, int]:
        lanes = info.batch_size
        weight = weight.movedim(dims[1], 0).flatten(0, 1)
        bias = bias.movedim(dims[2], 0).flatten() if bias is not None else None
        if dims[0] is None and groups == 1 and x.shape[1] * weight[0, 0].numel() <= _NARROW:
            return _lanes(_unfolded(x, weight, bias, *options), lanes)
        if dims[0] is not None or groups > 1:
            x, groups = _channels(x, dims[0], lanes), groups * lanes
        return _lanes(functional.conv2d(x.contiguous(), weight, bias, *options, groups), lanes)


def _unfolded(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
) -> torch.Tensor:
    """A convolution of few channels to many, as one matrix product with its windows."""
    size = weight.shape[2:]
    windows = functional.unfold(x, size, dilation, padding, stride).transpose(1, 2)
    flat = weight.flatten(1).t().contiguous()  # so, its gradient is several times quicker
    found = windows.reshape(-1, flat.shape[0]) @ flat
    if bias is not None:
        found = found + bias
    sizes = zip(x.shape[2:], size, _pair(padding), _pair(dilation), _pair(stride), strict=True)
    shape = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, d, s in sizes]
    return found.view(x.shape[0], *shape, -1).permute(0, 3, 1, 2)


def _pair(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value, value)


def _conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor:
    whole = _in_lanes(weight) and (bias is None or _in_lanes(bias)) and padding != "same"
    if input.ndim != 4 or not whole or input.device.type != "cpu":
        return functional.conv2d(input, weight, bias, stride, padding, dilation, groups)
    options = (stride, padding, dilation)
    found = _Conv2d.apply(input, weight, bias, groups, options)  # type: ignore[no-untyped-call]
    return found  # type: ignore[no-any-return]


def _linear(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Computed transposed: the gradient of the weight then comes out in the weight's own order."""
    if not _in_lanes(weight) or input.ndim != 2 or (bias is not None and not _in_lanes(bias)):
        return functional.linear(input, weight, bias)
    found = weight @ input.t() if bias is None else torch.addmm(bias[:, None], weight, input.t())
    return found.t()


class _CrossEntropy(_Form):
    """The batches of all lanes as one: vmap computes it from a dozen operations."""

    @staticmethod
    def forward(
        output: torch.Tensor, target: torch.Tensor, ignored: int, smoothing: float
    ) -> torch.Tensor:
        return functional.cross_entropy(
            output, target, ignore_index=ignored, label_smoothing=smoothing
        )

    @staticmethod
    def vmap(
        info: Any, dims: Any, output: torch.Tensor, target: torch.Tensor, ignored: int, smoothing: float
    ) -> tuple[torch.Tensor, int]:
        output = output.movedim(dims[0], 0)
        lanes, batch = output.shape[:2]
        losses = functional.cross_entropy(
            output.reshape(lanes * batch, -1),
            target.expand(lanes, batch).reshape(-1),
            ignore_index=ignored,
            label_smoothing=smoothing,
            reduction="none",
        )
        return losses.view(lanes, batch).sum(1) / (target != ignored).sum(), 0


def _cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    simple = weight is None and size_average is None and reduce is None and reduction == "mean"
    classes = input.ndim == 2 and target.ndim == 1 and not target.is_floating_point()
    if simple and classes and _in_lanes(input) and not _in_lanes(target):
        found = _CrossEntropy.apply(input, target, ignore_index, label_smoothing)  # type: ignore[no-untyped-call]
        return found  # type: ignore[no-any-return]
    return functional.cross_entropy(
        input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
    )


def _in_lanes(tensor: torch.Tensor) -> bool:
    return torch._C._functorch.is_batchedtensor(tensor)


def _dropout(
    input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """One mask for all lanes, drawn as a lane alone would draw it.

    That is in the order of memory. Vectors and images are in their natural one there, whatever
    the forms here have made of it; a sequence may be a transposed view.
    """
    if inplace or not training or not 0.0 < p < 1.0 or input.device.type != "cpu":
        return functional.dropout(input, p, training, inplace)
    strides = _strides(input) if input.ndim == 3 else None
    kept = torch.empty(input.shape, dtype=input.dtype)
    if strides is not None:
        kept = torch.empty_strided(input.shape, strides, dtype=input.dtype)
    kept.bernoulli_(1 - p)
    return input * kept.div_(1 - p)


def _strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """The strides of a dense tensor whose dimensions lie in memory in the same order."""
    order = sorted(range(tensor.ndim), key=lambda dim: (-tensor.stride(dim), dim))
    strides, step = [0] * tensor.ndim, 1
    for dim in reversed(order):
        strides[dim] = step
        step *= max(1, tensor.shape[dim])
    return tuple(strides)


class _Attention(_Form):
    """The batches of all lanes as one: torch's CPU kernel knows no lanes."""

    @staticmethod
    def forward(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scale: float | None
    ) -> torch.Tensor:
        return _ATTENTION(
            query, key, value, is_causal=causal, scale=scale
        )

    @staticmethod
    def vmap(info: Any, dims: Any, *inputs: Any) -> tuple[torch.Tensor, int]:
        *parts, causal, scale = inputs
        lanes = info.batch_size
        whole = [
            part.unsqueeze(0).expand(lanes, *part.shape) if dim is None else part.movedim(dim, 0)
            for part, dim in zip(parts, dims[:3], strict=True)
        ]
        batch = whole[0].shape[1]
        folded = [part.reshape(lanes * part.shape[1], *part.shape[2:]) for part in whole]
        found = _ATTENTION(*folded, is_causal=causal, scale=scale)
        return found.view(lanes, batch, *found.shape[1:]), 0


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """With a mask or dropout it is written out, so that the latter is drawn as a lane alone would."""
    if enable_gqa or (dropout_p and query.device.type != "cpu"):
        return _ATTENTION(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    batched = query.ndim == key.ndim == value.ndim == 4 and any(map(_in_lanes, (query, key, value)))
    if batched and attn_mask is None and not dropout_p:
        found = _Attention.apply(query, key, value, is_causal, scale)  # type: ignore[no-untyped-call]
        return found  # type: ignore[no-any-return]
    if is_causal:
        shape = query.shape[-2], key.shape[-2]
        attn_mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
    factor = (scale if scale is not None else query.shape[-1] ** -0.5) ** 0.5
    scores = (query * factor) @ (key * factor).transpose(-2, -1)
    if attn_mask is not None:
        blocked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if blocked else scores + attn_mask
    return _dropout(scores.softmax(dim=-1), dropout_p) @ value
