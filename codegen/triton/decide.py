"""What a Triton kernel asks of the inputs before it visits tiles: windows in sorted inputs, blocks that are true.

The C++ kernels ask the same in ``cpp/decide.hpp``; what is asked is :class:`attnspec.codegen.plan.tile_tests.Tests`.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.codegen.plan.plan import Pass
from attnspec.codegen.triton.context import Context
from attnspec.codegen.triton.functions import Function
from attnspec.codegen.triton.side import Side, divided
from attnspec.spec import expr as e


def predicates(item: Pass) -> list[e.Pred]:
    """The predicates that a kernel of a pass evaluates: in partial tiles, and once for a tile."""
    return [item.tests.rest(item.pred), *_blocks(item)]


def rows(item: Pass) -> list[e.Read]:
    """The rows of sorted inputs that a kernel of a pass searches."""
    return [_row(read) for run in item.tests.runs for read in (run.query, run.key)]


def functions(own: Context, item: Pass) -> list[Function]:
    """The functions that the kernels of a pass call for these."""
    return [*map(own.allowed, predicates(item)), *map(own.row, rows(item))]


def window(own: Context, item: Pass, outer: Side, inner: Side) -> Iterator[str]:
    """Narrow ``lo .. hi`` to inner tiles that hold places with a value that the outer tile has too."""
    if not item.tests.runs and not item.tests.blocks:
        return
    low, high = outer.slots("o")
    yield f"extent_first = {outer.position(low)}"
    yield f"extent_last = {outer.position(high)}"
    for n, run in enumerate(item.tests.runs):
        for name, read in (("q", run.query), ("k", run.key)):
            yield f"{name}_run{n}, {name}_run{n}_size = {own.call(own.row(_row(read)))}"
        if run.atom in item.tests.required:
            here, there = f"{outer.name}_run{n}", f"{inner.name}_run{n}"
            yield f"begin, end = places_of({here}, {here}_size, extent_first, extent_last, {there}, {there}_size)"
            yield f"lo = tl.maximum(lo, {divided(inner.slot('begin'), inner.size)})"
            yield f"hi = tl.minimum(hi, {divided(inner.slot('end'), inner.size)})"


def splits(item: Pass) -> bool:
    """Whether the tiles that inputs make full are a run of tiles, found once for each outer tile."""
    return item.tests.whole and bool(item.tests.runs) and not item.tests.blocks


def blocks_decide(item: Pass) -> bool:
    """Whether a tile that inputs can make full is full once its blocks are true."""
    return item.tests.whole and not item.tests.runs and all(atom in item.tests.required for atom in item.tests.blocks)


def whole(item: Pass, outer: Side, inner: Side) -> Iterator[str]:
    """The inner tiles all of whose places have the one value of the outer tile: ``whole_lo .. whole_hi``.

    Before them are ``lo .. hi_before``, after them ``lo_after .. hi``.
    """
    yield "whole_lo, whole_hi = lo, hi"
    for n, _ in enumerate(item.tests.runs):
        here, there = f"{outer.name}_run{n}", f"{inner.name}_run{n}"
        yield f"begin, end = run_of({here}, {here}_size, extent_first, extent_last, {there}, {there}_size)"
        first, last = inner.slot("begin", up=True), inner.slot("end")
        yield f"whole_lo = tl.maximum(whole_lo, {divided(f'{first} + {inner.size - 1}', inner.size)})"
        yield f"whole_hi = tl.minimum(whole_hi, {divided(f'{last} + 1', inner.size)} - 1)"
    yield "whole_hi = tl.maximum(whole_hi, whole_lo - 1)"
    yield "hi_before, lo_after = tl.minimum(hi, whole_lo - 1), tl.maximum(lo, whole_hi + 1)"


def block(own: Context, item: Pass, outer: Side, inner: Side, tile: str) -> str | None:
    """The head of an ``if`` that asks for the blocks in which the pattern must be true; None where there is nothing."""
    atoms = _blocks(item)
    if not atoms:
        return None
    names = {outer.name: "extent_first", inner.name: inner.position(inner.slots(f"({tile})")[0])}
    return f"if {' & '.join(own.call(own.allowed(atom), **names) for atom in atoms)}:"


def _blocks(item: Pass) -> list[e.Pred]:
    return [atom for atom in item.tests.blocks if atom in item.tests.required]


def _row(read: e.Read) -> e.Read:
    """A read that stands for its row: the last index does not matter."""
    return e.Read(read.name, (*read.indices[:-1], e.Int(0)))
