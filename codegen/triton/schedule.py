"""How Triton kernels are run: tile sizes, warps and pipeline stages of the three kinds of kernels, by head size.

Chosen without a GPU, by what ahead-of-time compiles report: of each list the first is taken that spills nothing and
whose shared memory the chip has. Where there is a GPU, all are measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from attnspec.codegen.tiles import Tile

KINDS = ("forward", "queries", "keys")
"""The kernels: forward, backward by query tile (dQ) and backward by key tile (dK, dV)."""


@dataclass(frozen=True)
class Shape:
    """The tile of a kernel (queries x keys), its warps, and how many tiles its pipeline loads ahead."""

    tile: Tile
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int | bool]:
        """What triton compiles a kernel with."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.options.items())


@dataclass(frozen=True)
class Schedule:
    """The shapes of the three kinds of kernels."""

    forward: Shape
    queries: Shape
    keys: Shape

    def of(self, kind: str) -> Shape:
        """The shape of a kind."""
        return {"forward": self.forward, "queries": self.queries, "keys": self.keys}[kind]

    def __str__(self) -> str:
        kinds = (("forward", self.forward), ("by query tile", self.queries), ("by key tile", self.keys))
        return "Tiles: " + ", ".join(f"{name} {s.tile}, {s.warps} warps, {s.stages} stages" for name, s in kinds) + "."


def _shapes(*shapes: tuple[int, int, int, int]) -> tuple[Shape, ...]:
    return tuple(Shape(Tile(rows, columns), warps, stages) for rows, columns, warps, stages in shapes)


def _kinds(*kinds: tuple[Shape, ...]) -> Mapping[str, tuple[Shape, ...]]:
    return dict(zip(KINDS, kinds, strict=True))


Candidates = Mapping[str, tuple[Shape, ...]]
_HALF: tuple[tuple[int, Candidates], ...] = (
    (
        64,
        _kinds(
            _shapes((128, 64, 8, 3), (128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 1)),
            _shapes((128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 1)),
            _shapes((64, 128, 8, 2), (32, 128, 8, 2), (64, 64, 4, 2), (32, 64, 4, 2), (32, 32, 4, 1)),
        ),
    ),
    (
        128,
        _kinds(
            _shapes((128, 64, 8, 3), (128, 64, 8, 2), (128, 32, 8, 2), (64, 32, 4, 2), (32, 32, 4, 1)),
            _shapes((128, 64, 8, 2), (128, 32, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 1)),
            _shapes((64, 128, 8, 2), (32, 128, 8, 1), (32, 64, 8, 2), (32, 64, 4, 1), (16, 64, 8, 1), (16, 32, 4, 1)),
        ),
    ),
    (
        256,
        _kinds(
            _shapes((64, 32, 8, 2), (32, 32, 8, 1), (32, 16, 8, 1), (16, 16, 4, 1)),
            _shapes((64, 32, 8, 1), (32, 32, 8, 1), (32, 16, 8, 1), (16, 16, 4, 1)),
            _shapes((32, 64, 8, 1), (32, 32, 8, 1), (16, 32, 8, 1), (16, 16, 4, 1)),
        ),
    ),
)
_FULL: tuple[tuple[int, Candidates], ...] = (
    (
        64,
        _kinds(
            _shapes((64, 32, 8, 2), (32, 32, 4, 1), (32, 16, 4, 1), (16, 16, 4, 1)),
            _shapes((64, 32, 8, 2), (32, 32, 4, 1), (32, 16, 4, 1), (16, 16, 4, 1)),
            _shapes((32, 64, 8, 2), (32, 32, 8, 1), (16, 32, 4, 1), (16, 16, 4, 1)),
        ),
    ),
    (
        256,
        _kinds(
            _shapes((32, 32, 8, 1), (32, 16, 8, 1), (16, 16, 8, 1), (16, 16, 4, 1)),
            _shapes((32, 32, 8, 1), (32, 16, 8, 1), (16, 16, 8, 1), (16, 16, 4, 1)),
            _shapes((32, 32, 8, 1), (16, 32, 8, 1), (16, 16, 8, 1), (16, 16, 4, 1)),
        ),
    ),
)
"""By the largest head size they serve; ``_HALF`` for 16-bit types, ``_FULL`` for float32."""

_STARTS: Mapping[tuple[str, int], Mapping[int, tuple[int, int, int]]] = {
    ("sm_80", 2): {64: (0, 0, 1), 128: (2, 1, 2), 256: (0, 0, 0)},
    ("sm_90", 2): {64: (0, 0, 1), 128: (0, 0, 1), 256: (0, 1, 1)},
    ("sm_100", 2): {64: (0, 0, 0), 128: (0, 0, 1), 256: (0, 0, 1)},
    ("gfx942", 2): {64: (0, 1, 2), 128: (2, 2, 3), 256: (1, 2, 2)},
    ("sm_80", 4): {64: (0, 0, 1), 128: (1, 1, 1), 256: (1, 1, 1)},
    ("sm_90", 4): {64: (0, 0, 1), 128: (1, 1, 1), 256: (1, 1, 2)},
    ("sm_100", 4): {64: (0, 0, 1), 128: (1, 1, 1), 256: (1, 1, 2)},
    ("gfx942", 4): {64: (0, 0, 2), 128: (0, 1, 1), 256: (1, 3, 3)},
}
"""By architecture and size of an element: how many of the shapes of each kind spill even in causal attention.

Compiled with triton 3.9; where another compiler needs fewer registers, larger tiles than these are possible.
"""

_KIN: Mapping[str, str] = {"sm_86": "sm_80", "sm_89": "sm_80", "sm_120": "sm_80", "gfx950": "gfx942"}
"""Architectures that begin where one begins that was compiled for: their registers and matrix units are alike."""

FEW = 16
"""Queries up to which a tile holds no more of them: what decoding needs."""
MOST_ROWS = 64
"""Rows up to which such a tile is filled with those of the query heads that share their keys."""
LEAST_SHARE = 512
"""Keys below which a part is not worth a program of its own, where so few queries are shared out by keys."""


def bucket(dim: int) -> int:
    """The largest head size that is served as this one is."""
    return next(most for most, _ in _HALF if dim <= most)


@dataclass(frozen=True)
class Few:
    """A tile of few queries: its ``rows`` positions, and room for so many ``heads`` that share their keys.

    Keys are then read once for all of them. Both are powers of two.

    >>> Few.of(1, 4), Few.of(8, 4), Few.of(1, 6), Few.of(1, 1)
    (Few(rows=4, heads=4), Few(rows=16, heads=4), Few(rows=2, heads=8), Few(rows=16, heads=1))
    """

    rows: int
    heads: int

    @classmethod
    def of(cls, n_q: int, group: int) -> Few:
        """For so many queries; ``group`` query heads share their keys, and the pattern does not tell them apart."""
        heads = 1 << (group - 1).bit_length()
        if not 1 < heads <= MOST_ROWS:
            return cls(FEW, 1)
        least = max(1, FEW // heads)
        return cls(least if n_q <= least else max(least, min(FEW, MOST_ROWS // heads)), heads)


def candidates(dim: int, itemsize: int, n_q: int, group: int = 1) -> Candidates:
    """The shapes of each kind to choose from, the most promising first.

    ``dim`` is the larger of the head sizes of query and value, ``itemsize`` the bytes of an element; ``group`` is that
    of :class:`Few`.
    """
    shapes_of = next(shapes for most, shapes in (_HALF if itemsize == 2 else _FULL) if dim <= most)
    if n_q > FEW:
        return shapes_of
    rows = Few.of(n_q, group).rows
    few = tuple(dict.fromkeys(replace(s, tile=Tile(rows, s.tile.columns), warps=4) for s in shapes_of["forward"]))
    return {**shapes_of, "forward": few}


def likely(arch: str, dim: int, itemsize: int) -> Candidates:
    """The candidates for many queries without those that do not fit an architecture even in the simplest pattern."""
    starts = _STARTS[_KIN.get(arch, arch), itemsize][bucket(dim)]
    shapes = candidates(dim, itemsize, FEW + 1)
    return {kind: shapes[kind][start:] for kind, start in zip(KINDS, starts, strict=True)}


def schedule_for(dim: int, itemsize: int, n_q: int, group: int = 1) -> Schedule:
    """The first of the candidates."""
    return Schedule(*(shapes[0] for shapes in candidates(dim, itemsize, n_q, group).values()))
