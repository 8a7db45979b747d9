"""What a Triton kernel asks of the inputs before it visits tiles: a window found in sorted inputs, blocks that are true.

The C++ kernels ask the same in ``cpp/decide.hpp``; what is asked is :class:`attnspec.codegen.atoms.Tests`.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnspec import expr as e
from attnspec.codegen import triton_values
from attnspec.codegen.atoms import SameRun
from attnspec.codegen.plan import Pass
from attnspec.codegen.triton_side import Side
from attnspec.codegen.triton_values import Function


def functions(item: Pass) -> list[Function]:
    """The functions that what follows calls."""
    rows = [_row(run, n, name) for n, run in enumerate(item.tests.runs) for name in "qk"]
    return [*rows, *(_block(atom, n) for n, atom in enumerate(_required_blocks(item)))]


def window(item: Pass, outer: Side, inner: Side) -> Iterator[str]:
    """Narrow ``lo .. hi`` to inner tiles that hold places with a value that the outer tile has too."""
    if not item.tests.runs and not item.tests.blocks:
        return
    low, high = outer.slots("o")
    yield f"extent_first = c + {outer.stride} * ({low})"
    yield f"extent_last = c + {outer.stride} * ({high})"
    for n, run in enumerate(item.tests.runs):
        for name in "qk":
            row = _row(run, n, name)
            yield f"{name}_run{n}, {name}_run{n}_size = {_call(row)}"
        if run.atom in item.tests.required:
            here, there = f"{outer.name}_run{n}", f"{inner.name}_run{n}"
            yield f"begin, end = places_of({here}, {here}_size, extent_first, extent_last, {there}, {there}_size)"
            yield f"lo = tl.maximum(lo, floor_div(floor_div(begin - c, {inner.stride}), {inner.size}))"
            yield f"hi = tl.minimum(hi, floor_div(floor_div(end - c, {inner.stride}), {inner.size}))"


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
        slot = f"floor_div(begin - c + {inner.stride - 1}, {inner.stride})"
        yield f"whole_lo = tl.maximum(whole_lo, floor_div({slot} + {inner.size - 1}, {inner.size}))"
        yield f"whole_hi = tl.minimum(whole_hi, floor_div(floor_div(end - c, {inner.stride}) + 1, {inner.size}) - 1)"
    yield "whole_hi = tl.maximum(whole_hi, whole_lo - 1)"
    yield "hi_before, lo_after = tl.minimum(hi, whole_lo - 1), tl.maximum(lo, whole_hi + 1)"


def block(item: Pass, outer: Side, inner: Side, tile: str) -> str | None:
    """The head of an ``if`` that asks for the blocks in which the pattern must be true; None where there is nothing."""
    atoms = _required_blocks(item)
    if not atoms:
        return None
    low, _ = inner.slots(f"({tile})")
    names = {outer.name: "extent_first", inner.name: f"(c + {inner.stride} * ({low}))"}
    tests = [_call(_block(atom, n), q=names["q"], k=names["k"]) for n, atom in enumerate(atoms)]
    return f"if {' & '.join(tests)}:"


def _required_blocks(item: Pass) -> list[e.Pred]:
    return [atom for atom in item.tests.blocks if atom in item.tests.required]


def _block(atom: e.Pred, n: int) -> Function:
    return triton_values.allowed(atom, f"block{n}")


def _row(run: SameRun, n: int, name: str) -> Function:
    read = run.query if name == "q" else run.key
    return triton_values.row(read, f"{name}_row{n}")


def _call(function: Function, **given: str) -> str:
    return f"{function.name}({', '.join(given.get(a, a) for a in function.arguments)})"
