"""Keys that lie in pages: what a call may be given for them, and where a position lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError, check_heads, check_vectors
from attnspec.spec import contents
from attnspec.spec.parts import Input
from attnspec.spec.shapes import Shape, shape_in
from attnspec.spec.spec import Spec

LAYOUTS = {
    "HND": ("(pages, kv_heads, page_size, dim)", (0, 1, 2, 3)),
    "NHD": ("(pages, page_size, kv_heads, dim)", (0, 2, 1, 3)),
}
"""FlashInfer's names for how pages lie in memory: their dimensions, and how these become those of "HND"."""
_LABELS = ("q", "k_pages", "v_pages")


class Pages(NamedTuple):
    """Where keys lie: key ``p`` of batch entry ``b`` is row ``p % page_size`` of page ``table[b, p // page_size]``.

    ``table`` is int32, (batch, most pages); an entry uses those of its pages that hold its first ``lengths[b]`` keys.
    """

    table: Tensor
    lengths: tuple[int, ...]

    @property
    def longest(self) -> int:
        """The length of the longest entry."""
        return max(self.lengths, default=0)

    @property
    def bound(self) -> int:
        """A length that no entry exceeds, the same for many steps: what calls have in common is kept by it."""
        return 1 << max(12, self.longest.bit_length())


def check_pages(
    name: str,
    target: str,
    kinds: tuple[str, ...],
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    table: Tensor,
    lengths: Tensor,
    layout: str,
) -> tuple[Tensor, Tensor]:
    """Refuse tensors that do not fit. Returns the pages as (pages, kv_heads, page_size, dim): views of what is given.

    What ``table`` and ``lengths`` hold is not looked at: see :func:`pages_of`. Raises CallError.
    """
    if layout not in LAYOUTS:
        names = " or ".join(f'"{known}" {shape}' for known, (shape, _) in LAYOUTS.items())
        raise CallError(f"{name}: layout says how pages lie in memory, {names}; not {layout!r}")
    shape, order = LAYOUTS[layout]
    check_vectors(name, target, kinds, "q", q)
    for label, t in (("k_pages", k_pages), ("v_pages", v_pages)):
        check_vectors(name, target, kinds, label, t, shape)
        if t.dtype != q.dtype:
            raise CallError(f"{name}: q and {label} must have one dtype; they are {q.dtype} and {t.dtype}")
        if t.device != q.device:
            raise CallError(f"{name}: {label} is on {t.device}, but q is on {q.device}: move it there")
    k, v = (k_pages, v_pages) if layout == "HND" else (k_pages.permute(order), v_pages.permute(order))
    if k.shape[:3] != v.shape[:3] or not k.shape[2]:
        raise CallError(
            f"{name}: k_pages and v_pages must have the same pages, heads and page size, of at least 1: they are "
            f"{tuple(k_pages.shape)} and {tuple(v_pages.shape)}, which layout {layout!r} reads as {shape}"
        )
    check_heads(name, q, k, v, _LABELS)
    check_lengths(name, "table", table, 2, "(batch, most pages)", q)
    check_lengths(name, "lengths", lengths, 1, "(batch,)", q)
    return k, v


def check_lengths(name: str, label: str, t: Tensor, dims: int, shape: str, q: Tensor) -> None:
    """Refuse what does not hold integers for each batch entry. Raises CallError."""
    if not isinstance(t, Tensor):
        raise CallError(f"{name}: {label} must be a tensor, not {type(t).__name__}")
    if t.dtype not in (torch.int32, torch.int64):
        raise CallError(f"{name}: {label} must hold int32 or int64; it is {t.dtype}")
    if t.dim() != dims or t.shape[0] != q.shape[0]:
        raise CallError(
            f"{name}: {label} must be {shape}; it is {tuple(t.shape)}, and q has {q.shape[0]} batch entries"
        )
    if t.device != q.device:
        raise CallError(f"{name}: {label} is on {t.device}, but q is on {q.device}: move it there")


def pages_of(name: str, k: Tensor, table: Tensor, lengths: Tensor) -> Pages:
    """The pages of a call, looked at: lengths that the table has room for, and pages that are there.

    ``k`` is (pages, kv_heads, page_size, dim). Raises CallError.
    """
    count, size, most = k.shape[0], k.shape[2], table.shape[1] * k.shape[2]
    numbers, pages = lengths.numpy(force=True), table.numpy(force=True)
    wrong = (numbers < 0) | (numbers > most)
    if wrong.any():
        b = int(wrong.argmax())
        raise CallError(
            f"{name}: lengths[{b}] is {numbers[b]:,}; the table, of {table.shape[1]} pages of {size} keys each, "
            f"holds 0 to {most:,}"
        )
    used = -(-numbers // size)
    unsigned: NDArray[Any] = pages.view(
        np.uint32 if table.dtype == torch.int32 else np.uint64
    )  # what is negative is large
    wrong = (unsigned >= count) & (np.arange(table.shape[1]) < used[:, None])
    if wrong.any():
        b, at = (int(i[0]) for i in wrong.nonzero())
        raise CallError(
            f"{name}: table[{b}, {at}] is {pages[b, at]:,}, and there are {count:,} pages; lengths[{b}] is "
            f"{numbers[b]:,}, so that it uses {used[b]}"
        )
    return Pages(table.to(torch.int32).contiguous(), tuple(numbers.tolist()))


def sizes_at(pattern: Spec, sizes: Sizes, length: int) -> Sizes:
    """The sizes of a call with the keys of one entry. Raises CallError where no axis lengths fit them."""
    try:
        m = pattern.sizes(length, sizes.n_q)["m"] if pattern.axes else None
    except ValueError as error:
        raise CallError(f"{pattern.name}: {error}") from None
    return replace(sizes, n=length, m=m)


def by_length(declared: Input) -> bool:
    """Whether the shape of an input depends on the number of keys."""
    return any(contents.free(size) & {"n", "m"} for size in declared.sizes)


def shapes_at(pattern: Spec, sizes: Sizes, found: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The shapes in a call of these sizes of the tensors, made ready for longer ones, that have another one there."""
    env, known = sizes.parameters(0, 0), {declared.name: declared for declared in pattern.inputs}
    of = {name: known.get(name.partition(".")[0]) for name in found}
    return {
        name: shape_in(declared, env) for name, declared in of.items() if declared is not None and by_length(declared)
    }
