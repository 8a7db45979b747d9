"""What a Triton kernel asks of the inputs before it visits tiles: windows in sorted inputs, blocks that are true.

What is asked is :class:`attnspec.codegen.plan.tile_tests.Tests`; C++ kernels ask it in ``cpp/library/decide.hpp``.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.codegen.plan.corners import Limit
from attnspec.codegen.plan.plan import Pass
from attnspec.codegen.plan.spans import ALWAYS
from attnspec.codegen.triton.context import Context
from attnspec.codegen.triton.functions import Function
from attnspec.codegen.triton.side import Side, divided
from attnspec.spec import expr as e
from attnspec.spec import make


def predicates(pass_: Pass) -> list[e.Pred]:
    """The predicates that a kernel of a pass evaluates: in partial tiles, and once for a tile."""
    tests = pass_.tests
    corners = [tests.live, tests.every, make.negation(tests.every), tests.query_live, tests.key_live]
    corners += [span.alive for span in (*tests.key_spans, *tests.query_spans)]
    return [tests.rest(pass_.pred), *_blocks(pass_), *(pred for pred in corners if not isinstance(pred, e.Bool))]


def rows(pass_: Pass) -> list[e.Read]:
    """The rows of sorted inputs that a kernel of a pass searches."""
    return [_row(read) for run in pass_.tests.runs for read in (run.query, run.key)]


def ends(pass_: Pass) -> list[e.IntExpr]:
    """The ends of the tiles that corners leave."""
    tests = pass_.tests
    spans = (bounds for span in (*tests.key_spans, *tests.query_spans) for bounds in span.limits)
    found = (end for one in (*tests.key_limits, *tests.query_limits, *spans) for end in (one.low, one.high))
    return [end for end in found if end is not None]


def functions(context: Context, pass_: Pass) -> list[Function]:
    """The functions that the kernels of a pass call for these."""
    return [
        *map(context.allowed, predicates(pass_)),
        *map(context.row, rows(pass_)),
        *map(context.end, ends(pass_)),
    ]


def extent(pass_: Pass, outer: Side) -> Iterator[str]:
    """The first and last place of the outer tile, if anything is asked of it."""
    if pass_.tests.asks:
        for name, slot in zip(("first", "last"), outer.slots("o"), strict=True):
            yield f"extent_{name} = {outer.position(slot)}"


def window(context: Context, pass_: Pass, outer: Side, inner: Side) -> Iterator[str]:
    """Narrow ``lo .. hi`` to inner tiles that hold places with a value that the outer tile has too."""
    for n, run in enumerate(pass_.tests.runs):
        for name, read in (("q", run.query), ("k", run.key)):
            yield f"{name}_run{n}, {name}_run{n}_size = {context.call(context.row(_row(read)))}"
        if run.atom in pass_.tests.required:
            here, there = f"{outer.name}_run{n}", f"{inner.name}_run{n}"
            yield f"begin, end = places_of({here}, {here}_size, extent_first, extent_last, {there}, {there}_size)"
            yield f"lo = tl.maximum(lo, {divided(inner.slot('begin'), inner.size)})"
            yield f"hi = tl.minimum(hi, {divided(inner.slot('end'), inner.size)})"
    yield from _narrow(
        context, outer, inner, ("lo", "hi"), pass_.tests.limits(outer.name), pass_.tests.alive(outer.name)
    )
    spans = pass_.tests.spans(outer.name)
    for name, span in zip(("one", "other"), spans, strict=False):
        yield f"{name}_lo, {name}_hi = lo, hi"
        yield from _narrow(context, outer, inner, (f"{name}_lo", f"{name}_hi"), span.limits, span.alive)
    if spans:
        yield "lo, near_hi, far_lo, hi = apart(one_lo, one_hi, other_lo, other_hi)"


def _narrow(
    context: Context, outer: Side, inner: Side, names: tuple[str, str], limits: tuple[Limit, ...], alive: e.Pred
) -> Iterator[str]:
    """Narrow a range of inner tiles to what an outer tile's corners leave."""
    low, high = names
    corners = {f"{outer.name}_first": "extent_first", f"{outer.name}_last": "extent_last"}
    for bounds in limits:
        for name, function, end in ((low, "tl.maximum", bounds.low), (high, "tl.minimum", bounds.high)):
            if end is not None:
                place = inner.slot(context.call(context.end(end), **corners))
                yield f"{name} = {function}({name}, {divided(place, inner.size)})"
    if alive != ALWAYS:
        yield f"{high} = tl.where({context.call(context.allowed(alive), **corners)}, {high}, {low} - 1)"


def splits(pass_: Pass) -> bool:
    """Whether the tiles that inputs make full are a run of tiles, found once for each outer tile."""
    return runs_decide(pass_) and not pass_.tests.corners


def runs_decide(pass_: Pass) -> bool:
    """Whether a tile that inputs can make full is full in such a run, if its corners say so too."""
    return pass_.tests.whole and bool(pass_.tests.runs) and not pass_.tests.blocks


def blocks_decide(pass_: Pass) -> bool:
    """Whether a tile that inputs can make full is full once its blocks are true, and what its corners must say is."""
    return (
        pass_.tests.whole and not pass_.tests.runs and all(atom in pass_.tests.required for atom in pass_.tests.blocks)
    )


def whole(pass_: Pass, outer: Side, inner: Side) -> Iterator[str]:
    """Inner tiles all of whose places are there and have the one value of the outer tile: ``whole_lo .. whole_hi``."""
    yield "whole_lo, whole_hi = lo, hi"
    if inner.cut:
        first, last = inner.whole_tiles()
        yield f"whole_lo, whole_hi = tl.maximum(lo, {first}), tl.minimum(hi, {last})"
    for n, _ in enumerate(pass_.tests.runs):
        here, there = f"{outer.name}_run{n}", f"{inner.name}_run{n}"
        yield f"begin, end = run_of({here}, {here}_size, extent_first, extent_last, {there}, {there}_size)"
        first, last = inner.slot("begin", up=True), inner.slot("end")
        yield f"whole_lo = tl.maximum(whole_lo, {divided(f'{first} + {inner.size - 1}', inner.size)})"
        yield f"whole_hi = tl.minimum(whole_hi, {divided(f'{last} + 1', inner.size)} - 1)"
    yield "whole_hi = tl.maximum(whole_hi, whole_lo - 1)"


def asks_twice(pass_: Pass, inner: Side) -> bool:
    """Whether some tiles that inputs may make full are not, though their blocks are true."""
    return bool(pass_.tests.runs) or pass_.tests.every != ALWAYS or inner.cut


def ask(context: Context, pass_: Pass, outer: Side, inner: Side, tile: str, every: bool | None = None) -> str | None:
    """The head of an ``if`` that asks of a tile whether inputs leave anything of it; None where there is nothing.

    With ``every`` it asks beside whether its corners say that they leave all of it, or (False) that they do not; where
    there are runs, or a part cuts tiles, they leave all of it only from ``whole_lo`` to ``whole_hi``.
    """
    low, high = (inner.position(slot) for slot in inner.slots(f"({tile})"))
    names = {outer.name: "extent_first", inner.name: low}
    names |= {f"{outer.name}_first": "extent_first", f"{outer.name}_last": "extent_last"}
    names |= {f"{inner.name}_first": low, f"{inner.name}_last": high}
    tests = pass_.tests
    atoms = [*_blocks(pass_), *([] if tests.live == ALWAYS else [tests.live])]
    asked = [context.call(context.allowed(atom), **names) for atom in atoms]
    if every is not None and (tests.runs or inner.cut):
        told = f"({tile} >= whole_lo) & ({tile} <= whole_hi)"
        if tests.every != ALWAYS:
            told += f" & {context.call(context.allowed(tests.every), **names)}"
        asked.append(told if every else f"(({told}) ^ True)")
    elif every is not None and tests.every != ALWAYS:
        asked.append(context.call(context.allowed(tests.every if every else make.negation(tests.every)), **names))
    return f"if {' & '.join(asked)}:" if asked else None


def _blocks(pass_: Pass) -> list[e.Pred]:
    return [atom for atom in pass_.tests.blocks if atom in pass_.tests.required]


def _row(read: e.Read) -> e.Read:
    """A read that stands for its row: the last index does not matter."""
    return e.Read(read.name, (*read.indices[:-1], e.Int(0)))
