"""Tensors of positions of heads: the rows that a rank holds, and what a message holds, in one piece of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from attnspec.codegen.ranks.runs import Run, Runs, count
from attnspec.codegen.ranks.schedule import Heads
from attnspec.runtime.distributed.rows import Rows


class Form(NamedTuple):
    """What the vectors of a call are, whatever its length."""

    batch: int
    heads: int
    kv_heads: int
    dim: int
    dim_v: int
    dtype: torch.dtype
    device: torch.device

    def of_keys(self, heads: Heads | None) -> slice:
        """The key heads of some query heads."""
        if heads is None:
            return slice(0, self.kv_heads)
        group = self.heads // self.kv_heads
        return slice(heads[0] // group, (heads[1] - 1) // group + 1)

    def of_queries(self, heads: Heads | None) -> slice:
        """Query heads as rows of a tensor."""
        return slice(0, self.heads) if heads is None else slice(*heads)


class Column(NamedTuple):
    """A tensor (batch, query heads or key heads, positions, width), or one without the last where there is no width."""

    dtype: torch.dtype
    width: int | None = None
    keys: bool = False


class Section(NamedTuple):
    """The tensors of some heads at some positions."""

    heads: slice
    """Query heads."""
    rows: Rows
    branch: int | None
    columns: tuple[Column, ...]
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Stored:
    """Sections, and the memory that all of them lie in, if they are a message's."""

    form: Form
    sections: Sequence[Section]
    memory: Tensor | None = None

    @classmethod
    def own(cls, form: Form, rows: Rows, columns: Sequence[Column], tensors: Sequence[Tensor]) -> Stored:
        """What a rank holds of all heads."""
        return cls(form, [Section(slice(0, form.heads), rows, None, tuple(columns), tuple(tensors))])

    def at(self, heads: Heads | None, run: Run, branch: int | None = None) -> Lent:
        """The tensors of a run's positions: views, or copies with zeros at positions that are not here.

        Of a rectangle of pairs that a rank computes only such positions travel as have pairs there.
        """
        asked = self.form.of_queries(heads)
        for section in self.sections:
            if section.branch == branch and section.heads.start <= asked.start and asked.stop <= section.heads.stop:
                of_heads = self._of(section, asked)
                if (rows := section.rows.at(run)) is not None:
                    return Lent([t[:, :, rows] for t in of_heads])
                if shared := section.rows.shared(run):
                    return Lent.copies(of_heads, run.length, shared)
        raise LookupError(f"no message brought heads {asked.start} to {asked.stop - 1} at {run}")

    def _of(self, section: Section, heads: slice) -> list[Tensor]:
        found = []
        for column, t in zip(section.columns, section.tensors, strict=True):
            of = self.form.of_keys if column.keys else self.form.of_queries
            first, own = of((section.heads.start, section.heads.stop)).start, of((heads.start, heads.stop))
            found.append(t[:, own.start - first : own.stop - first])
        return found


class Lent(NamedTuple):
    """Tensors of a run's positions, and if they are copies what they were copied from, with where both lie."""

    tensors: Sequence[Tensor]
    sources: Sequence[Tensor] = ()
    shared: Sequence[tuple[slice, slice]] = ()

    @classmethod
    def copies(cls, sources: Sequence[Tensor], length: int, shared: Sequence[tuple[slice, slice]]) -> Lent:
        """Copies of what is there of so many positions."""
        found = [t.new_zeros((*t.shape[:2], length, *t.shape[3:])) for t in sources]
        for t, source in zip(found, sources, strict=True):
            for here, there in shared:
                t[:, :, here] = source[:, :, there]
        return cls(found, sources, shared)

    def give_back(self) -> None:
        """Write back what copies hold."""
        for t, source in zip(self.tensors, self.sources, strict=False):
            for here, there in self.shared:
                source[:, :, there] = t[:, :, here]


class Part(NamedTuple):
    """What a message holds of some heads at some positions."""

    heads: Heads | None
    runs: Runs
    columns: tuple[Column, ...]
    branch: int | None = None


def nbytes(form: Form, parts: Iterable[Part]) -> int:
    """The bytes of a message."""
    return sum(_numbers(form, part, column) * column.dtype.itemsize for part in parts for column in part.columns)


def _numbers(form: Form, part: Part, column: Column) -> int:
    heads = form.of_keys(part.heads) if column.keys else form.of_queries(part.heads)
    width = 1 if column.width is None else column.width
    return form.batch * int(heads.stop - heads.start) * count(part.runs) * width


def message(form: Form, parts: Sequence[Part], memory: Tensor) -> Stored:
    """A message in bytes: first the tensors whose numbers are largest, so that all of them lie where they may."""
    columns = [(p, c) for p, part in enumerate(parts) for c in range(len(part.columns))]
    columns.sort(key=lambda at: -parts[at[0]].columns[at[1]].dtype.itemsize)
    tensors: list[list[Tensor]] = [[memory] * len(part.columns) for part in parts]
    start = 0
    for p, c in columns:
        part, column = parts[p], parts[p].columns[c]
        heads = form.of_keys(part.heads) if column.keys else form.of_queries(part.heads)
        size = _numbers(form, part, column) * column.dtype.itemsize
        shape = (form.batch, heads.stop - heads.start, count(part.runs))
        shape = shape if column.width is None else (*shape, column.width)  # type: ignore[assignment]
        tensors[p][c] = memory[start : start + size].view(column.dtype).view(shape)
        start += size
    sections = [
        Section(form.of_queries(part.heads), Rows.of(part.runs), part.branch, part.columns, tuple(found))
        for part, found in zip(parts, tensors, strict=True)
    ]
    return Stored(form, sections, memory)


def empty(form: Form, parts: Sequence[Part], make: Callable[..., Tensor] = torch.empty) -> Stored:
    """A message to be filled; ``make=torch.zeros`` for one to be added to."""
    return message(form, parts, make(nbytes(form, parts), dtype=torch.uint8, device=form.device))


def copied(source: Stored, target: Stored, of_branch: Callable[[int], Stored] | None = None) -> Stored:
    """A message with what a rank holds: sections of a branch by ``of_branch``, the others of ``source``."""
    for section in target.sections:
        of = source if section.branch is None or of_branch is None else of_branch(section.branch)
        heads: Heads = (section.heads.start, section.heads.stop)
        for run, first in zip(section.rows.runs, section.rows.first, strict=True):
            for t, own in zip(section.tensors, of.at(heads, run).tensors, strict=True):
                t[:, :, first : first + run.length].copy_(own)
    return target
