"""What corners tell of a tile holds of all its pairs, and pairs that a comparison allows lie within its limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import attnspec
from attnspec.codegen.plan.corners import POSITIONS, SLOTS, certain, limit, possible
from attnspec.runtime.core.arguments import CallError
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.arrays import runs
from attnspec.spec.evaluate import holds, table, value_of
from tests.support.core_strategies import InputCase, input_cases, ordered_cases

CHUNK = e.Read("chunk", ())
DOC = np.asarray([0, 0, 1, 1, 1, 1, 1, 4, 4, 4, 5, 6, 6, 6, 6, 6, 6, 6, 6, 6, 9])
EDGES = {table(f"doc.{edge}"): found for edge, found in zip(("first", "last"), runs(DOC), strict=True)}
DIVISORS = (CHUNK, CHUNK, e.Add((CHUNK, e.Int(2))), e.Int(3))


@st.composite
def whole(draw: Any, names: tuple[str, ...], size: int = 3) -> e.IntExpr:
    """An integer over some variables, with divisors that come with the call."""
    if size == 0 and draw(st.integers(0, 3)) == 0:
        place = e.Add((e.Var(draw(st.sampled_from(names))), e.Int(draw(st.integers(-1, 1)))))
        return e.Read(draw(st.sampled_from(("doc.first", "doc.last"))), (place,))
    if size == 0:
        return draw(st.sampled_from([*map(e.Var, names), *map(e.Var, names), e.Int(draw(st.integers(-5, 9))), CHUNK]))  # type: ignore[no-any-return]
    a, by = draw(whole(names, size - 1)), draw(st.sampled_from(DIVISORS))
    b = draw(whole(names, 0))
    made = [e.FloorDiv(a, by), e.FloorDiv(a, by), e.Mod(a, by), e.Add((a, e.Mul(e.Int(draw(st.integers(-3, 3))), b)))]
    made += [e.Mul(a, CHUNK), e.Min((a, b)), e.Max((a, b)), e.Abs(a)]
    return draw(st.sampled_from(made))  # type: ignore[no-any-return]


@st.composite
def comparisons(draw: Any) -> e.Cmp:
    """Comparisons that may be solved: one side is the key's, the other the query's, or each has both."""
    left, right = draw(st.sampled_from([(("q",), ("k",)), (("k",), ("q",)), (("q", "k"), ("k",))]))
    return e.Cmp(draw(st.sampled_from(list(e.COMPARE))), draw(whole(left)), draw(whole(right)))


def ends(low: int, high: int, side: str) -> dict[str, int]:
    return {f"{side}_first": low, f"{side}_last": high}


@given(
    comparisons(), st.integers(1, 12), st.integers(-6, 30), st.integers(0, 30), st.integers(1, 12), st.integers(1, 12)
)
def test_comparisons(atom: e.Cmp, chunk: int, x: int, y: int, height: int, width: int) -> None:
    env: dict[str, Any] = {table("chunk"): np.asarray(chunk), **EDGES, "n": len(DOC), **ends(x, x + height - 1, "q")}
    q, keys = np.arange(x, x + height)[:, None], np.arange(-80, 90)
    every = np.broadcast_to(holds(atom, {**env, "q": q, "k": keys}), (height, len(keys)))
    here = every[:, (keys >= y) & (keys < y + width)]
    corners = {**env, **ends(y, y + width - 1, "k")}
    assert not here.any() or bool(holds(possible(atom, POSITIONS), corners))
    assert here.all() or not bool(holds(certain(atom, POSITIONS), corners))
    found = limit(atom, "k", POSITIONS)
    if found is not None:
        seen = keys[every.any(0)]
        for end, beyond in ((found.low, np.less), (found.high, np.greater)):
            assert end is None or not beyond(seen, value_of(end, env)[0]).any()


@given(input_cases() | ordered_cases(), st.data())
def test_predicates(case: InputCase, data: st.DataObject) -> None:
    """Of any form, with reads that corners do not tell of."""
    sides = POSITIONS if case.order is None else SLOTS
    for number, branch in enumerate(case.spec.branches):
        some, every = possible(branch.pred, sides), certain(branch.pred, sides)
        assume(contents.measure(some)[0] + contents.measure(every)[0] < 10_000)
        mask = case.masks()[number]
        rows = sorted(data.draw(st.tuples(*[st.integers(0, case.n_q - 1)] * 2)))
        keys = sorted(data.draw(st.tuples(*[st.integers(0, case.n - 1)] * 2)))
        tile = mask[:, :, rows[0] : rows[1] + 1, keys[0] : keys[1] + 1]
        for b in range(case.batch):
            for h in range(case.heads):
                env: dict[str, Any] = {table(name): array for name, array in case.arrays.items()}
                env |= case.sizes.parameters(h, b) | ends(*keys, "k")
                env |= ends(rows[0] + case.sizes.first, rows[1] + case.sizes.first, "q")
                assert not tile[b, h].any() or bool(holds(some, env))
                assert tile[b, h].all() or not bool(holds(every, env))


CHUNKED = "attention a { input chunk: int  attend q // chunk == k // chunk  within causal }"


@pytest.mark.parametrize("chunk", [64, 1000, 5000])
def test_tiles_are_those_of_a_constant(chunk: int) -> None:
    """As many are visited, and as many are full."""
    given, known = (
        attnspec.compile(CHUNKED),
        attnspec.compile(CHUNKED.replace("input chunk: int", f"let chunk = {chunk}")),
    )
    for n in (2048, 16384):
        one, other = given.cost(n=n, chunk=chunk), known.cost(n=n)
        assert (one.pairs, one.tiles, one.full, one.partial) == (other.pairs, other.tiles, other.full, other.partial)


def test_a_divisor_that_is_not_positive_is_refused() -> None:
    attend = attnspec.compile(
        "attention a { input chunk: int[batch, heads]  attend q // (chunk - 1) == k // (chunk - 1) }"
    )
    message = (
        r"`chunk\[b, h\] - 1` divides, so it must be at least 1, but input `chunk` makes it 0 for batch entry 0, head 1"
    )
    with pytest.raises(CallError, match=message):
        attend.cost(n=64, heads=2, chunk=[[5, 1]])
    with pytest.raises(CallError, match=message):
        attend.mask(n=64, heads=2, chunk=[[5, 1]])
