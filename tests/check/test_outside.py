"""`q` and `k` are positions, in every index; one that is outside for all of them is an error."""

from __future__ import annotations

import numpy as np
import pytest

from attnspec.check.check import check_text
from attnspec.errors.diagnostic import SpecError
from attnspec.spec.spec import Spec


def _spec(body: str) -> Spec:
    return check_text(f"attention a {{ {body} }}")


@pytest.mark.parametrize("align", ["", "align start"])
def test_a_dimension_of_queries_is_indexed_by_the_positions_of_queries(align: str) -> None:
    n, n_q = 9, 3
    tree = np.random.default_rng(0).random((1, n_q, n_q)) < 0.5
    found = _spec(f"{align} input tree: bool[batch, n_q, n_q] attend tree[b, q, k]").mask(n, n_q, inputs={"tree": tree})
    first = 0 if align else n - n_q
    assert (found[0, 0, :, first : first + n_q] == tree[0]).all()
    assert found.sum() == tree.sum()


@pytest.mark.parametrize(
    "body",
    [
        "input tree: bool[batch, n_q, n_q] attend tree[b, q - (n - n_q), k]",
        "input tree: bool[batch, n_q, n_q] attend tree[b, q, k - (n - n_q)]",
        "align start input tree: bool[batch, n_q, n_q] attend tree[b, q - (n - n_q), k]",
        "input doc: int[n] attend doc[k + n] == q",
        "input doc: int[n] attend doc[-1 - k // 2] == q",
        "input block: bool[n] attend block[q % 64 - 64]",
        "attend k <= q input bias: float[n] score s + bias[n + k]",
        "input keep: bool[_] attend keep[-1 - k]",
    ],
)
def test_an_index_that_is_always_outside_is_an_error(body: str) -> None:
    with pytest.raises(SpecError, match=r"E027.*index outside the input"):
        _spec(body)


@pytest.mark.parametrize(
    "body",
    [
        "align start input tree: bool[batch, n_q, n_q] attend tree[b, q, k - (n - n_q)]",
        "input doc: int[n] attend doc[q + n] == k",  # more queries than keys: positions may be negative
        "input bias: float[heads, n] attend k <= q score s + bias[h, q - k]",
        "input block: bool[n // 64] attend block[k // 64 - 1]",
        "input doc: int[n_q] attend doc[n - 1] == k",
        "input keep: bool[_, _] attend keep[q + 1000 * n, 77]",
        "input mask: bool[n, n] axis x[n] axis y[n] keys x -> y: mask[q, k + n]",
    ],
)
def test_an_index_that_may_be_inside_is_none(body: str) -> None:
    _spec(body)
