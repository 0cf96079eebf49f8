"""Where and how exactly a task is computed: device, half precision, determinism."""

from __future__ import annotations

import os

import torch

from justright.errors import TaskError


def pick_device() -> torch.device:
    """CUDA, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def half_type(precision: str) -> torch.dtype | None:
    """The type of half precision; None: full."""
    types = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in types:
        raise TaskError(f"precision = {precision!r}, expected one of {', '.join(types)}.")
    return types[precision]


def be_deterministic(on: bool) -> None:
    """For all that torch does from now on: the process serves one task at a time."""
    if on:  # cuBLAS reads it when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if on != torch.are_deterministic_algorithms_enabled():  # it imports much, for seconds
        torch.use_deterministic_algorithms(on)
