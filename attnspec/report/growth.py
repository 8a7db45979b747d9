"""How a pattern's operations grow with length."""

from __future__ import annotations

import math
import time

from attnspec.analysis.segments import segmented
from attnspec.codegen.cost.cost import cost
from attnspec.codegen.cost.counted import TooMany
from attnspec.codegen.plan.plan import Plan
from attnspec.relation.count import TooIrregular
from attnspec.relation.relation import Relation
from attnspec.relation.sizes import MOST, Sizes, resized
from attnspec.spec.axes import lengths

_GROWTH = 16
_SECONDS = 4.0

Growth = tuple[tuple[int, int, int], ...]
"""Lengths, with the pairs and operations of a forward pass."""


def growth(made: Plan, sizes: Sizes, dim: int, itemsize: int, by_example: bool) -> Growth:
    """What calls from a sixteenth to 16 times as long cost, those longer than the call as far as it is counted quickly.

    Inputs that are numbers have example values; with ``by_example`` all have them, and no longer calls are counted.
    """
    rows: list[tuple[int, int, int]] = []
    until = time.monotonic() + _SECONDS  # longer lengths are left out where counting is slow
    spec, base = made.relation.spec, sizes.n if sizes.m is None else sizes.m
    if by_example or made.relation.reads_scalars:
        from attnspec.runtime.prepare.given import contents_of, examples  # with torch
    for factor in (1, 4, 16, 64, 256):
        n = base * factor // _GROWTH
        if len(rows) > 1 and n > base and (by_example or time.monotonic() > until):
            break
        if 1 <= n <= MOST and max(lengths(spec.axes, n), default=0) <= MOST:
            grown, contents = resized(spec, sizes, n), None
            if by_example or made.relation.reads_scalars:
                shown = examples(spec, grown)
                grown, contents = shown.sizes, contents_of(spec, shown) if by_example else None
            try:
                found = cost(made, grown, dim, dim, itemsize, contents)
            except (TooIrregular, TooMany):
                if len(rows) > 1:
                    break
                raise
            rows.append((n, found.pairs, found.flops))
    return tuple(rows)


def of_segments(relation: Relation, n: int, sizes: Sizes, dim: int) -> Growth:
    """The same of whole sequences that are run segment by segment, from a sixteenth of ``n`` tokens to 16 times it."""
    lengths = [length for factor in (1, 4, 16, 64, 256) if 1 <= (length := n * factor // _GROWTH) <= MOST]
    pairs = [segmented(relation, length, sizes).pairs for length in lengths]
    return tuple((length, found, 4 * dim * found) for length, found in zip(lengths, pairs, strict=True))


def exponent(growth: Growth) -> float | None:
    """The slope of operations over length, on logarithmic axes, at the long end."""
    if len(growth) < 2 or not growth[-2][2] or not growth[-1][2]:
        return None
    (n, _, flops), (longer, _, more) = growth[-2:]
    return math.log(more / flops) / math.log(longer / n)
