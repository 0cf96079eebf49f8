"""Faster, or more exact, forms of some operations while they are computed for all lanes at once.

``torch.func.vmap`` gives every operation a further dimension, that of the lanes, and its own rules
serve most of them well. Where it takes a detour, the form here goes straight: it is given the whole
tensors, as a ``rule`` (lanes, dims, *arguments) -> (result, dim), where ``dims`` says at which
dimension each argument has its lanes, None: it is the same for all. Autograd records what the rule
does. Results are those of vmap but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch.overrides import TorchFunctionMode

Tensor = torch.Tensor
Dims = Sequence[int | None]
Whole = tuple[Tensor, int]  #: A result for all lanes, and its dimension of lanes.

# As torch has it: below, and in LaneForms, the name in torch's module is another's.
_ATTENTION: Callable[..., Tensor] = functional.scaled_dot_product_attention

_NARROW = 64  # inputs of a filter up to which a matrix product with unfolded windows is quicker
_MANY = 32  # lanes from which on the form of a small loss pays for its own overhead


class LaneForms(TorchFunctionMode):
    """While it is entered, within vmap over lanes, calls take their form for lanes."""

    def __init__(self, lanes: int) -> None:
        super().__init__()
        self._forms: dict[Any, Callable[..., Tensor]] = {
            functional.linear: _linear,
            functional.conv2d: _conv2d,
            functional.batch_norm: _batch_norm,
            functional.group_norm: _group_norm,
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
        setattr(functional, "scaled_dot_product_attention", _attention)  # noqa: B010
        self._shortcut = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *exception: Any) -> None:
        setattr(functional, "scaled_dot_product_attention", _ATTENTION)  # noqa: B010
        torch.backends.mha.set_fastpath_enabled(self._shortcut)
        super().__exit__(*exception)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        form = self._forms.get(func, func)
        return form(*args, **(kwargs or {}))


def _by_rule(rule: Callable[..., Whole]) -> Callable[..., Tensor]:
    """What calls a rule, where at least one argument is in lanes."""

    class Form(torch.autograd.Function):
        @staticmethod
        def forward(*inputs: Any) -> Any:
            raise NotImplementedError("none of its arguments is in lanes")

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

        @staticmethod
        def vmap(info: Any, dims: Dims, *inputs: Any) -> Whole:
            return rule(info.batch_size, dims, *inputs)

    apply: Callable[..., Tensor] = Form.apply
    return apply


def _in_lanes(*tensors: Tensor | None) -> bool:
    """Whether all of them, as far as they are there, differ between lanes."""
    return all(t is None or torch._C._functorch.is_batchedtensor(t) for t in tensors)


# -- linear layers ------------------------------------------------------------------------------


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computed transposed: the gradient of the weight then comes out in the weight's own order."""
    half = torch.is_autocast_enabled(input.device.type)
    if input.ndim != 2 or half or not _in_lanes(weight, bias):
        return functional.linear(input, weight, bias)
    found = weight @ input.t() if bias is None else torch.addmm(bias[:, None], weight, input.t())
    return found.t()


# -- images -------------------------------------------------------------------------------------


def _channels(x: Tensor, dim: int | None, lanes: int) -> Tensor:
    """All lanes' channels side by side: (batch, lanes * channels, ...), a view if it can be."""
    if dim is not None:
        x = x.movedim(dim, 1)
    else:
        x = x.unsqueeze(1).expand(x.shape[0], lanes, *x.shape[1:])
    return x.reshape(x.shape[0], lanes * x.shape[2], *x.shape[3:])


def _whole(x: Tensor, lanes: int) -> Whole:
    """The way back from ``_channels``."""
    return x.view(x.shape[0], lanes, x.shape[1] // lanes, *x.shape[2:]), 1


def _by_pixel(x: Tensor) -> Tensor:
    """Images with the channels of a pixel side by side, in which CPUs normalize and pool faster."""
    if x.ndim == 4 and x.device.type == "cpu":
        return x.contiguous(memory_format=torch.channels_last)
    return x


def _flat(tensor: Tensor | None, dim: int | None, lanes: int) -> Tensor | None:
    """The tensors of all lanes in a row; a view, since running statistics are updated in it."""
    if tensor is None:
        return None
    return tensor.repeat(lanes) if dim is None else tensor.movedim(dim, 0).view(-1)


@_by_rule
def _batch_norm_rule(lanes: int, dims: Dims, x: Tensor, *rest: Any) -> Whole:
    """All lanes' channels in one call, weight and bias included: vmap multiplies apart."""
    tensors = [_flat(t, dim, lanes) for t, dim in zip(rest[:4], dims[1:5], strict=True)]
    call: Callable[..., Tensor] = functional.batch_norm
    return _whole(call(_by_pixel(_channels(x, dims[0], lanes)), *tensors, *rest[4:]), lanes)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    tensors = (input, running_mean, running_var, weight, bias)
    if not any(_in_lanes(t) for t in tensors if t is not None):
        return functional.batch_norm(*tensors, training, momentum, eps)
    return _batch_norm_rule(*tensors, training, momentum, eps)


@_by_rule
def _group_norm_rule(
    lanes: int,
    dims: Dims,
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Whole:
    """All lanes' channels in one call, in as many groups more."""
    tensors = (_flat(weight, dims[2], lanes), _flat(bias, dims[3], lanes))
    x = _channels(x, dims[0], lanes).contiguous()
    return _whole(functional.group_norm(x, groups * lanes, *tensors, eps), lanes)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    if not any(_in_lanes(t) for t in (input, weight, bias) if t is not None):
        return functional.group_norm(input, num_groups, weight, bias, eps)
    return _group_norm_rule(input, num_groups, weight, bias, eps)


@_by_rule
def _pool_rule(lanes: int, dims: Dims, x: Tensor, pool: Callable[[Tensor], Tensor]) -> Whole:
    found = pool(_by_pixel(_channels(x, dims[0], lanes)))
    if found.requires_grad:  # the backward pass is slow where the two are of different order
        found.register_hook(_by_pixel)  # type: ignore[no-untyped-call]
    return _whole(found, lanes)


def _pool(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def form(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if input.ndim != 4 or not _in_lanes(input) or kwargs.get("return_indices"):
            return operation(input, *args, **kwargs)
        return _pool_rule(input, lambda x: operation(x, *args, **kwargs))

    return form


@_by_rule
def _conv2d_rule(
    lanes: int,
    dims: Dims,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    options: tuple[Any, Any, Any],
) -> Whole:
    """All lanes' filters as one convolution: in groups, where each lane has its own input."""
    weight = weight.movedim(dims[1] or 0, 0).flatten(0, 1)
    bias = bias.movedim(dims[2] or 0, 0).flatten() if bias is not None else None
    if dims[0] is None and groups == 1 and weight[0].numel() <= _NARROW:
        return _whole(_unfolded(x, weight, bias, *options), lanes)
    if dims[0] is not None or groups > 1:
        x, groups = _channels(x, dims[0], lanes), groups * lanes
    return _whole(torch.conv2d(x.contiguous(), weight, bias, *options, groups), lanes)


def _unfolded(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any
) -> Tensor:
    """A convolution of few channels to many, as one matrix product with its windows."""
    size = weight.shape[2:]
    windows = functional.unfold(x, size, dilation, padding, stride).transpose(1, 2)
    flat = weight.flatten(1).t().contiguous()  # so, its gradient is several times quicker
    found = windows.reshape(-1, flat.shape[0]) @ flat
    if bias is not None:
        found = found + bias.to(found.dtype)
    sizes = zip(x.shape[2:], size, _pair(padding), _pair(dilation), _pair(stride), strict=True)
    shape = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, d, s in sizes]
    return found.view(x.shape[0], *shape, -1).permute(0, 3, 1, 2)


def _pair(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value, value)


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    known = input.ndim == 4 and not isinstance(padding, str) and input.device.type == "cpu"
    if not known or not _in_lanes(weight, bias):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    return _conv2d_rule(input, weight, bias, groups, (stride, padding, dilation))


# -- losses -------------------------------------------------------------------------------------


@_by_rule
def _cross_entropy_rule(
    lanes: int, dims: Dims, output: Tensor, target: Tensor, ignored: int, smoothing: float
) -> Whole:
    """The batches of all lanes as one: vmap computes it from a dozen operations."""
    output = output.movedim(dims[0] or 0, 0)
    batch = output.shape[1]
    losses = functional.cross_entropy(
        output.reshape(lanes * batch, -1),
        target.expand(lanes, batch).reshape(-1),
        ignore_index=ignored,
        label_smoothing=smoothing,
        reduction="none",
    )
    return losses.view(lanes, batch).sum(1) / (target != ignored).sum(), 0


def _cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    simple = weight is None and size_average is None and reduce is None and reduction == "mean"
    classes = input.ndim == 2 and target.ndim == 1 and not target.is_floating_point()
    if simple and classes and _in_lanes(input) and not _in_lanes(target):
        return _cross_entropy_rule(input, target, ignore_index, label_smoothing)
    return functional.cross_entropy(
        input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
    )


# -- dropout and attention ----------------------------------------------------------------------


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """One mask for all lanes, drawn as a lane alone would draw it.

    That is in the order of memory. Vectors and images are in their natural one there, whatever
    the forms here have made of it; a sequence may be a transposed view.
    """
    if inplace or not training or not 0.0 < p < 1.0 or input.device.type != "cpu":
        return functional.dropout(input, p, training, inplace)
    if input.ndim == 3:
        kept = torch.empty_strided(input.shape, _strides(input), dtype=input.dtype)
    else:
        kept = torch.empty(input.shape, dtype=input.dtype)
    return input * kept.bernoulli_(1 - p).div_(1 - p)


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """The strides of a dense tensor whose dimensions lie in memory in the same order."""
    strided: tuple[int, ...] = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda dim: (-strided[dim], dim))
    strides, step = [0] * tensor.ndim, 1
    for dim in reversed(order):
        strides[dim] = step
        step *= max(1, tensor.shape[dim])
    return tuple(strides)


@_by_rule
def _attention_rule(lanes: int, dims: Dims, *inputs: Any) -> Whole:
    """The batches of all lanes as one: torch's CPU kernel knows no lanes."""
    *parts, causal, scale = inputs
    whole = [
        part.unsqueeze(0).expand(lanes, *part.shape) if dim is None else part.movedim(dim, 0)
        for part, dim in zip(parts, dims[:3], strict=True)
    ]
    folded = [part.reshape(lanes * part.shape[1], *part.shape[2:]) for part in whole]
    found = _ATTENTION(*folded, is_causal=causal, scale=scale)
    return found.view(lanes, -1, *found.shape[1:]), 0


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """With dropout it is written out, so that its mask is drawn as a lane alone would draw it."""
    if enable_gqa or (dropout_p and query.device.type != "cpu"):
        options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
        return _ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, **options)
    batched = query.ndim == key.ndim == value.ndim == 4
    if batched and attn_mask is None and not dropout_p and _in_lanes(query):
        return _attention_rule(query, key, value, is_causal, scale)
    if is_causal:
        shape = query.shape[-2], key.shape[-2]
        attn_mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
    factor = float(scale if scale is not None else query.shape[-1] ** -0.5) ** 0.5
    scores = (query * factor) @ (key * factor).transpose(-2, -1)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(attn_mask.logical_not(), -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    if attn_mask is None:
        return _dropout(scores.softmax(dim=-1), dropout_p) @ value
    nothing = (scores == -torch.inf).all(dim=-1, keepdim=True)  # to attend to: 0, not NaN
    weights = scores.masked_fill(nothing, 0.0).softmax(dim=-1).masked_fill(nothing, 0.0)
    return _dropout(weights, dropout_p) @ value
