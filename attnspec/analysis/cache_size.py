"""How large a cache of keys and values is that keeps what a pattern has to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from attnspec.analysis.retention import Kept, Retention
from attnspec.relation.sizes import Sizes


@dataclass(frozen=True)
class KeyHeads:
    """What neighbouring key heads keep: all that some of their query heads has to keep in some batch entry."""

    heads: range
    retention: Retention


def key_heads(found: Sequence[Kept], sizes: Sizes) -> tuple[KeyHeads, ...]:
    """What key heads keep, from what query heads have to keep; neighbours that keep the same stand together."""
    group = sizes.heads // sizes.kv_heads
    out: list[KeyHeads] = []
    for head in range(sizes.kv_heads):
        of_group = {*range(head * group, (head + 1) * group)}
        kept = [item.retention for item in found if item.heads is None or of_group & {*item.heads}]
        one = reduce(Retention.joined, kept)
        if out and out[-1].retention == one:
            out[-1] = KeyHeads(range(out[-1].heads.start, head + 1), one)
        else:
            out.append(KeyHeads(range(head, head + 1), one))
    return tuple(out)


@dataclass(frozen=True)
class CacheSize:
    """What each key head keeps, and the bytes of keys and values in one layer after each of some numbers of tokens."""

    kept: tuple[KeyHeads, ...]
    lengths: tuple[int, ...]
    bytes: tuple[int, ...]


def cache_size(found: Sequence[Kept], sizes: Sizes, lengths: Sequence[int], width: int) -> CacheSize:
    """The size of a cache whose keys and values take ``width`` bytes for each position of each key head.

    >>> from attnspec.analysis.retention import Ring
    >>> window = [Kept(None, None, Retention((), (Ring(1023),)))]
    >>> cache_size(window, Sizes(1, 1, 8, 2), [100, 5000], 512).bytes
    (102400, 1047552)
    """
    kept = key_heads(found, sizes)
    each = [sum(len(item.heads) * item.retention.stored(length) for item in kept) for length in lengths]
    return CacheSize(kept, tuple(lengths), tuple(keys * sizes.batch * width for keys in each))
