"""Pictures of a pattern: which cells of the score matrix are full, partial or empty, proved from the relation.

A cell for which that depends on the contents of inputs is open.

A cell stands for a block of query rows and keys, so a picture of a million tokens costs what one of a hundred does.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from attnspec.relation.count import TooIrregular, runs
from attnspec.relation.effort import stage
from attnspec.relation.presburger import Pairs, TooHard, budget
from attnspec.relation.relation import Relation, box
from attnspec.relation.sizes import Sizes

EMPTY, PARTIAL, FULL, OPEN = 0, 1, 2, 3
_PAIRS = 1 << 20
_SHADES = {EMPTY: "··", PARTIAL: "▒▒", FULL: "██", OPEN: "??"}


@stage()
def cells(relation: Relation, sizes: Sizes, h: int = 0, b: int = 0, most: int = 32) -> NDArray[np.uint8]:
    """The cells of one head, (rows, columns), at most ``most`` in each direction: EMPTY, PARTIAL, FULL or OPEN.

    Proved by the solver; where its budget does not suffice, short sequences are looked at pair by pair, long ones raise
    TooHard. Raises DependsOnInputs where the pattern has a computed order or reads scalars that ``sizes`` do not give.
    """
    relation.require_positions()
    try:
        return _proved(relation, sizes, h, b, most)
    except (TooHard, TooIrregular):
        if sizes.n * sizes.n_q > _PAIRS or not relation.exact or relation.reads_scalars:
            raise
    mask = replace(relation.spec, inputs=()).mask(sizes.n, sizes.n_q, sizes.heads, sizes.batch, sizes.kv_heads)[b, h]
    height, width = cell(sizes, most)
    rows, columns = range(0, sizes.n_q, height), range(0, sizes.n, width)
    parts = [[mask[y : y + height, x : x + width] for x in columns] for y in rows]
    found = [[FULL if p.all() else PARTIAL if p.any() else EMPTY for p in row] for row in parts]
    return np.array(found, dtype=np.uint8)


def cell(sizes: Sizes, most: int) -> tuple[int, int]:
    """How many rows and keys a cell stands for."""
    return max(1, -(-sizes.n_q // most)), max(1, -(-sizes.n // most))


def _proved(relation: Relation, sizes: Sizes, h: int, b: int, most: int) -> NDArray[np.uint8]:
    height, width = cell(sizes, most)
    shape = -(-sizes.n_q // height), -(-sizes.n // width)
    out = np.zeros(shape, dtype=np.uint8)
    item = relation.of_head(h)
    values = relation.parameters(sizes, h, b, item.pairs, item.sure)
    to_cell = f"floor((x - ({sizes.first})) / {height})", f"floor(y / {width})"

    def touched_and_full(pairs: Pairs) -> tuple[Pairs, Pairs]:
        frame = box(sizes)
        cut = pairs.intersection(frame).fix(**values)
        touched = cut.image(*to_cell)
        return touched, touched.difference(frame.difference(cut).fix(**values).image(*to_cell))

    with budget(item.pairs, item.sure):
        touched, full = touched_and_full(item.pairs)
        found = [(PARTIAL, touched.pieces()), (FULL, full.pieces())]
        if not item.exact:
            certainly_touched, certainly_full = touched_and_full(item.sure)
            partial = certainly_touched.difference(full)
            found = [(OPEN, touched.pieces()), (PARTIAL, partial.pieces()), (FULL, certainly_full.pieces())]
    for kind, pieces in found:
        for run in runs(pieces, shape[0]):
            for x, low, high in zip(run.x, run.low, run.high, strict=True):
                out[x, low : high + 1 : run.step] = kind
    return out


def text(picture: NDArray[np.uint8]) -> str:
    """A picture for the terminal: two characters a cell."""
    return "\n".join("".join(_SHADES[int(c)] for c in row) for row in picture)
