"""How a message lies in memory, and in which pieces it travels.

A large tensor travels from where it lies to where it will be read, in a piece for each head and run of rows: whoever
sends it needs no copy of it, and it is received in the buffer that kernels read. Small ones are put together in one
piece. Both ends know what the pieces are from sizes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from attnspec.codegen.ranks.runs import Runs
from attnspec.codegen.ranks.schedule import Heads
from attnspec.runtime.distributed.rows import Rows
from attnspec.runtime.distributed.stored import Column, Form, Section, Stored

LARGE = 1 << 17
"""Bytes of a piece from which on it travels by itself: a message costs about what it takes to copy so many."""


class Part(NamedTuple):
    """What a message holds of some heads at some positions."""

    heads: Heads | None
    runs: Runs
    columns: tuple[Column, ...]
    branch: int | None = None


class _At(NamedTuple):
    """A tensor of a message: of which part it is, which column there, its shape, and that of its pieces, if large."""

    part: int
    column: int
    of: Column
    shape: tuple[int, ...]
    whole: bool
    """Whether it travels in one piece: all that a rank holds of it."""
    large: bool

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.of.dtype.itemsize


def _tensors(form: Form, parts: Sequence[Part]) -> Iterator[_At]:
    for p, part in enumerate(parts):
        rows = Rows.of(part.runs)
        for c, column in enumerate(part.columns):
            of = form.of_keys if column.keys else form.of_queries
            heads, every = of(part.heads), of(None)
            shape = (form.batch, heads.stop - heads.start, rows.count)
            shape = shape if column.width is None else (*shape, column.width)  # type: ignore[assignment]
            whole = heads == every and rows.count == form.rows and len(rows.runs) == 1
            pieces = 1 if whole else form.batch * (heads.stop - heads.start) * len(rows.runs)
            large = prod(shape) * column.dtype.itemsize >= LARGE * max(1, pieces)
            yield _At(p, c, column, shape, whole, large)


def _packed(form: Form, tensors: Sequence[_At], fill: Callable[..., Tensor]) -> tuple[Tensor, dict[_At, Tensor]]:
    """Memory for some tensors, and these: first those whose numbers are largest, so that all lie where they may."""
    memory = fill(sum(t.nbytes for t in tensors), dtype=torch.uint8, device=form.device)
    start, found = 0, {}
    for t in sorted(tensors, key=lambda t: -t.of.dtype.itemsize):
        found[t] = memory[start : start + t.nbytes].view(t.of.dtype).view(t.shape)
        start += t.nbytes
    return memory, found


def _stored(form: Form, parts: Sequence[Part], tensors: dict[_At, Tensor]) -> Stored:
    by_place = {(t.part, t.column): found for t, found in tensors.items()}
    sections = [
        Section(
            form.of_queries(part.heads),
            Rows.of(part.runs),
            part.branch,
            part.columns,
            tuple(by_place[p, c] for c in range(len(part.columns))),
        )
        for p, part in enumerate(parts)
    ]
    return Stored(form, sections)


def coming(form: Form, parts: Sequence[Part]) -> tuple[Stored, list[Tensor]]:
    """A message from where it lies on another rank, to be received, and the pieces in which it comes."""
    tensors = list(_tensors(form, parts))
    memory, found = _packed(form, [t for t in tensors if not t.large], torch.empty)
    pieces = [memory] if memory.numel() else []
    for t in tensors:
        if t.large:
            found[t] = torch.empty(t.shape, dtype=t.of.dtype, device=form.device)
            rows = Rows.of(parts[t.part].runs)
            runs = [slice(first, first + run.length) for run, first in zip(rows.runs, rows.first, strict=True)]
            pieces += _cut(t, [found[t][:, :, at] for at in runs])
    return _stored(form, parts, found), pieces


def going(form: Form, parts: Sequence[Part], of_part: Callable[[Part], Stored]) -> list[Tensor]:
    """The pieces of a message with what a rank holds: what is large and contiguous there is no copy."""
    tensors = list(_tensors(form, parts))
    memory, copies = _packed(form, [t for t in tensors if not t.large], torch.empty)
    pieces = [memory] if memory.numel() else []
    for p, part in enumerate(parts):
        rows = Rows.of(part.runs)
        held = [of_part(part).at(part.heads, run).tensors for run in rows.runs]
        for t in tensors:
            if t.part == p and t.large:
                pieces += _cut(t, [lent[t.column] for lent in held])
            elif t.part == p:
                for run, first, lent in zip(rows.runs, rows.first, held, strict=True):
                    copies[t][:, :, first : first + run.length].copy_(lent[t.column])
    return pieces


def _cut(t: _At, runs: Sequence[Tensor]) -> list[Tensor]:
    if t.whole:
        return [run.contiguous() for run in runs]
    return [head.contiguous() for run in runs for entry in run for head in entry]


def made(form: Form, parts: Sequence[Part], fill: Callable[..., Tensor] = torch.empty) -> tuple[Stored, Tensor]:
    """A message of what a rank works out for another, or receives of it, and its memory: it travels in one piece."""
    memory, found = _packed(form, list(_tensors(form, parts)), fill)
    return _stored(form, parts, found), memory
