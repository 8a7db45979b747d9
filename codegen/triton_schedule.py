"""How Triton kernels are run: tile sizes, warps and pipeline stages of the three kinds of kernels, by head size.

Chosen without a GPU, by what ahead-of-time compiles for sm_90 report: no spills, and shared memory that every
supported chip has (``attnspec compile``). The measured choice among :func:`candidates` is made where there is a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnspec.codegen.plan import Tile


@dataclass(frozen=True)
class Shape:
    """The tile of a kernel (queries x keys), its warps, and how many tiles its pipeline loads ahead."""

    tile: Tile
    warps: int
    stages: int

    def __str__(self) -> str:
        return f"num_warps={self.warps}, num_stages={self.stages}"


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


def _schedule(*shapes: tuple[int, int, int, int]) -> Schedule:
    return Schedule(*(Shape(Tile(rows, columns), warps, stages) for rows, columns, warps, stages in shapes))


_HALF = (
    (64, _schedule((128, 64, 8, 3), (128, 64, 8, 2), (64, 128, 8, 2))),
    (128, _schedule((128, 64, 8, 3), (128, 64, 8, 2), (64, 128, 8, 2))),
    (256, _schedule((64, 32, 8, 2), (64, 32, 8, 1), (32, 64, 8, 1))),
)
_FULL = (
    (64, _schedule((64, 32, 4, 2), (64, 32, 4, 2), (32, 64, 4, 2))),
    (128, _schedule((64, 32, 8, 2), (64, 32, 8, 1), (32, 64, 8, 1))),
    (256, _schedule((32, 32, 8, 1), (32, 32, 8, 1), (32, 32, 8, 1))),
)
"""By the largest head size they serve; ``_HALF`` for 16-bit types, ``_FULL`` for float32."""


FEW = 16
"""Queries up to which a tile holds no more of them: what decoding needs."""


def schedule_for(dim: int, itemsize: int, n_q: int) -> Schedule:
    """The schedule for a head size (the larger of those of query and value), the bytes of an element, and a length."""
    own = next(own for most, own in (_HALF if itemsize == 2 else _FULL) if dim <= most)
    if n_q > FEW:
        return own
    return replace(own, forward=Shape(Tile(FEW, own.forward.tile.columns), 4, own.forward.stages))
