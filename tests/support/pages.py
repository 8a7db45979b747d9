"""Keys put into pages, and what calls on them must give: each entry what dense attention to its own keys gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from attnspec.runtime import attend as around
from attnspec.runtime.attention import Attention
from tests.support.oracle import TOLERANCE, close

CODES = {"HND": (0, 1, 2, 3), "NHD": (0, 2, 1, 3)}


class InPages(NamedTuple):
    """Keys and values of each entry, (kv_heads, length, dim), and the same in pages."""

    keys: list[Tensor]
    values: list[Tensor]
    k_pages: Tensor
    v_pages: Tensor
    table: Tensor
    lengths: Tensor


def in_pages(
    lengths: Sequence[int],
    size: int,
    *,
    kv_heads: int = 2,
    dim: int = 16,
    dim_v: int | None = None,
    dtype: torch.dtype = torch.float32,
    layout: str = "HND",
    shared: int = 0,
    seed: int = 0,
) -> InPages:
    """Random keys in shuffled pages of ``size`` keys. Rows of pages that hold no key are NaN.

    The first ``shared`` pages of all entries are the same; what the table says beyond the last page is out of range.
    """
    generator = torch.Generator().manual_seed(seed)
    most, dim_v = max((-(-n // size) for n in lengths), default=0) + 1, dim if dim_v is None else dim_v
    count = shared + sum(-(-n // size) for n in lengths) + 2
    whole = [torch.full((count, kv_heads, size, d), torch.nan, dtype=dtype) for d in (dim, dim_v)]
    free = torch.randperm(count, generator=generator).tolist()
    common, table = [free.pop() for _ in range(shared)], torch.full((len(lengths), most), -7, dtype=torch.int32)
    for page in common:
        for pages in whole:
            pages[page] = torch.randn(pages[page].shape, generator=generator).to(dtype)
    gathered: tuple[list[Tensor], list[Tensor]] = ([], [])
    for b, length in enumerate(lengths):
        used = [common[i] if i < shared else free.pop() for i in range(-(-length // size))]
        table[b, : len(used)] = torch.tensor(used, dtype=torch.int32)
        for i, page in enumerate(used):
            rows = min(size, length - i * size)
            for pages in whole:
                if i >= shared:
                    pages[page, :, :rows] = torch.randn(pages[page, :, :rows].shape, generator=generator).to(dtype)
        for pages, each in zip(whole, gathered, strict=True):
            each.append(torch.cat([pages[page] for page in used] or [pages[0, :, :0]], 1)[:, :length])
    k_pages, v_pages = (pages.permute(CODES[layout]).contiguous() for pages in whole)
    return InPages(*gathered, k_pages, v_pages, table, torch.tensor(lengths, dtype=torch.int32))


def agree_in_pages(
    attend: Attention,
    q: Tensor,
    held: InPages,
    *,
    layout: str = "HND",
    inputs: Mapping[str, Tensor] | None = None,
    by_entry: Sequence[Mapping[str, Tensor]] | None = None,
    rotated: bool = False,
    tolerance: float | None = None,
) -> None:
    """Assert that output and log-sum-exp of each entry are those of dense attention to its own keys, in float64.

    ``by_entry`` are the inputs of each entry by itself, batch dimension included.
    """
    out, lse = attend.paged(
        q,
        held.k_pages,
        held.v_pages,
        table=held.table,
        lengths=held.lengths,
        layout=layout,
        rotated=rotated,
        return_lse=True,
        inputs=inputs,
    )
    assert out.dtype == q.dtype
    assert lse.dtype == torch.float32
    tolerance = TOLERANCE[q.dtype] if tolerance is None else tolerance
    for b, (keys, values) in enumerate(zip(held.keys, held.values, strict=True)):
        own = by_entry[b] if by_entry is not None else inputs or {}
        exact = {name: t.double() if t.is_floating_point() else t for name, t in own.items()}
        tensors = (q[b : b + 1].double(), keys[None].double(), values[None].double())
        spec = attend.spec if not rotated else replace(attend.spec, rotations=(), normalized=frozenset())
        want_out, want_lse = around.dense(spec, *tensors, None, exact)
        assert torch.equal(torch.isinf(lse[b : b + 1]), torch.isinf(want_lse)), f"the empty rows of entry {b} differ"
        close(f"out of entry {b}", out[b : b + 1], want_out, tolerance)
        seen = ~torch.isinf(want_lse)
        close(f"lse of entry {b}", lse[b : b + 1][seen], want_lse[seen], tolerance)
