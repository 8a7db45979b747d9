"""What a call may be given: wrong tensors are refused here, by name and with their sizes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attnspec.runtime.core.errors import CallError as CallError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_DIM = 256
Labels = tuple[str, str, str]
"""What q, k and v are called."""


def check_call(name: str, target: str, kinds: tuple[str, ...], q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse tensors that do not fit. Shapes: q (batch, heads, n_q, dim), k (batch, kv_heads, n, dim), v (..., dim_v).

    ``target`` is what the pattern was compiled for, ``kinds`` are the kinds of devices that it serves.

    Raises CallError, with the pattern's name and the sizes.
    """
    for label, t in (("q", q), ("k", k), ("v", v)):
        check_vectors(name, target, kinds, label, t)
    if not q.device == k.device == v.device:
        raise CallError(f"{name}: q, k and v must be on one device; they are on {q.device}, {k.device} and {v.device}")
    if target == "triton" and q.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise CallError(
            f'{name}: target="triton" is for tensors on a GPU; these are on the CPU, which target="cpp" serves. '
            "(TRITON_INTERPRET=1, set before triton is imported, runs Triton kernels on the CPU, slowly, for tests)"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise CallError(f"{name}: q, k and v must have one dtype; they are {q.dtype}, {k.dtype} and {v.dtype}")
    if not q.shape[0] == k.shape[0] == v.shape[0]:
        raise CallError(f"{name}: the batch sizes differ: {_shapes(q, k, v)}")
    if k.shape[1] != v.shape[1] or k.shape[2] != v.shape[2]:
        raise CallError(f"{name}: k and v must have the same heads and length: {_shapes(q, k, v)}")
    check_heads(name, q, k, v)


def check_tensors(name: str, inputs: Mapping[str, object]) -> None:
    """Refuse inputs that are no tensors. Raises CallError."""
    for label, t in inputs.items():
        if not isinstance(t, Tensor):
            raise CallError(f"{name}: input `{label}` must be a tensor, not {type(t).__name__}")


def check_vectors(
    name: str, target: str, kinds: tuple[str, ...], label: str, t: Tensor, shape: str = "(batch, heads, length, dim)"
) -> None:
    """Refuse what is no tensor of vectors that kernels take. Raises CallError."""
    if not isinstance(t, Tensor):
        raise CallError(f"{name}: {label} must be a tensor, not {type(t).__name__}")
    if t.is_nested:
        raise CallError(
            f"{name}: {label} is a nested tensor. Put its sequences one after another in one batch entry, with an "
            "input that is `sorted` or `offsets` (as in the specs `packed` and `packed_offsets`), or pad them"
        )
    if t.dim() != 4:
        raise CallError(f"{name}: {label} must have 4 dimensions {shape}, not {_shape(t)}")
    if t.dtype not in DTYPES and not (t.dtype == torch.float64 and target == "dense"):
        dense = ' (target="dense" takes float64 too)' if t.dtype == torch.float64 else ""
        raise CallError(f"{name}: {label} is {t.dtype}; supported are float32, bfloat16 and float16{dense}")
    if t.device.type not in kinds and (t.device.type != "meta" or target == "dense"):
        raise CallError(f"{name}: {label} is on {t.device}; {_places(target, kinds)}")
    if t.layout != torch.strided:
        raise CallError(f"{name}: {label} must be a dense (strided) tensor, not {t.layout}")


def check_heads(name: str, q: Tensor, k: Tensor, v: Tensor, labels: Labels = ("q", "k", "v")) -> None:
    """Refuse heads that do not fit each other, by their numbers and sizes. Raises CallError."""
    if q.shape[3] != k.shape[3]:
        raise CallError(f"{name}: q and {labels[1]} must have one head size: {_shapes(q, k, v, labels)}")
    if q.shape[1] == 0 or k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise CallError(
            f"{name}: q's {q.shape[1]} heads cannot be shared among {k.shape[1]} key heads: "
            f"{_shapes(q, k, v, labels)}. The number of query heads must be a multiple of the number of key heads"
        )
    for label, size in ((f"q and {labels[1]}", q.shape[3]), (labels[2], v.shape[3])):
        if not 1 <= size <= MAX_DIM:
            raise CallError(f"{name}: the head size of {label} is {size}; supported are 1 to {MAX_DIM}")


def named(name: str, inputs: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a call: those in a mapping and those by keyword. Raises CallError for one that is in both."""
    if inputs is None:
        return dict(more)
    if type(inputs) is not dict and not isinstance(inputs, Mapping):
        raise CallError(f"{name}: inputs is a mapping from names to tensors, not {type(inputs).__name__}")
    if more and (twice := inputs.keys() & more.keys()):
        raise CallError(f"{name}: given twice, in inputs and by keyword: {', '.join(sorted(twice))}")
    return {**inputs, **more}


_LARGEST = torch.finfo(torch.float32).max


def check_derivatives(name: str, scale: object, *tensors: object) -> None:
    """Refuse derivatives that kernels do not have, of a call that is not dense, and a scale that they cannot take.

    Raises CallError where ``scale`` asks for a gradient or is not finite, NotImplementedError where a tensor has a
    tangent.
    """
    if isinstance(scale, (int, float)) and not abs(scale) <= _LARGEST:
        raise CallError(f"{name}: scale is {scale}, which is no number that float32 has")
    if isinstance(scale, Tensor):
        if scale.numel() != 1:
            raise CallError(f"{name}: scale is a number; it has the shape {_shape(scale)}")
        if scale.requires_grad and torch.is_grad_enabled():
            raise CallError(
                f"{name}: scale gets no gradient. Multiply the queries by it: attend(q * scale, k, v, scale=1.0); or "
                'use target="dense", or scale.detach()'
            )
    if forward_ad._current_level >= 0 and any(map(_has_tangent, (*tensors, scale))):
        raise NotImplementedError(
            f"{name}: kernels have no forward-mode derivatives (torch.func.jvp, torch.autograd.forward_ad); "
            'target="dense" has them'
        )


def _has_tangent(value: object) -> bool:
    if not isinstance(value, Tensor) or torch._C._functorch.is_batchedtensor(value):
        return False  # what is mapped by vmap cannot be asked: runtime.transforms refuses it
    return forward_ad.unpack_dual(value).tangent is not None  # type: ignore[no-untyped-call]


def autocast(*tensors: Any) -> tuple[Any, ...]:
    """Tensors as autocast has them, where it is on for the device of the first: cast as SDPA's are."""
    device = "cuda" if isinstance(tensors[0], Tensor) and tensors[0].is_cuda else "cpu"
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t for t in tensors)


def check_tile(tile: tuple[int, int]) -> None:
    """Refuse tiles that Triton has no blocks for. Raises ValueError."""
    if any(size & (size - 1) for size in tile):
        raise ValueError(f"on a GPU the sizes of a tile must be powers of two, not {tile[0]} x {tile[1]}")


def _places(target: str, kinds: tuple[str, ...]) -> str:
    if kinds == ("cpu",):
        return f'target="{target}" has kernels for the CPU only; leave the target out, and tensors run where they are'
    return "there are kernels for the CPU and for CUDA devices. Move it with .cpu() or .cuda()"


def _shape(t: Tensor) -> str:
    return f"{tuple(t.shape)}"


def _shapes(q: Tensor, k: Tensor, v: Tensor, labels: Labels = ("q", "k", "v")) -> str:
    return ", ".join(f"{label} {_shape(t)}" for label, t in zip(labels, (q, k, v), strict=True))
