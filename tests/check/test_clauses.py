"""Inputs, mixtures and orders: their masks are what the text says, pair by pair."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnspec.check.check import check_text
from attnspec.errors.diagnostic import SpecError
from attnspec.spec.arrays import derive, documents, drawn, runs
from tests.support.bodies import same, spec

rng = np.random.default_rng(0)


# Inputs

DOC = np.array([[0, 0, 0, 2, 2, 5, 5, 5], [1, 1, 1, 1, 1, 1, 1, 1]])
TOP = np.array([[[0, 3], [1, 1], [-1, 9], [2, 0]], [[1, 2], [3, 3], [0, 0], [-1, -1]]])
INPUTS = {
    "documents": (
        "input doc: int[batch, n] sorted attend doc[q] == doc[k] and k <= q",
        {"doc": DOC},
        lambda b, h, q, k: DOC[b, q] == DOC[b, k] and k <= q,
    ),
    "documents, all indices": (
        "input doc: int[batch, n] sorted attend doc[b, q] == doc[b, k + 1]",
        {"doc": DOC},
        lambda b, h, q, k: k < 7 and DOC[b, q] == DOC[b, k + 1],
    ),
    "outside an input": (
        "input doc: int[batch, n] attend doc[q - 2] != doc[k] attend not doc[q + 3] >= 0",
        {"doc": DOC},
        lambda b, h, q, k: (q >= 2 and DOC[b, q - 2] != DOC[b, k]) or q > 4,
    ),
    "document-local": (
        "input doc: int[batch, n] sorted attend window(2) at (q - first(doc, q), k - first(doc, k))",
        {"doc": DOC},
        lambda b, h, q, k: (
            0 <= (q - int(np.argmax(DOC[b] == DOC[b, q]))) - (k - int(np.argmax(DOC[b] == DOC[b, k]))) < 2
        ),
    ),
    "offsets": (
        "input doc: int[n] offsets attend doc[q] == doc[k] and k <= last(doc, k) - 1",
        {"doc": [0, 3, 3, 5, 8]},
        lambda b, h, q, k: (ends := [0, 0, 0, 2, 2, 3, 3, 3])[q] == ends[k] and k not in (2, 4, 7),
    ),
    "a length for each batch entry": (
        "input length: int[batch] within k < length",
        {"length": [3, 5]},
        lambda b, h, q, k: k < [3, 5][b],
    ),
    "a number for each head": (
        "input reach: int[batch, heads] within q - k < reach",
        {"reach": [[1, 2], [3, 4]]},
        lambda b, h, q, k: q - k < [[1, 2], [3, 4]][b][h],
    ),
    "one number": ("input p: int attend q < p", {"p": 3}, lambda b, h, q, k: q < 3),
    "one boolean": ("input on: bool attend on == (q < 3)", {"on": np.bool_(False)}, lambda b, h, q, k: q >= 3),
    "blocks of a list": (
        "input top: int[batch, heads, 4, 2] attend k // 2 in top[b, h, q // 2] attend k // 2 not in top[1, h, q // 2]",
        {"top": np.stack([TOP, TOP[::-1]])},
        lambda b, h, q, k: (k // 2 in (TOP, TOP[::-1])[b][h, q // 2]) or (k // 2 not in TOP[::-1][h, q // 2]),
    ),
    "blocks, the same for all": (
        "input top: int[4, 2] attend k // 2 in top[q // 2] or q in top[7 - k]",
        {"top": TOP[0]},
        lambda b, h, q, k: (k // 2 in TOP[0, q // 2]) or (7 - k < 4 and q in TOP[0, 7 - k]),
    ),
    "negative entries match nothing": (
        "input top: int[batch, 2] attend q - 3 in top",
        {"top": [[-1, 2], [-3, -3]]},
        lambda b, h, q, k: q == 5 and b == 0,
    ),
    "flags": (
        "input keep: bool[heads, n // 2, n // 2] attend keep[q // 2, k // 2] attend not keep[h, q, k]",
        {"keep": (keep := rng.random((2, 4, 4)) < 0.5)},
        lambda b, h, q, k: keep[h, q // 2, k // 2] or not (q < 4 and k < 4 and keep[h, q, k]),
    ),
    "a flag as a pattern": (
        "input keep: bool[n, n] let again = keep attend restarted(keep[q, k], 3) attend transposed(again[q, k])",
        {"keep": (flags := rng.random((8, 8)) < 0.3)},
        lambda b, h, q, k: (q // 3 == k // 3 and flags[q % 3, k % 3]) or flags[k, q],
    ),
    "an index by an input": (
        "input doc: int[batch, n] attend [5, 6, 7][doc[q]] == k",
        {"doc": DOC},
        lambda b, h, q, k: DOC[b, q] < 3 and [5, 6, 7][DOC[b, q]] == k,
    ),
    "as an argument": (
        "input doc: int[batch, n] sorted let d(i) = doc[i] - 1 attend band(d(q), doc[k]) and shifted(d(k))",
        {"doc": DOC},
        lambda b, h, q, k: -DOC[b, k] <= q - k <= DOC[b, q] - 1 and q > DOC[b, k] - 1,
    ),
    "an input as an argument": (
        "input doc: int[batch, n] sorted attend inside(doc, causal)",
        {"doc": DOC},
        lambda b, h, q, k: DOC[b, q] == DOC[b, k] and k <= q,
    ),
    "a product": ("attend q * k % 7 == 0 and q * q < 20", {}, lambda b, h, q, k: q * k % 7 == 0 and q * q < 20),
    "a very large number": (
        "input p: int attend (q + 1) * p > 0 attend p + p == 3 + k",
        {"p": 2**62},
        lambda b, h, q, k: True,
    ),
}
PATTERNS = (
    "pattern shifted(x) = q > x pattern inside(d, p) = d[q] == d[k] and p at (q - first(d, q), k - first(d, k))\n"
)


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name: str) -> None:
    body, inputs, want = INPUTS[name]
    found = check_text(f"{PATTERNS} attention a {{ {body} }}")
    same(found.mask(8, heads=2, batch=2, inputs=inputs), want)
    again = check_text(str(found))
    assert again.inputs == found.inputs
    assert (again.mask(8, heads=2, batch=2, inputs=inputs) == found.mask(8, heads=2, batch=2, inputs=inputs)).all()


@pytest.mark.parametrize("align", ["start", "end"])
def test_an_input_of_rows_is_read_by_row(align: str) -> None:
    text = "input g: int[batch, n_q] input s: int[n_q] sorted attend g[q] == k and k <= q attend first(s, q) == k"
    found = spec(f"align {align} {text}")
    g, s = np.array([[0, 1, 2], [4, 3, 6]]), np.array([0, 1, 1])
    start = 4 if align == "end" else 0
    mask = found.mask(7, 3, batch=2, inputs={"g": g, "s": s})
    same(mask, lambda b, h, r, k: (g[b, r] == k and k <= r + start) or k == [0, 1, 1][r] + start)
    again = check_text(str(found))
    assert again == found
    assert str(again) == str(found)


def test_a_random_input_is_drawn_from_its_seed() -> None:
    found = spec("input r: int[heads, n // 4, 2] random(0..n // 4, 7) attend k // 4 in r[q // 4]")
    drawn_ = drawn((3, 5, 2), 0, 5, 7)
    mask = found.mask(20, heads=3)
    same(mask, lambda b, h, q, k: k // 4 in drawn_[h, q // 4])
    assert (mask == found.mask(20, heads=3, inputs={"r": drawn_})).all()
    assert not (mask == spec(str(found)[13:-1].replace(", 7)", ", 8)")).mask(20, heads=3)).all()
    assert found.mask(3, heads=3).sum() == 0  # no blocks, no draw
    with pytest.raises(ValueError, match=r"`r` of `a` cannot be drawn from the empty range 0\.\.0"):
        spec("input r: int[3] random(0..n // 4, 7) attend r[q % 3] == k").mask(2)


WRONG = {
    "missing": ({}, r"`doc` of `a` is missing: `input doc: int\[batch, n\] sorted`, here of the shape \(1, 4\)"),
    "unknown": ({"doc": [[0] * 4], "dok": 3}, r"`a` has no input `dok`: did you mean `doc`\?"),
    "kind": ({"doc": [[0.0] * 4]}, "`doc` of `a` holds integers, but was given float64"),
    "shape": ({"doc": [0] * 4}, r"`doc` of `a` has the shape \(1, 4\): .* was given \(4,\)"),
    "order": ({"doc": [[0, 2, 1, 3]]}, "`doc` of `a` is declared sorted, but its values decrease"),
    "start": ({"ends": [1, 4]}, "`ends` of `a` must begin with offset 0"),
    "end": ({"ends": [0, 5]}, "`ends` of `a` must end with offset n, which is 4"),
    "decrease": ({"ends": [0, 3, 2, 4]}, "`ends` of `a` holds offsets that decrease"),
    "none": ({"ends": np.zeros(0, int)}, "`ends` of `a` must begin with offset 0"),
    "dimensions": ({"ends": [[0, 4]]}, r"`ends` of `a` has the shape \(documents \+ 1\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs(name: str) -> None:
    inputs, message = WRONG[name]
    ends = "input ends: int[n] offsets attend ends[q] == 0"
    found = spec(ends if "ends" in inputs else "input doc: int[batch, n] sorted attend doc[q] == 0")
    with pytest.raises(ValueError, match=message):
        found.mask(4, inputs=inputs)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 3))
def test_runs(values: list[int], rows: int) -> None:
    array = np.array([sorted(values), *([sorted(values, reverse=True)] * (rows - 1))])
    first, last = runs(array)
    for row, (a, f, b) in enumerate(zip(array, first, last, strict=True)):
        for i, x in enumerate(a):
            assert f[i] == min(j for j, y in enumerate(a) if x == y), row
            assert b[i] == max(j for j, y in enumerate(a) if x == y), row


@given(st.lists(st.integers(0, 9), max_size=5), st.integers(9, 12))
def test_documents(begin: list[int], n: int) -> None:
    offsets = [0, *sorted(begin), n]
    want = [max(j for j, at in enumerate(offsets[:-1]) if at <= i) for i in range(n)]
    assert documents("it", np.array(offsets), n).tolist() == want


# Mixtures


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3)), min_size=1, max_size=4), st.integers(1, 9))
def test_a_mixture_counts_its_branches(pairs: list[tuple[int, int]], n: int) -> None:
    body = "attend q // w == k // w and q % r == k % r within q - k < w"
    mixed = spec(f"within k <= q let c = 1 mix (w, r) in xs {{ {body} }}", xs=str([list(p) for p in pairs]))
    want = sum(spec(f"{body} within k <= q", w=w, r=r).mask(n).astype(int) for w, r in pairs)
    assert mixed.mask(n).dtype == np.int64
    assert (mixed.mask(n) == want).all()
    assert (check_text(str(mixed)).mask(n) == want).all()
    written = " ".join(f"branch {{ let w = {w} let r = {r} {body} }}" for w, r in pairs)
    assert (spec(f"mix {{ within k <= q {written} }}").mask(n) == want).all()


def test_branches() -> None:
    found = spec(
        "let w = c - 1 mix weights detached { let r = 2 within k <= q branch times 3 { attend q - k < w } "
        "branch times r { for h in [1] { attend k < 2 } } branch { within k == 0 } }",
        c=3,
    )
    assert found.detached
    assert [b.times for b in found.branches] == [3, 2, 1]
    same(found.mask(5, heads=2), lambda b, h, q, k: (k <= q) * (3 * (q - k < 2) + 2 * (h == 1 and k < 2) + (k == 0)))
    assert check_text(str(found)).mixture == found.mixture
    assert not spec("mix w in [1, 2] { attend q // w == k // w }").detached


def test_unlike_branches_beside_one_for_each_value() -> None:
    found = spec(
        "mix { branch { attend q - k < w } branch for i in 0..w times i + 1 { attend (q + k) % w == i }"
        " branch for (x, y) in [(1, 2), (3, 4)] { attend k in x..y } within k <= q }",
        w=3,
    )
    assert [b.times for b in found.branches] == [1, 1, 2, 3, 1, 1]
    same(found.mask(9), lambda b, h, q, k: (k <= q) * ((q - k < 3) + (q + k) % 3 + 1 + (k == 1) + (k == 3)))
    assert check_text(str(found)).mixture == found.mixture


@pytest.mark.parametrize(
    ("heading", "why"),
    [
        ("branch for i in 0..heads", "E028.*what a mixture runs over"),
        ("branch for i in 0..0", "E046.*without branches"),
        ("branch for i in 0..65", "E046.*too many branches"),
        ("branch for (i, j) in [(1, 2), (3, 4, 5)]", "E046.*must have 2 values"),
        ("branch for i, j in [(1, 2)]", r"E001[\s\S]*bracket the names: `branch for \(x, y\) in"),
        ("branch for i in 0..2 times i", "E046.*at least once"),
    ],
)
def test_wrong_branches_for_values(heading: str, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        spec(f"mix {{ branch {{ attend q == k }} {heading} {{ attend k == 3 }} }}")


def test_the_names_of_a_mixture_are_constants() -> None:
    found = spec("mix w in 1..4 { attend [10, 20, 30][w - 1] // w ** 2 - q == k }")
    assert found.mask(12).sum((2, 3)).tolist() == [[11 + 6 + 4]]
    assert len(spec("mix xs in [[1, 2], [3]] { attend any x in xs: q == x }").mixture) == 2
    assert len(spec("mix w in 0..64 { attend q == w }").mixture) == 64


# Orders


@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 99))
def test_an_order_counts_pairs_of_slots(n: int, rounds: int, seed: int) -> None:
    found = spec(
        "input doc: int[n] order by lsh(buckets = [2, 2], rounds = rounds, seed = 5) within k <= q "
        "attend window(3) at (q.slot, k.slot) and q.bucket == k.bucket attend doc[q] < doc[k]",
        rounds=rounds,
    )
    assert found.order is not None
    assert (found.order.buckets, found.order.rounds, found.order.seed) == ((2, 2), rounds, 5)
    draw = np.random.default_rng(seed)
    buckets, doc = draw.integers(0, 4, (2, 2, rounds, n)), draw.integers(0, 3, n)
    mask = found.mask(n, heads=2, batch=2, inputs={"buckets": buckets, "doc": doc})
    want = np.zeros((2, 2, n, n), int)
    for b, h in product(range(2), range(2)):
        slots = [(r, i) for r in range(rounds) for i in sorted(range(n), key=lambda i: (buckets[b, h, r, i], i))]
        for (x, (r, q)), (y, (t, k)) in product(enumerate(slots), repeat=2):
            near = 0 <= x - y < 3 and r == t and buckets[b, h, r, q] == buckets[b, h, t, k]
            want[b, h, q, k] += (near or doc[q] < doc[k]) and k <= q
    assert (mask == want).all()
    assert check_text(str(found)).order == found.order
    assert (check_text(str(found)).mask(n, heads=2, batch=2, inputs={"buckets": buckets, "doc": doc}) == mask).all()


def test_wrong_buckets() -> None:
    found = spec("order by lsh(buckets = 2) attend q.slot == k.slot")
    right = np.zeros((1, 1, 1, 4), int)
    assert found.mask(4, inputs={"buckets": right}).trace(axis1=2, axis2=3).tolist() == [[4]]
    for inputs, message in (
        ({}, r"`buckets` of `a` is missing: .* \(1, 1, 1, 4\)"),
        ({"buckets": right[0]}, r"\(batch, heads, rounds, n\) = \(1, 1, 1, 4\); was given \(1, 1, 4\)"),
        ({"buckets": right + 2}, "from 0 to 1, but has 2 to 2"),
        ({"buckets": right * 1.0}, "holds integers, but was given float64"),
    ):
        with pytest.raises(ValueError, match=message):
            found.mask(4, inputs=inputs)
    with pytest.raises(ValueError, match="n_q must be n, 4, not 2"):
        found.mask(4, 2, inputs={"buckets": right})


# Names


def test_names_of_the_core_are_free() -> None:
    found = spec("input m: int[n] attend any q_slot in 0..2: m[k] == q_slot and q == k", w=1)
    same(found.mask(4, inputs={"m": [0, 1, 2, 3]}), lambda b, h, q, k: k < 2 and q == k)


def test_functions_may_be_redefined() -> None:
    found = check_text("pattern first(w) = q < w attention a(tanh = 3) { let log = 2 attend first(tanh) and k < log }")
    same(found.mask(5), lambda b, h, q, k: q < 3 and k < 2)


def test_an_input_is_seen_in_its_attention_only() -> None:
    with pytest.raises(SpecError, match="unknown name `doc`"):
        check_text("pattern p = doc[q] == doc[k] attention a { input doc: int[n] attend p }")
    with pytest.raises(SpecError, match="unknown name `doc`"):
        check_text("attention a { attend doc[q] == 0 input doc: int[n] }")


def test_derived_names() -> None:
    found = spec(
        "input doc: int[batch, n] sorted order by lsh(buckets = 4, rounds = 2) attend last(doc, k) == first(doc, q)"
    )
    arrays = derive(found, {"doc": [[0, 0, 1]], "buckets": [[[[3, 1, 1], [0, 2, 0]]]]}, found.sizes(3))
    assert set(arrays) == {"doc", "doc.first", "doc.last", "order.bucket", "alibi.slope"}
    assert arrays["order.bucket"].tolist() == [[[1, 1, 3, 4, 4, 6]]]
    assert str(found.pred) == "last(doc, k) == first(doc, q)"
