"""Tensors of positions of heads: the rows that a rank holds, and what a message holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from attnspec.codegen.ranks.runs import Run, Runs
from attnspec.codegen.ranks.schedule import Heads
from attnspec.runtime.distributed.rows import Rows


class Form(NamedTuple):
    """What the vectors of a call are, and how many rows a rank has of them."""

    batch: int
    heads: int
    kv_heads: int
    dim: int
    dim_v: int
    dtype: torch.dtype
    device: torch.device
    rows: int

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
    """Sections, of which no two hold the same heads at the same positions of a branch."""

    form: Form
    sections: Sequence[Section]

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
