"""Pictures of a pattern: which cells of the score matrix are full, partial or empty, proved from the relation.

A cell for which that depends on the contents of inputs is open.

A cell stands for a block of query rows and keys, so a picture of a million tokens costs what one of a hundred does.
"""

from __future__ import annotations

import itertools
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
_COLOURS = {PARTIAL: (142, 180, 227), FULL: (31, 78, 140), OPEN: (232, 184, 109)}


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
    height, width = _cell(sizes, most)
    rows, columns = range(0, sizes.n_q, height), range(0, sizes.n, width)
    parts = [[mask[y : y + height, x : x + width] for x in columns] for y in rows]
    found = [[FULL if p.all() else PARTIAL if p.any() else EMPTY for p in row] for row in parts]
    return np.array(found, dtype=np.uint8)


def _cell(sizes: Sizes, most: int) -> tuple[int, int]:
    return max(1, -(-sizes.n_q // most)), max(1, -(-sizes.n // most))


def _proved(relation: Relation, sizes: Sizes, h: int, b: int, most: int) -> NDArray[np.uint8]:
    height, width = _cell(sizes, most)
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


def svg(picture: NDArray[np.uint8], title: str, size: int = 640) -> str:
    """A picture as an SVG document; neighbouring equal cells of a row are one rectangle."""
    from xml.sax.saxutils import escape

    rows, columns = picture.shape
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{round(size * rows / max(1, columns))}" '
        f'viewBox="0 0 {columns} {rows}" preserveAspectRatio="none" shape-rendering="crispEdges">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{columns}" height="{rows}" fill="#fff"/>',
    ]
    for y, row in enumerate(picture):
        edges = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), columns]
        for start, end in itertools.pairwise(edges):
            if end > start and row[start] != EMPTY:
                red, green, blue = _COLOURS[int(row[start])]
                fill = f"#{red:02x}{green:02x}{blue:02x}"
                lines.append(f'<rect x="{start}" y="{y}" width="{end - start}" height="1" fill="{fill}"/>')
    return "\n".join([*lines, "</svg>", ""])


def pixels(picture: NDArray[np.uint8], size: int = 640) -> NDArray[np.uint8]:
    """A picture as an RGB image, (height, width, 3), uint8, about ``size`` wide."""
    colours = np.full((len(_SHADES), 3), 255, dtype=np.uint8)
    for kind, colour in _COLOURS.items():
        colours[kind] = colour
    times = max(1, size // max(1, picture.shape[1]))
    return np.asarray(colours[picture].repeat(times, axis=0).repeat(times, axis=1), dtype=np.uint8)
