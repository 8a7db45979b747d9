"""Computed orders: positions sorted by the LSH bucket of their vectors (Reformer: Kitaev et al., 2020).

As published (trax, Hugging Face): a vector is projected on random directions R and its bucket is the argmax of
``[x R; -x R]``; with several factors, the bucket is the sum of each factor's argmax times the product of the factors
before it. Positions are sorted by (bucket, position), and the rounds stand one after another.

>>> from attnspec.spec.parts import Order
>>> x = torch.tensor([1.0, -1.0, 2.0, -3.0]).view(1, 1, 4, 1)
>>> slots = lsh(x, Order(buckets=(2,), rounds=1, seed=0))
>>> slots.order.tolist(), slots.bucket.tolist()
([[[0, 2, 1, 3]]], [[[0, 0, 1, 1]]])
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.device import capturing, on_device
from attnspec.spec.parts import Order

ENTRIES = 1 << 19
"""How many projections are held at a time on the CPU (2 MiB): few enough for the cache of the processor."""
MOST_ENTRIES = 1 << 26
"""The same on other devices, where a launch costs more than a cache saves."""


class Slots(NamedTuple):
    """What stands in each slot, (batch, heads, rounds * n), int32: its position, and its bucket + round * total."""

    order: Tensor
    bucket: Tensor


def lsh(x: Tensor, order: Order, buckets: Tensor | None = None) -> Slots:
    """The slots of the vectors ``x`` (batch, heads, n, dim), which no gradient goes through.

    ``buckets`` (batch, heads, rounds, n), integers from 0 to the number of buckets - 1, are used in place of hashing.
    Raises CallError where they do not fit.
    """
    with torch.no_grad():
        batch, heads, n, _ = x.shape
        if buckets is None:
            return sort(hash_buckets(x, order), order)
        _check_buckets(buckets, (batch, heads, order.rounds, n), prod(order.buckets))
        return sort(buckets, order)


def rotations(order: Order, heads: int, dim: int) -> Tensor:
    """The random directions, (heads, dim, rounds, sum of factors / 2), float32: the factors lie one after another.

    They are the numbers that Hugging Face's ``LSHSelfAttention`` draws for ``hash_seed = seed`` in float32.
    """
    generator = torch.Generator().manual_seed(order.seed)
    return torch.randn((heads, dim, order.rounds, sum(order.buckets) // 2), generator=generator)


@torch.no_grad()
def hash_buckets(x: Tensor, order: Order) -> Tensor:
    """The bucket of each vector in each round, (batch, heads, rounds, n), int32; ``x`` is (batch, heads, n, dim).

    The projection is computed in float32 (float64 for float64 vectors). Length does not matter: only direction does.
    """
    if any(factor < 2 or factor % 2 for factor in order.buckets):
        raise ValueError(f"the numbers of buckets must be even and positive: {order.buckets}")
    batch, heads, n, dim = x.shape
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    half = sum(order.buckets) // 2
    directions = on_device(rotations, order, heads, dim, device=x.device).to(dtype).flatten(2)
    out = torch.empty((batch, heads, order.rounds, n), dtype=torch.int32, device=x.device)
    entries = ENTRIES if x.device.type == "cpu" else MOST_ENTRIES
    rows = max(1, entries // max(1, order.rounds * half))
    for b in range(batch):
        for h in range(heads):
            for start in range(0, n, rows):
                part = slice(start, start + rows)
                projected = (x[b, h, part].to(dtype) @ directions[h]).view(-1, order.rounds, half)
                out[b, h, :, part] = _combine(projected, order.buckets).T
    return out


def _combine(projected: Tensor, factors: tuple[int, ...]) -> Tensor:
    """From projections (rows, rounds, sum of factors / 2) to buckets (rows, rounds)."""
    total: Tensor | int = 0
    step, at = 1, 0
    for factor in factors:
        part = projected[..., at : at + factor // 2]
        # The argmax of [part; -part], without making it: the first of equals wins, as in numpy.
        high, low = part.max(dim=-1), part.min(dim=-1)
        total = total + step * torch.where(high.values >= -low.values, high.indices, low.indices + factor // 2)
        step, at = step * factor, at + factor // 2
    assert isinstance(total, Tensor)
    return total


@torch.no_grad()
def sort(buckets: Tensor, order: Order) -> Slots:
    """From buckets (batch, heads, rounds, n) to slots: stable, so that equal buckets keep the order of positions."""
    total = prod(order.buckets)
    if buckets.device.type == "cpu" and total <= 1 << 16:
        # numpy sorts integers of 16 bits by radix: five times as fast as torch.
        small = buckets.numpy().astype(np.uint16)
        at = np.argsort(small, axis=-1, kind="stable")
        places = torch.from_numpy(at.astype(np.int32))
        values = torch.from_numpy(np.take_along_axis(small, at, axis=-1).astype(np.int32))
    else:
        sorted_ = torch.sort(buckets, dim=-1, stable=True)
        places, values = sorted_.indices.int(), sorted_.values.int()
    rounds = torch.arange(order.rounds, dtype=torch.int32, device=values.device)[:, None]
    return Slots(places.flatten(2), (values + rounds * total).flatten(2))


def _check_buckets(buckets: Tensor, shape: tuple[int, ...], total: int) -> None:
    if buckets.dtype.is_floating_point or buckets.dtype.is_complex or buckets.dtype == torch.bool:
        raise CallError(f"buckets must be integers, not {buckets.dtype}")
    if tuple(buckets.shape) != shape:
        raise CallError(f"buckets must be (batch, heads, rounds, n) = {shape}, not {tuple(buckets.shape)}")
    if not buckets.numel() or capturing():
        return
    low, high = (int(end) for end in torch.aminmax(buckets))
    if low < 0 or high >= total:
        raise CallError(f"buckets must be between 0 and {total - 1}; they are between {low} and {high}")
