"""Which positions each rank holds.

>>> for kind in KINDS[:3]:
...     print(kind, *(" and ".join(map(str, runs)) for runs in shards(kind, 16, 2).held))
contiguous 0..7 8..15
zigzag 0..3 and 12..15 4..11
residue 0..14 by 2 1..15 by 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from math import lcm

import numpy as np
from numpy.typing import NDArray

from attnspec.codegen.ranks.runs import Run, Runs, count, positions
from attnspec.spec.contents import walk
from attnspec.spec.expr import FloorDiv, Int, Mod, Node
from attnspec.spec.spec import Spec
from attnspec.spec.writing import Shown

KINDS = ("contiguous", "zigzag", "residue", "grid", "greedy")


@dataclass(frozen=True)
class Shards(Shown):
    """The positions of a sequence of ``n``, dealt out: ``held[rank]`` are a rank's runs, in the order of its rows.

    Positions are cut into chunks of ``size``, one after another, or by their residue (then ``size`` is 0, and chunk r
    holds what leaves r when divided by the number of ranks); ``owners`` says for each chunk which rank has it. Every
    rank has :attr:`rows` rows of its tensors; those behind its positions are padding, which sees nothing and which
    nothing sees. ``kind`` says how chunks were dealt: contiguous, zigzag, residue, grid or greedy.
    """

    kind: str
    n: int
    ranks: int
    size: int
    owners: tuple[int, ...]

    @property
    def step(self) -> int:
        """From one position of a chunk to the next."""
        return 1 if self.size else self.ranks

    def chunk(self, number: int) -> Run:
        """The positions of a chunk."""
        if not self.size:
            found = Run.below(number, self.n, self.ranks)
        else:
            found = Run.below(number * self.size, min(self.n, (number + 1) * self.size))
        assert found is not None
        return found

    def first(self, number: int) -> int:
        """The first position of a chunk."""
        return number * self.size if self.size else number

    def number(self, position: str) -> str:
        """The number of the chunk of a position, in the solver's syntax."""
        return f"floor({position} / {self.size})" if self.size else f"({position} mod {self.ranks})"

    def offset(self, position: str) -> str:
        """How many positions of its chunk come before it, in the solver's syntax."""
        return f"({position} mod {self.size})" if self.size else f"floor({position} / {self.ranks})"

    def unlike(self, number: str, chunk: int) -> str:
        """Of which chunks, by their ``number``, the length is not that of a given one, in the solver's syntax."""
        if self.size:
            rest, last = self.n % self.size, len(self.owners) - 1
            return f"{number} {'!=' if chunk == last else '='} {last}" if rest else "false"
        rest = self.n % self.ranks
        return f"{number} {'>=' if chunk < rest else '<'} {rest}" if rest else "false"

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """The rank that has each chunk, as an array."""
        return np.array(self.owners, dtype=np.int64)

    @cached_property
    def ends(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first position of each chunk, and the one behind its last."""
        runs = [self.chunk(number) for number in range(len(self.owners))]
        return np.array([run.start for run in runs], dtype=np.int64), np.array([run.stop for run in runs], np.int64)

    @cached_property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """The numbers of each rank's chunks, in order."""
        found: list[list[int]] = [[] for _ in range(self.ranks)]
        for number, owner in enumerate(self.owners):
            found[owner].append(number)
        return tuple(map(tuple, found))

    @cached_property
    def held(self) -> tuple[Runs, ...]:
        """The runs of each rank, in the order of its rows; chunks that follow one another are one run."""
        found = []
        for numbers in self.chunks:
            runs: list[Run] = []
            for run in map(self.chunk, numbers):
                if self.size and runs and runs[-1].stop == run.start:
                    runs[-1] = Run(runs[-1].start, run.stop)
                else:
                    runs.append(run)
            found.append(tuple(runs))
        return tuple(found)

    @cached_property
    def rows(self) -> int:
        """The rows of each rank's tensors."""
        return max(map(count, self.held), default=0)

    def positions(self, rank: int) -> NDArray[np.int64]:
        """The positions of a rank's rows; -1 those of padding."""
        found = np.full(self.rows, -1, dtype=np.int64)
        held = positions(self.held[rank])
        found[: len(held)] = held
        return found

    def rows_of(self, rank: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows at which a rank holds positions; -1 where it does not."""
        found = np.full(places.shape, -1, dtype=np.int64)
        first = 0
        for run in self.held[rank]:
            inside = (places >= run.start) & (places < run.stop) & ((places - run.start) % run.step == 0)
            found[inside] = first + (places[inside] - run.start) // run.step
            first += run.length
        return found

    def __str__(self) -> str:
        return f"{self.kind} shards of {self.rows:,} positions"


def shards(
    kind: str, n: int, ranks: int, chunks: int | None = None, block: int = 1, work: Sequence[int] = ()
) -> Shards:
    """Deal ``n`` positions to ranks.

    ``chunks`` is how many each rank has (zigzag: 2, greedy: 4, else 1); those that follow one another in contiguous
    shards are one. ``grid`` is contiguous by whole blocks: rows of an image, segments. ``greedy`` deals chunks out by
    ``work``, that of each (:func:`chunk_size` says how long they are), the largest first, to the rank that has least so
    far and not yet its number of chunks. Raises ValueError for a kind that is not one of KINDS, and for numbers that
    are not positive.
    """
    if kind not in KINDS:
        raise ValueError(f"shards are {', '.join(KINDS)}; not {kind!r}")
    for name, value in (("ranks", ranks), ("chunks", chunks), ("block", block), ("n", n + 1)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be a positive integer, not {value}")
    if kind == "residue":
        if chunks not in (None, 1):
            raise ValueError(f"residue shards have one chunk a rank, not {chunks}")
        return Shards(kind, n, ranks, 0, tuple(range(min(n, ranks))))
    each = chunks_of(kind, chunks)
    size = chunk_size(n, ranks * each, block if kind == "grid" else 1)
    if kind in ("contiguous", "grid"):
        size, each = size * each, 1
    number = -(-n // size)
    if kind == "greedy":
        return Shards(kind, n, ranks, size, _greedy(tuple(work) or (1,) * number, ranks, each))
    if kind == "zigzag":  # forth and back over the ranks
        owners = [i % ranks if i // ranks % 2 == 0 else ranks - 1 - i % ranks for i in range(number)]
    else:
        owners = list(range(number))
    return Shards(kind, n, ranks, size, tuple(owners))


def block(spec: Spec, most: int) -> int:
    """The length of the blocks in which a pattern cuts positions, at most ``most``: rows of an image, segments, both.

    That is the least common multiple of what its clauses divide by, or of those of them that fit; 1 without any.
    """
    clauses = (clause.pred for branch in spec.branches for clause in (*branch.attend, *branch.within))
    found = 1
    for divisor in sorted({_divisor(node) for clause in clauses for node in walk(clause)}, reverse=True):
        if lcm(found, divisor) <= most:
            found = lcm(found, divisor)
    return found


def _divisor(node: Node) -> int:
    """What a node divides by, those divisions included that it divides again: ``i // 56 // 7`` has blocks of 392."""
    if not isinstance(node, (FloorDiv, Mod)) or not isinstance(node.right, Int) or node.right.value < 1:
        return 1
    inner = max((_divisor(part) for part in walk(node.left) if isinstance(part, FloorDiv)), default=1)
    return node.right.value * inner


def chunks_of(kind: str, chunks: int | None) -> int:
    """How many chunks each rank has."""
    return chunks if chunks is not None else {"zigzag": 2, "greedy": 4}.get(kind, 1)


def chunk_size(n: int, chunks: int, block: int = 1) -> int:
    """The positions of each of so many chunks, in whole blocks; the last may have fewer, or there may be fewer."""
    return max(1, -(-n // (chunks * block))) * block


def _greedy(work: Sequence[int], ranks: int, each: int) -> tuple[int, ...]:
    least, held = [(0, rank) for rank in range(ranks)], [0] * ranks  # a heap
    owners = [0] * len(work)
    for number in sorted(range(len(work)), key=lambda i: (-work[i], i)):
        load, rank = heappop(least)
        owners[number], held[rank] = rank, held[rank] + 1
        if held[rank] < each:
            heappush(least, (load + work[number], rank))
    return tuple(owners)
