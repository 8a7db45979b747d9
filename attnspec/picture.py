"""Pictures of a pattern: which cells of the score matrix are full, partial or empty, proved from the relation.

A cell stands for a block of query rows and keys, so a picture of a million tokens costs what one of a hundred does.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from attnspec.pieces import TooIrregular, runs
from attnspec.presburger import TooHard, budget
from attnspec.relation import Relation, box
from attnspec.sizes import Sizes

EMPTY, PARTIAL, FULL = 0, 1, 2
_PAIRS = 1 << 20
_SHADES = {EMPTY: "··", PARTIAL: "▒▒", FULL: "██"}
_COLOURS = {PARTIAL: (142, 180, 227), FULL: (31, 78, 140)}


def cells(relation: Relation, sizes: Sizes, h: int = 0, b: int = 0, most: int = 32) -> NDArray[np.uint8]:
    """The cells of one head, (rows, columns), at most ``most`` in each direction: EMPTY, PARTIAL or FULL.

    Proved by the solver; where its budget does not suffice, short sequences are looked at pair by pair, long ones raise
    TooHard.
    """
    try:
        return _proved(relation, sizes, h, b, most)
    except (TooHard, TooIrregular):
        if sizes.n * sizes.n_q > _PAIRS:
            raise
    mask = relation.spec.mask(sizes.n, sizes.n_q, sizes.heads, sizes.batch, sizes.kv_heads)[b, h]
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
    chosen = relation.of_head(h).pairs
    with budget(chosen):
        frame = box(sizes)
        pairs = chosen.intersection(frame).fix(**sizes.parameters(h, b))
        to_cell = f"floor((x - ({sizes.first})) / {height})", f"floor(y / {width})"
        touched = pairs.image(*to_cell)
        full = touched.difference(frame.difference(pairs).fix(**sizes.parameters(h, b)).image(*to_cell))
        found = ((PARTIAL, touched.pieces()), (FULL, full.pieces()))
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
    colours = np.full((3, 3), 255, dtype=np.uint8)
    for kind, colour in _COLOURS.items():
        colours[kind] = colour
    times = max(1, size // max(1, picture.shape[1]))
    return np.asarray(colours[picture].repeat(times, axis=0).repeat(times, axis=1), dtype=np.uint8)
