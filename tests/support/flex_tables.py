"""Mask functions in the form that FlexAttention takes, from their definitions, that read tables of a call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.support.flex_masks import Mask, MaskMod, causal, lookback

LENGTHS = torch.tensor([13, 1, 40, 7, 39])
STARTS = torch.cat([torch.zeros(1, dtype=torch.int64), LENGTHS.cumsum(0)]).int()
DOC = torch.repeat_interleave(torch.arange(5), LENGTHS).int()
BATCHED = torch.stack([DOC, torch.repeat_interleave(torch.tensor([2, 5]), torch.tensor([60, 40])).int()])


def documents(doc: Tensor, inner: MaskMod) -> MaskMod:
    return lambda b, h, i, j: (doc[i] == doc[j]) & inner(b, h, i, j)


def documents_batched(doc: Tensor) -> MaskMod:
    return lambda b, h, i, j: (doc[b, i] == doc[b, j]) & (j <= i)


def documents_inside(doc: Tensor, starts: Tensor, inner: MaskMod) -> MaskMod:
    """The inner mask at positions that each document counts from 0."""

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return inner(b, h, i - starts[doc[i]], j - starts[doc[j]]) & (doc[i] == doc[j])

    return mask


def document_interval(doc: Tensor, starts: Tensor) -> MaskMod:
    """Packed causal documents as an interval of keys for each query."""
    return lambda b, h, i, j: (j <= i) & (starts[doc[i]] <= j)


def shared_prefixes(doc: Tensor, starts: Tensor, prompt: Tensor) -> MaskMod:
    """Prompts and answers packed behind one another: an answer sees all of its prompt and itself, causally."""

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        own, asked = doc[i], prompt[doc[i]]
        itself = (starts[own] <= j) & (j <= i)
        return itself | ((asked != own) & (starts[asked] <= j) & (j < starts[asked + 1]))

    return mask


def cross_attention(spans: Tensor, tokens: int) -> MaskMod:
    """Flamingo: keys are images of so many tokens each, queries see those whose span of text they are in."""
    image = torch.arange(len(spans)).repeat_interleave(tokens)

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        span = spans[image[j]]
        return (span[0] <= i) & (i < span[1])

    return mask


def flagged(radius: int, flags: Tensor) -> MaskMod:
    """A band, and global tokens that a table marks."""
    return lambda b, h, i, j: (torch.abs(i - j) <= radius) | flags[i] | flags[j]


def ancestors(parents: list[int]) -> Tensor:
    found = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            found[node] |= found[parent]
    return found


def drafted(cached: int, tree: Tensor) -> MaskMod:
    """What is cached, and the ancestors of a drafted token."""

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j < cached) | tree[i, torch.clamp(j - cached, min=0)]

    return mask


def chosen_tiles(top: Tensor, tile: int) -> MaskMod:
    """VSA: the tiles of keys that each tile of queries lists."""
    return lambda b, h, i, j: (top[b, h, i // tile] == j // tile).any(-1)


def filled_tiles(inner: MaskMod, filled: Tensor, tile: int) -> MaskMod:
    """Tiles that are not full of keys."""
    return lambda b, h, i, j: inner(b, h, i, j) & (j % tile < filled[j // tile])


def tile_map(keep: Tensor, tile: int) -> MaskMod:
    return lambda b, h, i, j: keep[b, h, i // tile, j // tile]


def transfusion(image: Tensor) -> MaskMod:
    """Causal, and both ways inside an image; 0 is text."""
    return lambda b, h, i, j: (j <= i) | ((image[b, i] == image[b, j]) & (image[b, i] > 0))


def padded(lengths: Tensor) -> MaskMod:
    return lambda b, h, i, j: j < lengths[b]


def padded_left(starts: Tensor) -> MaskMod:
    return lambda b, h, i, j: (j >= starts[b]) & (j <= i)


def hidden(keep: Tensor) -> MaskMod:
    """A padding mask of transformers' form, and causal."""
    return lambda b, h, i, j: keep[b, j] & (j <= i)


def clusters(bucket: Tensor) -> MaskMod:
    return lambda b, h, i, j: bucket[h, i] == bucket[h, j]


def any_pairs(table: Tensor) -> MaskMod:
    return lambda b, h, i, j: table[i, j]


def paged(owner: Tensor, page: int) -> MaskMod:
    """Keys in pages of a pool: which block of a sequence each of them holds, -1 for none of its own."""

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        block = owner[b, j // page]
        return (block >= 0) & (block * page + j % page <= i)

    return mask


def widths(width: Tensor) -> MaskMod:
    return lambda b, h, i, j: (j <= i) & (i - j < width[h])


def offset(by: Tensor, inner: MaskMod) -> MaskMod:
    """A step of generation: query row 0 stands behind what is cached."""
    return lambda b, h, i, j: inner(b, h, i + by, j)


def made(seed: int, maker: Callable[[torch.Generator], Tensor]) -> Tensor:
    return maker(torch.Generator().manual_seed(seed))


_SPANS = torch.tensor([[0, 20], [20, 21], [35, 80]])
_FLAGS = torch.zeros(100, dtype=torch.bool)
_FLAGS[torch.tensor([0, 31, 99])] = True
_TREE = ancestors([-1, 0, 0, 1, 1, 2, 5, 5, 3, 0])
_TOP = made(0, lambda g: torch.stack([torch.randperm(7, generator=g)[:3] for _ in range(2 * 4 * 7)])).view(2, 4, 7, 3)
_MAP = made(1, lambda g: torch.rand(2, 4, 7, 7, generator=g) < 0.4)
_IMAGE = torch.zeros(2, 100, dtype=torch.int32)
_IMAGE[0, 10:30], _IMAGE[0, 60:75], _IMAGE[1, 5:50] = 1, 2, 1
_KEEP = torch.arange(100) >= torch.tensor([0, 23])[:, None]
_FILLED = torch.tensor([16, 9, 16, 16, 1, 16, 4], dtype=torch.int32)
_OWNER = torch.tensor([[3, -1, 0, 2, -1, 1], [-1, 0, -1, -1, 1, -1]])

TABLES = {
    "documents": Mask(lambda: documents(DOC, causal()), 100, 100, ""),
    "documents, whole": Mask(lambda: documents(DOC, lambda b, h, i, j: i >= 0), 100, 100, ""),
    "documents, a batch": Mask(lambda: documents_batched(BATCHED), 100, 100, "", batch=2),
    "documents by offsets": Mask(lambda: documents_inside(DOC, STARTS, causal()), 100, 100, ""),
    "documents by offsets, window": Mask(lambda: documents_inside(DOC, STARTS, lookback(4)), 100, 100, ""),
    "documents as intervals": Mask(lambda: document_interval(DOC, STARTS), 100, 100, ""),
    "shared prefixes": Mask(lambda: shared_prefixes(DOC, STARTS, torch.tensor([0, 0, 2, 2, 2])), 100, 100, ""),
    "cross attention": Mask(lambda: cross_attention(_SPANS, 9), 27, 80, ""),
    "global and local by flags": Mask(lambda: flagged(9, _FLAGS), 100, 100, ""),
    "drafted tree": Mask(lambda: drafted(30, _TREE), 40, 10, ""),
    "chosen tiles": Mask(lambda: chosen_tiles(_TOP, 16), 112, 112, "", heads=4, batch=2),
    "chosen tiles, filled": Mask(
        lambda: filled_tiles(chosen_tiles(_TOP, 16), _FILLED, 16), 112, 112, "", heads=4, batch=2
    ),
    "map of tiles": Mask(lambda: tile_map(_MAP, 16), 112, 112, "", heads=4, batch=2),
    "map of tiles, filled": Mask(lambda: filled_tiles(tile_map(_MAP, 16), _FILLED, 16), 112, 112, "", heads=4, batch=2),
    "transfusion": Mask(lambda: transfusion(_IMAGE), 100, 100, "", batch=2),
    "padded": Mask(lambda: padded(torch.tensor([100, 41])), 100, 60, "", batch=2),
    "padded on the left": Mask(lambda: padded_left(torch.tensor([0, 41])), 100, 100, "", batch=2),
    "hidden keys": Mask(lambda: hidden(_KEEP), 100, 100, "", batch=2),
    "clusters": Mask(
        lambda: clusters(made(2, lambda g: torch.randint(0, 5, (4, 100), generator=g))), 100, 100, "", heads=4
    ),
    "any pairs": Mask(lambda: any_pairs(made(3, lambda g: torch.rand(60, 100, generator=g) < 0.3)), 100, 60, ""),
    "paged": Mask(lambda: paged(_OWNER, 16), 96, 60, "", batch=2),
    "widths of heads": Mask(lambda: widths(torch.tensor([3, 90, 17, 40])), 100, 100, "", heads=4),
    "offset": Mask(lambda: offset(torch.tensor(70), lookback(21)), 100, 30, ""),
}
