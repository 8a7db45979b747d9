"""What a state carries over a cut: against the pairs of whole sequences."""

from __future__ import annotations

import numpy as np
import pytest

from attnspec.analysis.carried import Carried, carried
from attnspec.check.check import check_text
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes


def found(lines: str) -> Carried | str:
    return carried(lower(check_text(f"attention a {{ {lines} }}")), Sizes(1, 1))


@pytest.mark.parametrize(
    ("lines", "cut"),
    [
        ("attend causal", 1),
        ("attend k < q", 1),
        ("attend q == k", 1),
        ("attend 0 <= q - k < 2", 1),
        ("attend k // 4 < q // 4", 4),
        ("attend k // 4 <= q // 4", 4),
        ("attend causal and k // 4 >= q // 4 - 1", 4),
        ("attend causal and k // 4 == q // 4", 4),
        ("attend causal and (k % 6 >= 4 or k // 6 == q // 6)", 6),
    ],
)
def test_rows_and_keys_by_force(lines: str, cut: int) -> None:
    """Wherever two cuts are: what sees across the first, and what is seen across the second."""
    going = found(lines)
    assert isinstance(going, Carried)
    assert going.cut == cut
    mask = check_text(f"attention a {{ {lines} }}").mask(12 * cut)[0, 0]
    for start in range(cut, 6 * cut, cut):
        for end in range(start + cut, 9 * cut, cut):
            here = slice(start, end)
            seen = [column for column in mask[start:, :start].T if column.any()]
            assert all((column == seen[0]).all() for column in seen)
            rows = seen[0][: end - start] if seen else np.zeros(end - start, dtype=bool)
            assert np.array_equal(going.seen(end - start, {}), rows)
            assert np.array_equal(going.kept(end - start, {}), mask[end:, here].any(0))
            old = bool(mask[end:, :start].any())
            assert bool(going.stays(end - start, {})[0]) == old
            assert not mask[:start, start:].any()


@pytest.mark.parametrize(
    ("lines", "cut", "lag"),
    [
        ("attend causal", 1, 0),
        ("attend window(6)", 1, 5),
        ("attend k <= q - 7", 1, 6),
        ("attend k // 4 <= q // 4 - 2", 4, 4),
        ("attend causal and (k // 3 <= q // 3 - 3 or k > q - 3)", 3, 6),
        ("attend 2 <= q - k < 9", 1, 8),
    ],
)
def test_keys_that_wait_by_force(lines: str, cut: int, lag: int) -> None:
    """All older ones are seen alike by all queries that come."""
    going = carried(lower(check_text(f"attention a {{ {lines} }}")), Sizes(1, 1), True)
    assert isinstance(going, Carried)
    assert (going.cut, going.lag) == (cut, lag)
    mask = check_text(f"attention a {{ {lines} }}").mask(12 * cut + 3 * lag)[0, 0]
    for start in range(cut, 5 * cut, cut):
        after = start + lag
        seen = [column for column in mask[after:, :start].T if column.any()]
        assert all((column == seen[0]).all() for column in seen)
        rows = seen[0] if seen else np.zeros(len(mask) - after, dtype=bool)
        assert np.array_equal(going.seen(len(mask) - start, {})[lag:], rows)
        for end in range(start + cut, 8 * cut, cut):
            assert np.array_equal(going.kept(end - start, {}), mask[end + lag :, start:end].any(0))
            assert bool(going.stays(end - start, {})[0]) == bool(mask[end + lag :, :start].any())


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("attend window(64)", "after 4,096 tokens 0 states and 63 keys"),
        ("attend k <= q - 64", "after 4,096 tokens 1 state and 63 keys"),
        ("attend causal  attend k < 100", "the first positions"),
        ("attend |q - k| < 2", "query 0 sees key 1"),
        ("", "query 0 sees key 1"),
        ("attend causal and k < n - 5", "`n`"),
        ("input length: int[batch]  attend causal and k < length[b]", "`length`"),
        ("mix { branch { attend causal } branch { attend k < q } }", "attend.branches"),
    ],
)
def test_why_there_is_no_state(lines: str, why: str) -> None:
    reason = found(lines)
    assert isinstance(reason, str)
    assert why in reason
