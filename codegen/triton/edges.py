"""Tiles of keys that a part cuts: full ones there hold keys that are not given, and are visited as partial tiles are.

A part holds some keys of the whole pattern. Where a stride leads from one to the next, the tiles that hold them all are
a range; where a list says where keys are, any tile may lack some.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attnspec.codegen.triton.loops import Run, renamed
from attnspec.codegen.triton.side import Side

Ranges = Sequence[tuple[str, str]]
"""Ranges of inner tiles, by the names of their ends."""


def find(ranges: Ranges, inner: Side) -> Iterator[str]:
    """Of each range ``in_lo0 .. in_hi0`` are the tiles that hold all their keys; ``before0`` and ``after0`` end it."""
    first, last = inner.whole_tiles()
    for n, (lo, hi) in enumerate(ranges):
        yield f"in_lo{n} = tl.maximum({lo}, {first})"
        yield f"in_hi{n} = tl.maximum(tl.minimum({hi}, {last}), in_lo{n} - 1)"
        yield f"before{n}, after{n} = tl.minimum({hi}, in_lo{n} - 1), tl.maximum({lo}, in_hi{n} + 1)"


def inside(found: Sequence[Run], ranges: Ranges, inner: Side) -> tuple[Run, ...]:
    """The runs of full tiles that are full."""
    if inner.listed:
        return ()
    return tuple(run for n, _ in enumerate(ranges) for run in renamed(found, {"lo": f"in_lo{n}", "hi": f"in_hi{n}"}))


def outside(found: Sequence[Run], ranges: Ranges, inner: Side) -> tuple[Run, ...]:
    """Those that are partial."""
    if inner.listed:
        return within(found, ranges)
    cut = [name for n, (lo, hi) in enumerate(ranges) for name in ((lo, f"before{n}"), (f"after{n}", hi))]
    return within(found, cut)


def within(found: Sequence[Run], ranges: Ranges) -> tuple[Run, ...]:
    """Runs in each of the ranges."""
    return tuple(run for lo, hi in ranges for run in renamed(found, {"lo": lo, "hi": hi}))
