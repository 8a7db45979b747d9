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


_LONG = 1 << 33
_WORTH = 0.9
"""Key heads are kept apart from their neighbours where that takes less than so much of what they take together."""


def key_heads(found: Sequence[Kept], sizes: Sizes) -> tuple[KeyHeads, ...]:
    """What key heads keep, from what query heads have to keep; neighbours that keep about the same stand together."""
    group = sizes.heads // sizes.kv_heads
    out: list[KeyHeads] = []
    for head in range(sizes.kv_heads):
        of_group = {*range(head * group, (head + 1) * group)}
        kept = [item.retention for item in found if item.heads is None or of_group & {*item.heads}]
        out.append(KeyHeads(range(head, head + 1), reduce(Retention.joined, kept)))
        while len(out) > 1 and (both := _together(*out[-2:])) is not None:
            out[-2:] = [both]
    return tuple(out)


def _together(a: KeyHeads, b: KeyHeads) -> KeyHeads | None:
    """Neighbours as one; None where they would hold much more."""
    one, kept = range(a.heads.start, b.heads.stop), a.retention.joined(b.retention)
    if (a.retention.growing is None) != (b.retention.growing is None):
        return None
    apart = sum(len(item.heads) * item.retention.stored(_LONG) for item in (a, b))
    return None if apart < _WORTH * len(one) * kept.stored(_LONG) else KeyHeads(one, kept)


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
