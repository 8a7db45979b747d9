"""Which keys each chunk of queries needs, and which rows need the keys of each chunk: sets, for all chunks at once.

A pattern is cut at chunks by the solver once, whatever their number: ``{(i, k) : some query of chunk i sees key k}``.
Its runs are then read off for all chunks by arithmetic on arrays.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnspec.codegen.ranks.runs import Run, Runs, listed, union
from attnspec.codegen.ranks.shards import Shards
from attnspec.relation.count import Piece, TooIrregular, runs_at
from attnspec.relation.presburger import Pairs, budget

Ints = NDArray[np.int64]

_MOST_RESIDUES = 1 << 14
"""Of runs that are read off for each chunk: with more it is better to look at single pairs of chunks."""


class Spans(NamedTuple):
    """Runs of positions, each of a chunk ``of``: those that it needs in chunk ``at``, ``start`` to before ``stop``."""

    of: Ints
    at: Ints
    start: Ints
    stop: Ints
    step: Ints

    def take(self, which: NDArray[np.bool_] | Ints) -> Spans:
        """Some of them."""
        return Spans(*(column[which] for column in self))


def needed(pairs: Pairs, shards: Shards, most: int) -> Spans:
    """The keys that each chunk of queries needs of every other chunk; ``pairs`` have no parameters.

    No position of a chunk is in two runs. In order of ``of``, then ``at``, then ``start``. Raises TooIrregular where
    there would be more than ``most`` runs.
    """
    with budget(pairs):
        cut = pairs.image(shards.number("x"), "y").intersection(Pairs.read(f"x != {shards.number('y')}"))
        pieces = cut.pieces()
    if any(piece.period(2)[0] > _MOST_RESIDUES for piece in pieces):
        raise TooIrregular
    found = runs_at(pieces, np.arange(len(shards.owners), dtype=np.int64))
    columns = [(run.x, run.low, run.high + 1, np.full(len(run.x), run.step, dtype=np.int64)) for run in found]
    if not columns:
        return Spans(*(np.zeros(0, dtype=np.int64) for _ in range(5)))
    of, start, stop, step = (np.concatenate(column) for column in zip(*columns, strict=True))
    return _clipped(*_merged(of, start, stop, step), shards, most)


def of_box(pairs: Pairs, queries: Run, keys: Run) -> tuple[Runs, Runs]:
    """The rows and the keys of the pairs in a rectangle, exactly."""
    inside = Pairs.read(f"{within('x', queries)} and {within('y', keys)}")
    with budget(pairs):
        here = pairs.intersection(inside)
        rows, columns = (here.transpose().image("0", "y").pieces(), here.image("0", "y").pieces())
    return _runs(rows), _runs(columns)


def within(name: str, run: Run) -> str:
    """The condition that a position is in a run, in the solver's syntax."""
    by = f" and ({name} - {run.start}) mod {run.step} = 0" if run.step > 1 else ""
    return f"{run.start} <= {name} < {run.stop}{by}"


def _runs(pieces: tuple[Piece, ...]) -> Runs:
    found = [
        Run(low, high + 1, run.step if high > low else 1)
        for run in runs_at(pieces, np.zeros(1, dtype=np.int64))
        for low, high in zip(run.low.tolist(), run.high.tolist(), strict=True)
    ]
    runs = union(found)
    if len(runs) > 8:  # residues of a long period may be longer runs of positions
        places = np.unique(np.concatenate([np.arange(run.start, run.stop, run.step) for run in runs]))
        other = listed(places)
        runs = other if len(other) < len(runs) else runs
    return runs


def _merged(of: Ints, start: Ints, stop: Ints, step: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """The same positions in fewer runs: all residues of a step side by side are a run without steps."""
    step = np.where(stop - start <= 1, 1, step)
    order = np.lexsort((start, step, of))
    of, start, stop, step = of[order], start[order], stop[order], step[order]
    if (step > 1).any():
        fresh = np.ones(len(of), dtype=bool)
        fresh[1:] = (of[1:] != of[:-1]) | (step[1:] != step[:-1]) | (start[1:] != start[:-1] + 1) | (step[1:] == 1)
        first = np.flatnonzero(fresh)
        length = np.diff(np.append(first, len(of)))
        high = np.maximum.reduceat(stop, first)
        low = np.minimum.reduceat(stop, first)
        whole = (length == step[first]) & (step[first] > 1) & (high - low == step[first] - 1)
        kept = ~np.repeat(whole, length)
        ones = first[whole]
        of = np.concatenate([of[kept], of[ones]])
        stop = np.concatenate([stop[kept], high[whole]])
        step = np.concatenate([step[kept], np.ones(len(ones), dtype=np.int64)])
        start = np.concatenate([start[kept], start[ones]])
        order = np.lexsort((start, step, of))
        of, start, stop, step = of[order], start[order], stop[order], step[order]
    touches = np.zeros(len(of), dtype=bool)
    touches[1:] = (of[1:] == of[:-1]) & (step[1:] == 1) & (step[:-1] == 1) & (start[1:] == stop[:-1])
    first = np.flatnonzero(~touches)
    return of[first], start[first], np.maximum.reduceat(stop, first), step[first]


def _clipped(of: Ints, start: Ints, stop: Ints, step: Ints, shards: Shards, most: int) -> Spans:
    """The runs cut at the chunks in which their positions lie."""
    if shards.size:
        low, high = start // shards.size, (stop - 1) // shards.size
        each = high - low + 1
        if each.sum() > most:
            raise TooIrregular
        which = np.repeat(np.arange(len(of)), each)
        at = np.arange(len(which)) - np.repeat(np.cumsum(each) - each, each) + low[which]
        of, start, stop, step = of[which], start[which], stop[which], step[which]
        begin, end = at * shards.size, np.minimum(shards.n, (at + 1) * shards.size)
        start = np.where(start < begin, start + -(-(begin - start) // step) * step, start)
    else:
        ranks = len(shards.owners)
        if ranks * len(of) > most:
            raise TooIrregular
        which = np.repeat(np.arange(len(of)), ranks)
        at = np.tile(np.arange(ranks), len(of))
        of, start, stop, step = of[which], start[which], stop[which], step[which]
        common = np.gcd(step, shards.ranks)
        live = (at - start) % common == 0
        of, at, start, stop, step, common = (c[live] for c in (of, at, start, stop, step, common))
        period = shards.ranks // common
        start = start + step * ((at - start) // common * _inverse(step // common, period) % period)
        step, end = step * period, stop
    end = np.minimum(end, stop)
    live = start < end
    of, at, start, step, end = (c[live] for c in (of, at, start, step, end))
    last = end - 1 - (end - 1 - start) % step
    step = np.where(last > start, step, 1)
    order = np.lexsort((start, at, of))
    return Spans(*(c[order] for c in (of, at, start, last + 1, step)))


def _inverse(value: Ints, modulus: Ints) -> Ints:
    """The inverses of values by moduli to which they are prime, each."""
    pairs = list(zip(value.tolist(), modulus.tolist(), strict=True))
    table = {(a, m): pow(a % m, -1, m) if m > 1 else 0 for a, m in set(pairs)}
    return np.array([table[pair] for pair in pairs], dtype=np.int64)
