"""Mask functions in the form that FlexAttention takes, from their definitions, and what each is in the language.

Those here are formulas of positions and heads; those that read tables are in :mod:`tests.support.flex_tables`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Mask:
    """What makes a mask function anew, the sizes of a call that it fits, and a spec of the same pairs, by hand."""

    make: Callable[[], MaskMod]
    n: int
    n_q: int
    spec: str
    heads: int = 1
    batch: int = 1


def everything() -> MaskMod:
    return lambda b, h, i, j: i.new_ones((), dtype=torch.bool)


def causal() -> MaskMod:
    return lambda b, h, i, j: j <= i


def lookback(width: int) -> MaskMod:
    """A query and the `width` positions before it."""
    return lambda b, h, i, j: (i - j >= 0) & (i - j <= width)


def prefix(length: int) -> MaskMod:
    """Everybody sees the prefix, the rest is causal (T5's prefix LM)."""
    return lambda b, h, i, j: (j < length) | (j <= i)


def dilated(radius: int, rate: int) -> MaskMod:
    return lambda b, h, i, j: ((i - j).abs() <= radius) & ((i - j) % rate == 0)


def sinks(start: int, recent: int) -> MaskMod:
    """The first tokens and the last ones (StreamingLLM)."""
    return lambda b, h, i, j: (j <= i) & ((j < start) | (i - j < recent))


def chunked(size: int) -> MaskMod:
    return lambda b, h, i, j: (j <= i) & (i // size == j // size)


def batchify(inner: MaskMod, size: int) -> MaskMod:
    """Short sequences one after another, each with the inner mask at its own positions."""
    return lambda b, h, i, j: inner(b, h, i % size, j % size) & (i // size == j // size)


def global_local(radius: int, tokens: int) -> MaskMod:
    """Longformer: a band, and global tokens that see all and are seen by all."""

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return ((i - j).abs() <= radius) | (torch.minimum(i, j) < tokens)

    return mask


def near(x: Tensor, y: Tensor, size: int, radius: int) -> Tensor:
    """Whether y is in the window of x along an axis: of full size at borders too, as NATTEN moves it inwards."""
    return (x.clamp(radius, size - 1 - radius) - y).abs() <= radius


def natten(height: int, width: int, radius: int) -> MaskMod:
    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return near(i // width, j // width, height, radius) & near(i % width, j % width, width, radius)

    return mask


def tiled_natten(height: int, width: int, radius: int, tile: int) -> MaskMod:
    """The same where an image lies in memory tile by tile."""

    def place(x: Tensor) -> tuple[Tensor, Tensor]:
        at, within, across = x // tile**2, x % tile**2, width // tile
        return at // across * tile + within // tile, at % across * tile + within % tile

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        (row, column), (key_row, key_column) = place(i), place(j)
        return near(row, key_row, height, radius) & near(column, key_column, width, radius)

    return mask


def morton_natten(bits: int, radius: int) -> MaskMod:
    """The same in the order of a Z curve: bits of row and column take turns."""

    def every_other(x: Tensor) -> Tensor:
        return torch.stack([((x >> 2 * at) & 1) << at for at in range(bits)]).sum(0)

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        rows = near(every_other(i >> 1), every_other(j >> 1), 1 << bits, radius)
        return rows & near(every_other(i), every_other(j), 1 << bits, radius)

    return mask


def sliding_tiles(grid: tuple[int, ...], window: tuple[int, ...], tile: int, text: int) -> MaskMod:
    """Sliding tile attention: `grid` tiles of `tile` tokens, windows of whole tiles, and text behind the video.

    Windows of an even number of tiles reach one tile further back than forward.
    """
    tiles = torch.Size(grid).numel()

    def coordinates(x: Tensor) -> list[Tensor]:
        found, at = [], x // tile
        for size in reversed(grid):
            found.append(at % size)
            at = at // size
        return found

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = (i < tiles * tile) & (j < tiles * tile)
        for x, y, size, wide in zip(coordinates(i), coordinates(j), reversed(grid), reversed(window), strict=True):
            middle = x.clamp(wide // 2, size - (wide + 1) // 2)
            seen = seen & (y >= middle - wide // 2) & (y < middle + (wide + 1) // 2)
        video, words = tiles * tile, tiles * tile + text
        return seen | ((i < video) & (j >= video) & (j < words)) | ((i >= video) & (j < words))

    return mask


def spatial(prompt: int, frame: int, frames: int, first: bool) -> MaskMod:
    """A spatial head of Sparse VideoGen: frames nearby, the prompt, and with `first` the first frame."""
    sunk = prompt + (frame if first else 0)
    return lambda b, h, i, j: (i < prompt) | (j < sunk) | (torch.abs(i - j) < frames * frame)


def temporal(prompt: int, frame: int, width: int) -> MaskMod:
    """A temporal head of Sparse VideoGen: nearby places of all frames, and the prompt."""

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        apart = torch.abs((i - prompt) % frame - (j - prompt) % frame)
        return (i < prompt) | (j < prompt) | (apart < width)

    return mask


def block_diffusion(tokens: int, block: int) -> MaskMod:
    """Training of BD3-LM: noised tokens, then clean ones."""

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        row, column = i % tokens // block, j % tokens // block
        noised = torch.where(j < tokens, row == column, column < row)
        return torch.where(i < tokens, noised, ~(j < tokens) & (column <= row))

    return mask


def draft_blocks(cached: int, block: int) -> MaskMod:
    """Training of draft heads: what is cached, and the own block so far; other blocks are not seen."""

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        new = j - cached
        return (new < 0) | ((new // block == i // block) & (new <= i))

    return mask


def axial(width: int) -> MaskMod:
    return lambda b, h, i, j: (i // width == j // width) | (i % width == j % width)


def strided(stride: int) -> MaskMod:
    """Sparse Transformer: the last positions, and every so many before."""
    return lambda b, h, i, j: (j <= i) & ((i - j < stride) | ((i - j) % stride == 0))


def by_head(step: int) -> MaskMod:
    return lambda b, h, i, j: (j <= i) & (i - j < step * (h + 1))


def a(*lines: str) -> str:
    return "attention a { align start " + " ".join(lines) + " }"


_TILES = "let row(x) = x // 16 // 3 * 4 + x % 16 // 4 let column(x) = x // 16 % 3 * 4 + x % 4"
_BITS = "x {0} % 2 + x {0} // 4 % 2 * 2 + x {0} // 16 % 2 * 4"
_Z = f"let column(x) = {_BITS.format('// 1')} let row(x) = {_BITS.format('// 2')}"
_NEAR = "attend |clamp(row(q), 2, {0} - 3) - row(k)| <= 2 and |clamp(column(q), 2, {1} - 3) - column(k)| <= 2"
_STA = (
    "attend q < 96 and k < 96 and clamp(q // 8 // 4, 1, 1) - k // 8 // 4 in -1..2"
    " and clamp(q // 8 % 4, 1, 3) - k // 8 % 4 in 0..2"
)
_STA_3D = (
    "attend q < 96 and k < 96 and clamp(q // 4 // 12, 1, 1) - k // 4 // 12 in 0..2"
    " and clamp(q // 4 // 4 % 3, 1, 1) - k // 4 // 4 % 3 in -1..2 and q // 4 % 4 == k // 4 % 4"
)
_TEXT = "attend q < 96 and k in 96..103 attend q >= 96 and k < 103"

MASKS = {
    "everything": Mask(everything, 70, 50, a("attend true")),
    "causal": Mask(causal, 100, 100, a("attend causal")),
    "sliding window": Mask(lambda: lookback(17), 100, 100, a("attend window(18)")),
    "prefix": Mask(lambda: prefix(37), 100, 100, a("attend causal attend k < 37")),
    "dilated": Mask(lambda: dilated(40, 5), 100, 100, a("attend |q - k| <= 40 and (q - k) % 5 == 0")),
    "sinks": Mask(lambda: sinks(4, 20), 100, 100, a("attend k < 4 attend q - k < 20 within causal")),
    "chunked": Mask(lambda: chunked(24), 100, 100, a("attend causal and q // 24 == k // 24")),
    "batchify causal": Mask(
        lambda: batchify(causal(), 24), 100, 100, a("attend q % 24 >= k % 24 and q // 24 == k // 24")
    ),
    "batchify window": Mask(
        lambda: batchify(lookback(5), 24), 100, 100, a("attend q - k in 0..6 and q // 24 == k // 24")
    ),
    "global and local": Mask(lambda: global_local(9, 5), 100, 100, a("attend |q - k| <= 9 attend q < 5 attend k < 5")),
    "natten": Mask(
        lambda: natten(9, 12, 2),
        108,
        108,
        a("let row(x) = x // 12 let column(x) = x % 12", _NEAR.format(9, 12)),
    ),
    "tiled natten": Mask(lambda: tiled_natten(8, 12, 2, 4), 96, 96, a(_TILES, _NEAR.format(8, 12))),
    "morton natten": Mask(lambda: morton_natten(3, 2), 64, 64, a(_Z, _NEAR.format(8, 8))),
    "sliding tiles 2-D": Mask(lambda: sliding_tiles((3, 4), (3, 2), 8, 7), 110, 110, a(_STA, _TEXT)),
    "sliding tiles 3-D": Mask(lambda: sliding_tiles((2, 3, 4), (2, 3, 1), 4, 7), 110, 110, a(_STA_3D, _TEXT)),
    "spatial": Mask(lambda: spatial(11, 30, 1, False), 101, 101, a("attend q < 11 attend k < 11 attend |q - k| < 30")),
    "spatial, first frame": Mask(
        lambda: spatial(11, 30, 1, True), 101, 101, a("attend q < 11 attend k < 41 attend |q - k| < 30")
    ),
    "temporal": Mask(
        lambda: temporal(11, 30, 4),
        101,
        101,
        a("attend q < 11 attend k < 11 attend |(q - 11) % 30 - (k - 11) % 30| < 4"),
    ),
    "block diffusion": Mask(
        lambda: block_diffusion(48, 8),
        96,
        96,
        a(
            "let block(x) = x % 48 // 8 attend block(q) == block(k) and q < 48 and k < 48",
            "attend block(q) > block(k) and q < 48 and k >= 48 attend block(q) >= block(k) and q >= 48 and k >= 48",
        ),
    ),
    "draft blocks": Mask(
        lambda: draft_blocks(25, 8), 97, 72, a("attend k < 25 attend q // 8 == (k - 25) // 8 and k - 25 <= q")
    ),
    "axial": Mask(lambda: axial(10), 100, 100, a("attend q // 10 == k // 10 attend q % 10 == k % 10")),
    "strided": Mask(lambda: strided(10), 100, 100, a("attend q - k < 10 attend (q - k) % 10 == 0 within causal")),
    "by head": Mask(lambda: by_head(7), 100, 100, a("attend q - k in 0..7 * (h + 1)"), heads=4),
}
