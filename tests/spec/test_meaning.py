"""The mask of a checked spec is what its text says, pair by pair; and a printed spec says the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnspec.check.check import check_text
from tests.support.reference import allows
from tests.support.strategies import Case, cases


@given(cases(), st.data())
def test_mask_is_what_the_text_says(case: Case, data: st.DataObject) -> None:
    spec = case.spec()
    mask = spec.mask(case.n, case.n_q, case.heads)
    sizes = {"b": 0, "n": case.n, "n_q": case.n_q, "heads": case.heads, "kv_heads": case.heads, "batch": 1}
    for _ in range(12):
        h = data.draw(st.integers(0, case.heads - 1))
        row, k = data.draw(st.integers(0, case.n_q - 1)), data.draw(st.integers(0, case.n - 1))
        q = row + spec.offset(case.n, case.n_q)
        assert mask[0, h, row, k] == allows(case.text, case.params, q=q, k=k, h=h, **sizes), case.text


@given(cases())
def test_printed_spec_has_the_same_mask(case: Case) -> None:
    spec = case.spec()
    again = check_text(str(spec))
    assert (spec.mask(case.n, case.n_q, case.heads) == again.mask(case.n, case.n_q, case.heads)).all()
    assert str(check_text(str(again))) == str(again)


_LEAVES = st.sampled_from(["q", "k", "h", "3", "1", "7", "w"])
_TERMS = st.lists(
    st.tuples(_LEAVES, st.sampled_from(["+", "-", "* 2 +", "* 3 -", "// 4 +", "% 5 -", "// w % 3 +"])), max_size=4
)
_OPS = st.sampled_from(["<", "<=", "==", "!=", ">", ">="])


@st.composite
def flat_predicates(draw: st.DrawFn) -> str:
    """A predicate without brackets in the part of the language that is Python too."""

    def term() -> str:
        sign = draw(st.sampled_from(["", "", "-", "--", "-2 ** 2 + ", "2 ** 1 ** 0 * "]))
        return sign + " ".join(f"{leaf} {op}" for leaf, op in draw(_TERMS)) + f" {draw(_LEAVES)}"

    def comparison() -> str:
        chain = "".join(f" {draw(_OPS)} {term()}" for _ in range(draw(st.integers(1, 2))))
        return draw(st.sampled_from(["", "", "not ", "not not "])) + term() + chain

    words = st.sampled_from([" and ", " or "])
    return comparison() + "".join(draw(words) + comparison() for _ in range(draw(st.integers(0, 4))))


@given(flat_predicates(), st.integers(-5, 20), st.integers(0, 20), st.integers(0, 3))
def test_precedence_is_pythons(text: str, q: int, k: int, h: int) -> None:
    spec = check_text(f"attention a(w = 6) {{ attend {text} }}")
    from attnspec.spec.evaluate import holds

    assert bool(holds(spec.pred, {"q": q, "k": k, "h": h})) == eval(text, {"q": q, "k": k, "h": h, "w": 6}), text


CLAUSES = {
    "any reaches to the end": (
        "attend any i in 0..2: q == i and k == 1 or q == 3",
        lambda q, k: (q < 2 and k == 1) or q == 3,
    ),
    "any in the middle": (
        "attend q == 5 or any i in 0..2: k == i and q == 2",
        lambda q, k: q == 5 or (k < 2 and q == 2),
    ),
    "not any": ("attend not any i in 0..2: q == i or k == i", lambda q, k: q > 1 and k > 1),
    "sum stops at a comparison": ("attend sum j in 0..4: j + q > 10", lambda q, k: 6 + 4 * q > 10),
    "if binds loosest": (
        "attend if q > k then q < 3 or k < 1 else k < 2",
        lambda q, k: (q < 3 or k < 1) if q > k else k < 2,
    ),
    "at binds tighter than not": ("attend not causal at (k, q)", lambda q, k: not q <= k),
    "at moves lets": ("let near = q - k < 2 attend near at (q // 2, k // 2)", lambda q, k: q // 2 - k // 2 < 2),
    "at moves twice": ("attend (causal at (q + 1, k)) at (k, q)", lambda q, k: q <= k + 1),
    "at leaves positions": ("attend window(3) at (q - 7, k - 7)", lambda q, k: 0 <= q - k < 3),
    "outside a list": ("attend [1, 2][q] == 2 attend [1, 2][q] != 2", lambda q, k: q < 2),
    "not around a read": ("attend not [1, 2][q] == 2", lambda q, k: q != 1),
    "a nested list": ("attend any row in [[0, 1], [4]]: all v in row: q != v", lambda q, k: q not in (0, 1) or q != 4),
    "a list by position": (
        "attend k in [[0, 1], [4]][q % 2] and any v in [[3], [4, 5]][q % 3]: v != q",
        lambda q, k: k in ([0, 1], [4])[q % 2] and q % 3 < 2 and any(v != q for v in ([3], [4, 5])[q % 3]),
    ),
    "all and sum by position": (
        "attend (all v in [[3], [4, 5]][q % 3]: v != k) and sum v in [[1, 2], [3]][q % 3]: v * 2 + 1 >= k",
        lambda q, k: (
            all(v != k for v in ([3], [4, 5], [])[q % 3]) and sum(2 * v + 1 for v in ([1, 2], [3], [])[q % 3]) >= k
        ),
    ),
    "not in": ("attend q not in [1, 2] and k not in 3..5", lambda q, k: q not in (1, 2) and k not in (3, 4)),
    "same truth": ("attend (q < 3) == (k < 3)", lambda q, k: (q < 3) == (k < 3)),
    "none is all": ("within q < 3", lambda q, k: q < 3),
    "floor of negatives": (
        "attend (q - 5) // 2 == -2 or (q - 5) % 3 == 1",
        lambda q, k: (q - 5) // 2 == -2 or (q - 5) % 3 == 1,
    ),
    "clamp": ("attend clamp(q, 2, 4) == k", lambda q, k: min(max(q, 2), 4) == k),
    "underscores": ("attend q < 0_0_3", lambda q, k: q < 3),
    "let of a let": ("let a = q - k let c(x) = a + x < 2 attend c(1) at (k, q)", lambda q, k: k - q + 1 < 2),
}


@pytest.mark.parametrize("name", CLAUSES)
def test_rule(name: str) -> None:
    text, meaning = CLAUSES[name]
    want = np.array([[bool(meaning(i, j)) for j in range(8)] for i in range(8)])
    assert (check_text(f"attention a {{ {text} }}").mask(8)[0, 0] == want).all()


def test_head_groups() -> None:
    text = """
    attention a {
        within k < 6
        for h in 0..2 { attend q == k  within k > 1 }
        for h in [1, 2] { attend k == 3 }
        for h in [3] { within causal }
    }"""
    mask = check_text(text).mask(8, heads=5)[0]
    q, k = np.ogrid[:8, :8]
    diagonal, column = (q == k) & (k > 1) & (k < 6), (k == 3) & (q >= 0)
    for h, want in enumerate([diagonal, diagonal | column, column, (k <= q) & (k < 6), np.zeros((8, 8), bool)]):
        assert (mask[h] == want).all(), h


def test_alignment() -> None:
    end, start = check_text("attention a { attend causal }"), check_text("attention a { align start attend causal }")
    assert end.mask(5, 2)[0, 0].sum(1).tolist() == [4, 5]
    assert start.mask(5, 2)[0, 0].sum(1).tolist() == [1, 2]
    assert end.mask(2, 5)[0, 0].sum(1).tolist() == [0, 0, 0, 1, 2]
