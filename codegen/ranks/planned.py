r"""The schedule of a call over many ranks: who computes which pairs in which step, and what is sent for it.

>>> from attnspec.check.check import check_text
>>> from attnspec.relation.lower import lower
>>> relation = lower(check_text("attention a { attend window(1024) }"))
>>> plan = schedule(relation, Sizes(65536, 65536, 8, 2), 4, shard="contiguous")
>>> print(*plan.items(1), *plan.messages(0), sep="\n")
step 0: queries 16,384..32,767 x keys 16,384..32,767: 130,027,520 pairs
step 1: queries 16,384..17,406 x keys 15,361..16,383 of rank 0: 4,190,208 pairs
step 1: sends rank 1 keys 15,361..16,383
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnspec.codegen.ranks.exact import Counts, added, product, sums
from attnspec.codegen.ranks.exchange import Exchange, exchange
from attnspec.codegen.ranks.needs import Ints
from attnspec.codegen.ranks.parts import hull, stride
from attnspec.codegen.ranks.patterns import Patterns, patterns
from attnspec.codegen.ranks.placed import Placed, placed
from attnspec.codegen.ranks.refused import refusing, require_splittable
from attnspec.codegen.ranks.runs import Runs, union
from attnspec.codegen.ranks.schedule import Heads, Item, Message, Slice, returned
from attnspec.codegen.ranks.shapes import Shapes
from attnspec.codegen.ranks.shards import Shards, block, chunk_size, chunks_of, shards
from attnspec.codegen.ranks.traffic import Widths
from attnspec.codegen.ranks.work import work_of_rows
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import Sizes
from attnspec.spec.writing import Shown

_MOST_WRITTEN = 8
_TABLE = 1 << 22
"""Pairs of ranks of which a table is made."""
_ORDER = ("keys", "queries", "results")


@dataclass(frozen=True, eq=False)
class Schedule(Shown):
    """Who computes what, and what is sent, of a call of ``sizes`` over ranks.

    :meth:`items` and :meth:`messages` are those of one rank; :attr:`work`, and what ``traffic`` holds, are arrays over
    all ranks. Two schedules that print alike and have the same :attr:`digest` are the same.
    """

    relation: Relation
    sizes: Sizes
    widths: Widths
    shards: Shards
    patterns: Patterns
    placed: tuple[Placed, ...]
    traffic: Exchange

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return self.shards.ranks

    @property
    def branches(self) -> int:
        """How many softmaxes are computed, each with a log-sum-exp of its own."""
        return self.patterns.branches

    @property
    def steps(self) -> int:
        """How many steps there are: that of what is local, and those of what arrives."""
        return self.traffic.steps

    def steps_of(self, source: Ints, target: Ints | int) -> Ints:
        """The steps in which ranks send others what these need; 0 from a rank to itself."""
        names = source * self.ranks + target
        if self._table is not None:
            return np.take(self._table, names).astype(np.int64)
        found = np.zeros(len(names), dtype=np.int64)
        far = source != target
        found[far] = self.traffic.step[np.searchsorted(self._names, names[far])]
        return found

    @cached_property
    def _table(self) -> NDArray[np.unsignedinteger[Any]] | None:
        """The step of each pair of ranks, where there are not too many."""
        if self.ranks * self.ranks > _TABLE:
            return None
        table = np.zeros(self.ranks * self.ranks, dtype=np.min_scalar_type(self.steps))
        table[self._names] = self.traffic.step
        return table

    @property
    def _names(self) -> Ints:
        """Source and target of each message as one number: in order."""
        return self.traffic.source * self.ranks + self.traffic.target

    def items(self, rank: int) -> tuple[Item, ...]:
        """What a rank computes, in the order in which it does."""
        found = [item for one in self.placed for item in (*self._local(one, rank), *self._far(one, rank))]
        return tuple(sorted(found, key=lambda item: item.step))

    def _local(self, one: Placed, rank: int) -> Iterator[Item]:
        for number in self.shards.chunks[rank]:
            run = self.shards.chunk(number)
            if pairs := int(one.local[number]):
                yield Item(one.pattern.branch, one.pattern.heads, run, run, rank, rank, rank, 0, pairs)

    def _far(self, one: Placed, rank: int) -> Iterator[Item]:
        (mine,) = np.nonzero(one.place == rank)
        for part, at in zip(mine.tolist(), self.steps_of(one.other[mine], rank).tolist(), strict=True):
            rows, keys = one.cut.runs(part)
            step = stride(rows, keys, self.shards.step)
            asker, keeper = int(one.asker[part]), int(one.keeper[part])
            branch, heads, pairs = one.pattern.branch, one.pattern.heads, int(one.pairs[part])
            yield Item(branch, heads, hull(rows, step), hull(keys, step), asker, keeper, rank, at, pairs)

    def messages(self, rank: int, backward: bool = False) -> tuple[Message, ...]:
        """What a rank sends or receives in one pass, in the one order that all ranks agree on: that of steps."""
        there = (self.traffic.source == rank) | (self.traffic.target == rank)
        found: list[Message] = []
        for at in np.flatnonzero(there).tolist():
            source, target, step = (int(c[at]) for c in (self.traffic.source, self.traffic.target, self.traffic.step))
            sent = tuple(self._between(source, target, step))
            found += returned(sent) if backward else sent
        return tuple(sorted(found, key=lambda m: (m.step, _ORDER.index(m.kind), m.of, m.source, m.target)))

    def _between(self, source: int, target: int, step: int) -> Iterator[Message]:
        keys: dict[Heads | None, list[Runs]] = {}
        rows: dict[Heads | None, list[Runs]] = {}
        results: dict[tuple[int, Heads | None], list[Runs]] = {}
        for one in self.placed:
            which = (one.other == source) & (one.place == target)
            for part in np.flatnonzero(which).tolist():
                queries, columns = one.cut.runs(part)
                heads = one.pattern.heads
                if one.moved[part]:
                    rows.setdefault(heads, []).append(queries)
                    results.setdefault((one.pattern.branch, heads), []).append(queries)
                else:
                    keys.setdefault(self.patterns.groups[one.pattern.keys], []).append(columns)
        if keys:
            slices = tuple(Slice(heads, union(*runs)) for heads, runs in keys.items())
            yield Message(step, source, target, "keys", slices, "keys")
        if rows:
            slices = tuple(Slice(heads, union(*runs)) for heads, runs in rows.items())
            yield Message(step, source, target, "queries", slices)
            slices = tuple(Slice(heads, union(*runs), branch) for (branch, heads), runs in results.items())
            yield Message(step, target, source, "results", slices)

    @cached_property
    def work(self) -> Counts:
        """The pairs that each rank computes, over its heads."""
        columns = [of for one in self.placed for of in ((self.shards.owner, one.local), (one.place, one.pairs))]
        return added(*(sums(place, pairs, self.ranks) for place, pairs in columns))

    def sent(self, backward: bool = False) -> Counts:
        """The bytes that each rank sends."""
        there, back = self.traffic.nbytes(backward)
        return added(sums(self.traffic.source, there, self.ranks), sums(self.traffic.target, back, self.ranks))

    def received(self, backward: bool = False) -> Counts:
        """The bytes that each rank receives."""
        there, back = self.traffic.nbytes(backward)
        return added(sums(self.traffic.target, there, self.ranks), sums(self.traffic.source, back, self.ranks))

    @property
    def gathered(self) -> int:
        """The bytes that each rank would receive if keys and values were gathered whole."""
        return (self.ranks - 1) * self.shards.rows * self.sizes.kv_heads * self.widths.key

    @cached_property
    def digest(self) -> str:
        """A hash of all that says who computes and sends what: equal on all ranks, or they would not fit together."""
        shapes = self.placed[0].cut.shapes  # others may have been added to it since: for documents
        used = np.unique(np.concatenate([side for one in self.placed for side in (one.parts.rows, one.parts.keys)]))
        runs = sorted((shapes.runs[number], number) for number in used.tolist())
        named = np.zeros(len(shapes.runs), dtype=np.int64)
        named[[number for _, number in runs]] = np.arange(len(runs))
        patterns = [(one.pattern.branch, one.pattern.heads, one.pattern.keys, len(one.parts)) for one in self.placed]
        made = (self.relation.spec, self.sizes, self.widths, repr(self.shards), self.patterns.groups, patterns)
        found = sha256("\n".join(map(str, (*made, [one for one, _ in runs]))).encode())
        columns: list[Counts] = [self.traffic.source, self.traffic.target, self.traffic.step]
        for one in self.placed:
            parts = one.parts
            columns += [parts.asker, parts.keeper, named[parts.rows], named[parts.keys], one.moved]
        for column in columns:
            found.update(np.ascontiguousarray(column, dtype="<i8").tobytes())
        return found.hexdigest()[:16]

    def __str__(self) -> str:
        lines = [f"ranks {self.ranks}  {self.shards}  {self.steps} steps"]
        most = "at most " if any(one.unknown for one in self.relation.classes) else ""  # a call says which there are
        for rank in range(min(self.ranks, _MOST_WRITTEN)):
            held = " and ".join(map(str, self.shards.held[rank])) or "nothing"
            lines.append(f"rank {rank}  holds {held}, computes {most}{self.work[rank]:,} pairs")
            lines += [f"    {item.text(most)}" for item in self.items(rank)]
            lines += [f"    {message}" for message in self.messages(rank) if message.source == rank]
        if self.ranks > _MOST_WRITTEN:
            lines.append(f"and {self.ranks - _MOST_WRITTEN:,} more")
        return "\n".join(lines)


def schedule(
    relation: Relation,
    sizes: Sizes,
    ranks: int,
    shard: str | Shards = "contiguous",
    chunks: int | None = None,
    dim: int = 64,
    dim_v: int | None = None,
    itemsize: int = 4,
    helpers: bool = True,
) -> Schedule:
    """Plan a call over ranks: ``shard`` is one of KINDS, with ``chunks`` for each rank, or shards.

    ``dim``, ``dim_v`` and ``itemsize`` are the sizes of vectors, and the bytes of an element, for which bytes are
    counted. ``helpers`` balances causal attention over contiguous shards. The plan does not depend on what inputs hold:
    all pairs that are possible are computed. Raises CannotSplit where no plan can be made before a call, and where the
    solver finds the pattern too hard to cut at such shards.
    """
    require_splittable(relation, sizes)
    with refusing(relation.spec.name, shard.kind if isinstance(shard, Shards) else shard, ranks):
        return _schedule(
            relation,
            sizes,
            ranks,
            shard,
            chunks,
            Widths(dim, dim if dim_v is None else dim_v, itemsize, sizes.batch, relation.spec.shared),
            helpers,
        )


def _schedule(
    relation: Relation,
    sizes: Sizes,
    ranks: int,
    shard: str | Shards,
    chunks: int | None,
    widths: Widths,
    helpers: bool,
) -> Schedule:
    found = patterns(relation, sizes)
    dealt = shard if isinstance(shard, Shards) else _dealt(shard, relation, found, sizes.n, ranks, chunks)
    shapes = Shapes()
    made = placed(found.items, dealt, shapes, sizes, widths, helpers)
    traffic = exchange(made, found, dealt, shapes, sizes, widths)
    plan = Schedule(relation, sizes, widths, dealt, found, made, traffic)
    _ = plan.work  # what is too hard to count is no plan
    return plan


def _dealt(kind: str, relation: Relation, found: Patterns, n: int, ranks: int, chunks: int | None) -> Shards:
    """Shards of a kind, as the pattern asks for them: by its work, or in its blocks."""
    if kind == "greedy":
        size = chunk_size(n, ranks * chunks_of(kind, chunks))
        work = added(*(product(work_of_rows(one.pairs, n, size), one.count) for one in found.items))
        return shards(kind, n, ranks, chunks, work=tuple(work.tolist()))
    return shards(kind, n, ranks, chunks, block(relation.spec, -(-n // ranks)) if kind == "grid" else 1)
