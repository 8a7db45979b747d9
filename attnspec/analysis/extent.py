"""At which length a pattern shows its structure: some times the numbers that it is written with."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.spec import Spec

_LEAST, _MOST = 64, 1 << 16
_FINE = 256
"""Blocks up to this size are shown by the dozen; what is larger a few times."""
_INPUTS = 2048
"""Enough for some documents, and for the buckets of a computed order."""
_CELLS, _LEAST_STRIDE = 256, 4
"""Half the cells of a picture, and strides so fine that no picture of this length shows them."""


def telling_length(spec: Spec) -> int:
    """A length, a power of two, at which windows, blocks and strides of a pattern can be told apart.

    Four times the largest number that positions are compared with, and four times the largest block (sixteen times,
    where blocks are small): longer, and a window becomes a line; shorter, and it is all there is. Half of that where
    fine strides would be lost, and no more than a segment where the pattern is that of one.

    >>> from attnspec.check.check import check_text
    >>> telling_length(check_text("attention a { attend 0 <= q - k < 512 }"))
    2048
    >>> telling_length(check_text("attention a { attend q // 64 == k // 64 }"))
    1024
    """
    roots = [*(branch.pred for branch in spec.branches), *(axis.size for axis in spec.axes)]
    roots += [size for item in spec.inputs for size in item.sizes]
    nodes = [node for root in roots for node in contents.walk(root)]
    found = [_LEAST, *(length for node in nodes for length in _of(node))]
    if spec.order is not None or any(item.form != "plain" for item in spec.inputs):
        found.append(_INPUTS)
    length = 1 << (min(max(found), _MOST) - 1).bit_length()
    strides = [node.right.value for node in nodes if isinstance(node, e.Mod) and isinstance(node.right, e.Int)]
    if strides and length > _CELLS * min(strides) > _CELLS * _LEAST_STRIDE:
        length //= 2
    return length if spec.recurrence is None else min(length, spec.recurrence.recur.size)


def _of(node: e.Node) -> Iterator[int]:
    match node:
        case e.FloorDiv(_, e.Int(value)) | e.Mod(_, e.Int(value)):
            yield value * (16 if value <= _FINE else 4)
        case e.Int(value):
            yield 4 * abs(value)
        case e.Index(items, _):
            yield from (4 * abs(value) for value in items if isinstance(value, int))
