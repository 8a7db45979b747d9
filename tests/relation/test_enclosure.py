"""Relations of patterns with inputs, mixtures and orders: sets that enclose the pattern, exact where they can be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from attnspec.analysis.cache_need import cache_need
from attnspec.analysis.compare import compare
from attnspec.analysis.empty_rows import empty_rows
from attnspec.analysis.picture import EMPTY, FULL, OPEN, PARTIAL, cells
from attnspec.analysis.reach import reach
from attnspec.check.check import check_text
from attnspec.errors.diagnostic import SpecError
from attnspec.relation.lower import lower
from attnspec.relation.presburger import Pairs, TooHard
from attnspec.relation.relation import DependsOnInputs, NoAnswer, Relation, inputs_of, scalars
from attnspec.relation.sizes import Sizes
from attnspec.spec import expr as e
from attnspec.spec.bounds import fits
from attnspec.spec.parts import Axis, Clause, Input, Order
from attnspec.spec.real import Cast, Choose, Real
from attnspec.spec.spec import Spec
from tests.support.core_strategies import INPUTS, InputCase, input_cases, ordered_cases
from tests.support.strategies import Case
from tests.support.strategies import cases as text_cases


def lowered(case: InputCase) -> Relation:
    """The relation of a case; one that is beyond the solver's limit is no example."""
    try:
        return lower(case.spec, case.heads)
    except SpecError as error:
        assume(error.diagnostics[0].code != "E404")
        raise


@given(input_cases() | ordered_cases())
def test_sets_enclose_the_pattern(case: InputCase) -> None:
    relation = lowered(case)
    sizes = case.sizes
    for number, want in enumerate(case.masks()):
        for h in range(case.heads):
            part = relation.of_head(h).parts[number]
            for b in range(case.batch):
                most, least = (relation.cells(sizes, h, b, pairs) for pairs in (part.pairs, part.sure))
                assert not (want[b, h] & ~most).any()
                assert not (least & ~want[b, h]).any()
                if part.exact:
                    assert not part.unknown
                    assert (most == least).all()


@given(text_cases(inputs=True))
def test_sets_of_texts_enclose_their_mask(case: Case) -> None:
    """The same through the checker, against the mask that defines a spec."""
    spec = case.spec()
    try:
        relation = lower(spec, case.heads)
    except SpecError as error:
        assume(error.diagnostics[0].code != "E404")
        raise
    want = spec.mask(case.n, case.n_q, case.heads, case.batch, inputs=case.inputs)
    known = scalars(spec, case.inputs)
    sizes = Sizes(case.n, case.n_q, case.heads, case.heads, case.batch, spec.align == "end", scalars=known)
    assert not (want & ~relation.bound(sizes, "pairs")).any()
    assert not (relation.bound(sizes, "sure") & ~want).any()


@given(input_cases())
def test_masks_count_how_often_a_mixture_sees_a_pair(case: InputCase) -> None:
    relation = lowered(case)
    if not relation.exact:
        with pytest.raises(DependsOnInputs) as caught:
            relation.mask(case.sizes)
        assert set(caught.value.names) <= set(case.arrays)
        return
    want = sum(m.astype(int) * b.times for m, b in zip(case.masks(), case.spec.branches, strict=True))
    found = relation.mask(case.sizes)
    assert (found.dtype == bool) == (not case.spec.mixture)
    assert (found == want).all()


@given(input_cases())
def test_empty_rows_are_empty_whatever_inputs_hold(case: InputCase) -> None:
    relation = lowered(case)
    seen = np.any(case.masks(), axis=0)
    try:
        found = {(item.h, item.b): item for item in empty_rows(relation, case.sizes)}
    except DependsOnInputs:
        assert not relation.exact
        return
    for item in relation.classes:
        members, entries = item.members(case.heads), range(case.batch)
        for h in members if relation.varies(item, "h") else members[:1]:
            for b in entries if relation.varies(item, "b") else [0]:
                empty = np.flatnonzero(~seen[b, h].any(1))
                assert ((h, b) in found) == bool(len(empty))
                if len(empty):
                    assert (found[h, b].rows, found[h, b].first) == (len(empty), empty[0])


@given(input_cases(), st.sampled_from([3, 32]))
def test_pictures_leave_open_what_inputs_decide(case: InputCase, most: int) -> None:
    seen = np.any(case.masks(), axis=0)
    relation = lowered(case)
    try:
        picture = cells(relation, case.sizes, case.heads - 1, case.batch - 1, most)
    except TooHard:
        return
    height, width = (max(1, -(-length // most)) for length in (case.n_q, case.n))
    for y, row in enumerate(picture):
        for x, cell in enumerate(row):
            part = seen[-1, -1, y * height : (y + 1) * height, x * width : (x + 1) * width]
            want = FULL if part.all() else PARTIAL if part.any() else EMPTY
            assert cell == want or (cell == OPEN and not relation.exact)


def spec_of(pred: e.Pred, *inputs: Input, **changes: Any) -> Spec:
    blank = check_text("attention demo { attend true }")
    return replace(blank, attend=(Clause(pred, blank.span),), inputs=inputs or INPUTS, **changes)


Q, K, B, H = map(e.Var, "qkbh")
CAUSAL = e.Cmp("<=", K, Q)
SAME = e.Cmp("==", e.Read("doc", (B, Q)), e.Read("doc", (B, K)))
SHORT = e.Cmp("<", K, e.Read("length", (B,)))


def test_what_is_left_open_is_named() -> None:
    product = e.Cmp("<", e.Mul(Q, K), e.Int(9))
    pred = e.And((CAUSAL, SAME, e.Or((product, e.Not(SAME))), SHORT))
    (item,) = lower(spec_of(pred)).classes
    (part,) = item.parts
    assert part.unknown == (SAME, product)
    assert part.pairs.equals(Pairs.read("0 <= y <= x and y < i0"))
    assert part.sure.is_empty()
    assert part.pred == pred
    shown = str(lower(spec_of(pred)))
    assert "length" in shown
    assert "at least" in shown
    assert "left open: q * k < 9" in shown


def test_a_bound_name_as_factor_is_taken_value_by_value() -> None:
    pred = e.Any("i", e.Range(e.Int(1), e.Int(4)), e.Cmp("==", Q, e.Mul(e.Var("i"), K)))
    (item,) = lower(spec_of(pred)).classes
    assert item.exact
    opaque = e.Any("i", e.Range(e.Int(1), e.Int(4)), e.And((e.Cmp("==", e.Read("ids", (Q,)), e.Var("i")), CAUSAL)))
    (item,) = lower(spec_of(opaque)).classes
    assert item.unknown == (e.Cmp("==", e.Read("ids", (Q,)), e.Var("i")),)
    assert item.pairs.equals(Pairs.read("0 <= y <= x"))


def test_a_divisor_that_comes_with_the_call_is_left_open() -> None:
    strided = e.Cmp("==", e.Mod(Q, e.Read("limit", ())), e.Int(0))
    (item,) = lower(spec_of(e.And((CAUSAL, strided)))).classes
    assert item.unknown == (strided,)
    assert item.pairs.equals(Pairs.read("0 <= y <= x"))
    assert item.sure.is_empty()


def test_heads_that_read_their_own_entry_share_a_class() -> None:
    rates = e.Cmp("==", e.Mod(Q, e.Index((1, 1, 2, 2), (H,))), e.Int(0))
    own = e.Cmp("<=", e.Add((Q, e.Mul(e.Int(-1), K))), e.Read("width", (H,)))
    among = e.Among(K, "top", (B, H, Q))
    of_any = e.Any("i", e.Range(e.Int(0), e.Int(3)), e.Cmp("<", Q, e.Read("each", (e.Var("i"), H))))
    relation = lower(spec_of(e.And((rates, own, among, of_any))), 4)
    assert [item.heads for item in relation.classes] == [(0, 1), (2, 3)]
    assert own in e.And.children(relation.classes[1].parts[0].pred)
    assert of_any in e.And.children(relation.classes[1].parts[0].pred)
    assert among in e.And.children(relation.classes[1].parts[0].pred)
    assert relation.varies(relation.classes[0], "h")
    assert not relation.varies(relation.classes[0], "b")


def test_more_scalars_than_parameters_are_left_open() -> None:
    inputs = tuple(Input(f"s{i}", "int", ()) for i in range(14))
    pred = e.And(tuple(e.Cmp("<", K, e.Read(item.name, ())) for item in inputs))
    (item,) = lower(spec_of(pred, *inputs)).classes
    assert [inputs_of([atom]) for atom in item.unknown] == [("s12",), ("s13",)]


def test_scalars_must_be_given() -> None:
    relation = lower(spec_of(e.And((CAUSAL, SHORT))))
    with pytest.raises(DependsOnInputs, match="`length`"):
        relation.at(Sizes(9, 9))
    given_ = Sizes(9, 9, batch=2, scalars=scalars(relation.spec, {"length": np.array([3, 20])}))
    assert relation.mask(given_)[:, 0].sum((1, 2)).tolist() == [1 + 2 + 3 * 7, 45]
    for question in (
        lambda s: list(empty_rows(relation, s)),
        lambda s: cache_need(relation, (4,), s),
        lambda s: reach((relation, s)),
        lambda s: cells(relation, s),
    ):
        question(given_)
        with pytest.raises(DependsOnInputs):
            question(Sizes(9, 9, batch=2))


def test_slots_are_what_sets_range_over_where_there_is_an_order() -> None:
    near = e.Cmp("<=", e.Abs(e.Add((e.Var("q_slot"), e.Mul(e.Int(-1), e.Var("k_slot"))))), e.Int(2))
    slots = (e.Read("order.bucket", (B, H, e.Var(name))) for name in ("q_slot", "k_slot"))
    same = e.Cmp("==", *slots)
    relation = lower(spec_of(e.And((near, same, CAUSAL)), order=Order((8,), 2, 0)))
    (part,) = relation.classes[0].parts
    assert part.pairs.equals(Pairs.read("y >= 0 and -2 <= x - y <= 2"))
    assert part.unknown == (same, CAUSAL)
    for question in (lambda: reach((relation, Sizes(4, 4))), lambda: cells(relation, Sizes(4, 4))):
        with pytest.raises(DependsOnInputs):
            question()


def test_axes_are_parametric_in_m() -> None:
    pred = e.And((e.Cmp("<", Q, e.Var("m")), e.Cmp(">=", K, e.Var("m"))))
    axes = (Axis("token", e.Var("m")), Axis("memory", e.Int(4)))
    relation = lower(spec_of(pred, axes=axes, align="start"))
    mask = relation.mask(Sizes(10, 10, m=6))[0, 0]
    assert mask.sum() == mask[:6, 6:].sum() == 24
    other = lower(spec_of(e.And((e.Cmp("<", Q, e.Var("m")), e.Cmp(">", K, e.Var("m")))), axes=axes, align="start"))
    found = compare(relation, other).first_only
    assert found is not None
    assert (found.n, found.row, found.k) == (5, 0, 1)
    # Without axes the same condition on m = n - 4.
    plain = e.And((e.Cmp("<", Q, e.Add((e.Var("n"), e.Int(-4)))), e.Cmp(">=", K, e.Add((e.Var("n"), e.Int(-4))))))
    assert compare(relation, lower(spec_of(plain, align="start"))).equal
    with pytest.raises(NoAnswer):
        reach((relation, Sizes(10, 10, m=6)))


def test_comparison_of_patterns_with_inputs() -> None:
    def lowered_(pred: e.Pred, *inputs: Input) -> Relation:
        return lower(spec_of(pred, *inputs))

    length, limit = Input("length", "int", (e.Var("batch"),)), Input("limit", "int", ())
    short = lowered_(e.And((CAUSAL, SHORT)), length)
    assert compare(short, lowered_(e.And((SHORT, CAUSAL)), limit, length)).equal
    found = compare(short, lowered_(e.And((CAUSAL, e.Cmp("<", K, e.Read("limit", ())))), limit)).first_only
    assert found is not None
    values = dict(found.inputs)
    assert found.k < values["length"]
    assert found.k >= values["limit"]
    documents = lowered_(e.And((CAUSAL, SAME)))
    assert compare(documents, lowered_(e.And((CAUSAL, SAME)))).equal
    with pytest.raises(DependsOnInputs, match="`doc`"):
        compare(documents, lowered_(CAUSAL))
    diagonal = lowered_(e.Or((e.Cmp("==", Q, K), e.And((CAUSAL, SAME)))))
    found_both = compare(diagonal, lowered_(e.Cmp(">", K, Q)))
    assert found_both.first_only is not None
    assert found_both.second_only is not None
    places = [(w.row + w.n - w.n_q, w.k) for w in (found_both.first_only, found_both.second_only)]
    assert places == [(0, 0), (0, 1)]


def test_a_cache_bound_says_that_it_is_one() -> None:
    near = e.Cmp("<", e.Add((Q, e.Mul(e.Int(-1), K))), e.Int(5))
    (need,) = cache_need(lower(spec_of(e.And((CAUSAL, near, SAME)))), (3, 40), Sizes(1, 1))
    assert (need.keys, need.exact) == ((3, 4), False)


def test_bounds_of_reads() -> None:
    assert fits(SAME, 1 << 20, 32)
    assert not fits(e.Cmp("<", e.Mul(e.Int(4), e.Read("ids", (K,))), Q), 1 << 20, 32)
    assert not fits(e.Flag("keep", (B, e.Mul(e.Int(1 << 12), K))), 1 << 20, 32)
    assert fits(e.Cmp("<", e.Var("q_slot"), e.Var("m")), 1 << 30, 32)
    assert not fits(e.Cmp("<", e.Var("q_slot"), e.Var("m")), 1 << 30, 32, rounds=4)
    assert not fits(Choose(SAME, Cast(e.Mul(e.Int(1 << 12), K)), Real(0.0)), 1 << 20, 32)
