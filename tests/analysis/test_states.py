"""Keys with the same future: against all pairs, and for the patterns whose states are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import attnspec
from attnspec.analysis.states import Futures, states
from attnspec.check.check import check_text
from attnspec.relation.lower import lower
from attnspec.relation.relation import DependsOnInputs, NoAnswer
from attnspec.relation.sizes import Sizes
from tests.support.shipped import SMALL
from tests.support.strategies import Case, cases


def futures(lines: str) -> Futures:
    (found,) = states(lower(check_text(f"attention a {{ {lines} }}")), Sizes(1, 1))
    return found.futures


@pytest.mark.parametrize(
    ("lines", "kept", "single", "cut"),
    [
        ("", (1, 0), 1, 1),
        ("attend causal", (1, 0), 1, 1),
        ("attend causal  attend k < 100", (1, 0), 1, None),
        ("attend causal and q // 256 == k // 256", (1, 0), 1, 256),
        ("attend k // 256 < q // 256", (2, 0), 256, 256),
        ("attend causal and k // 256 >= q // 256 - 1", (2, 0), 256, 256),
        ("attend causal and (k % 128 >= 96 or k // 128 == q // 128)", (2, 0), 128, 128),
        ("attend causal and (q - k) % 4 == 0", (4, 0), None, None),
        ("attend window(64)", (0, 63), None, None),
        ("attend k <= q - 64", (1, 63), None, None),
        ("attend q == k", (0, 0), 1, 1),
    ],
)
def test_known_patterns(lines: str, kept: tuple[int, int], single: int | None, cut: int | None) -> None:
    """After 1,500 tokens, and where one state is all there is."""
    found = futures(lines)
    assert (found.kept(1500), found.single, found.cut, found.documents) == (kept, single, cut, False)


def test_documents_are_remembered_one_by_one() -> None:
    """Of each document what the pattern leaves inside it; other inputs give no answer."""
    found = futures("input doc: int[batch, n] sorted  attend causal and doc[b, q] == doc[b, k]")
    assert (found.kept(1500), found.cut, found.documents) == ((1, 0), 1, True)
    with pytest.raises(DependsOnInputs, match="`keep`"):
        futures("input keep: bool[n]  attend causal and keep[k]")
    with pytest.raises(DependsOnInputs, match="`doc`"):
        futures("input doc: int[n]  attend causal and doc[q] != doc[k]")
    with pytest.raises(NoAnswer, match="align start"):
        futures("align start  attend causal")


def by_force(mask: np.ndarray, tokens: int) -> tuple[int, int]:
    """States and keys by what later queries of a finite sequence see."""
    columns = [column.tobytes() for column in mask[tokens:, :tokens].T if column.any()]
    sizes = [columns.count(column) for column in set(columns)]
    return sum(size > 1 for size in sizes), sum(size == 1 for size in sizes)


@pytest.mark.parametrize("name", ["causal", "window", "dilated", "sinks", "sparse_fixed", "chunked", "longformer"])
def test_shipped_patterns_by_force(name: str) -> None:
    """With small parameters and a sequence that goes on for long enough."""
    spec = attnspec.read(name, params=SMALL.get(name))
    relation = lower(spec)
    mask = spec.mask(200)[0, 0]
    for item in states(relation, Sizes(1, 1)):
        assert all(item.futures.kept(t) == by_force(mask, t) for t in range(1, 60))


@given(cases())
def test_no_fewer_than_a_finite_sequence_shows(case: Case) -> None:
    """A sequence that ends tells fewer keys apart, never more."""
    spec = case.spec()
    if spec.align == "start" or spec.mixture or spec.axes or spec.order:
        return
    for item in states(lower(spec, case.heads), Sizes(1, 1, case.heads, case.heads)):
        h = 0 if item.heads is None else item.heads[0]
        mask = spec.mask(14, heads=case.heads)[0, h]
        for t in range(1, 14):
            assert sum(item.futures.kept(t)) >= sum(by_force(mask, t))
