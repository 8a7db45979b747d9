"""Axes: their masks are what the text says, and their lengths are solved for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from attnspec.check.check import check_text
from attnspec.spec.axes import lengths, slices, solve
from tests.support.bodies import same, spec

AXES = """
    axis token[n]
    axis summary[(n + s - 1) // s * slots]
    axis extra[3] keys
    axis asked[2] queries
    let near(i) = i // s
    token   -> token:   causal and near(q) == near(k)
    token   -> summary: k // slots < q // s and n > 2
    for h in [1] { summary -> token: q // slots == k // s }
    token -> extra: k < 1
    asked -> extra: q == k
    asked -> summary: doc[k] == q
    input doc: int[(n + s - 1) // s * slots]
"""


def test_axes() -> None:
    text = "\n".join([*AXES.strip().splitlines()[-1:], *AXES.strip().splitlines()[:-1]])
    found = spec(text, s=3, slots=2)
    n = 7
    doc = np.array([0, 1, 2, 0, 1, 2])
    mask = found.mask(n + 6 + 3, n + 6 + 2, heads=2, inputs={"doc": doc})

    def want(b: int, h: int, q: int, k: int) -> bool:
        if q < n:
            if k < n:
                return k <= q and q // 3 == k // 3
            return (k - n) // 2 < q // 3 if k < n + 6 else k == n + 6
        if q < n + 6:
            return h == 1 and k < n and (q - n) // 2 == k // 3
        if n <= k < n + 6:
            return bool(doc[k - n] == q - n - 6)
        return k - n - 6 == q - n - 6

    same(mask, want)
    again = check_text(str(found))
    assert again.axes == found.axes
    assert str(again) == str(found)
    assert (again.mask(n + 9, n + 8, heads=2, inputs={"doc": doc}) == mask).all()
    where = slices(found.axes, n)
    assert where["extra"] == (None, slice(13, 16))
    assert where["asked"] == (slice(13, 15), None)


def test_n_is_the_number_solved_for() -> None:
    found = spec(
        "axis token[n] axis memory[2] token -> token: q == n - 1 and k == n_q - 3 "
        "memory -> token: any m in 0..2: k == m"
    )
    same(found.mask(5), lambda b, h, q, k: (q == 2 and k == 2) or (q > 2 and k < 2))
    assert (check_text(str(found)).mask(5) == found.mask(5)).all()


SIZES = st.sampled_from(["n", "n // 3", "(n + 3) // 4 * 2", "2", "max(n - 2, 0)", "min(n, 7)", "2 * n + 1"])


@given(
    st.lists(st.tuples(SIZES, st.sampled_from(["", " keys", " queries"])), min_size=1, max_size=4), st.integers(0, 40)
)
def test_solve(parts: list[tuple[str, str]], m: int) -> None:
    found = spec(" ".join(f"axis a{i}[{size}]{only}" for i, (size, only) in enumerate(parts))).axes
    n, n_q = lengths(found, m)
    alike = [x for x in range(60) if lengths(found, x) == (n, n_q)]
    if len(alike) == 1:
        assert solve(found, n, n_q) == m
    else:
        with pytest.raises(ValueError, match="alike"):
            solve(found, n, n_q)
    assume(all(lengths(found, x) != (n + 1, n_q) for x in range(200)))
    with pytest.raises(ValueError, match=f"add up to {n + 1} keys"):
        solve(found, n + 1, n_q)


def test_lengths_that_axes_cannot_have() -> None:
    found = spec("axis token[n] axis summary[n // 4 * 2]", s=4)
    with pytest.raises(ValueError, match=r"token\[n\], summary\[n // 4 \* 2\]; with n = 3 they are 3, with 4 6"):
        found.mask(5)
    with pytest.raises(ValueError, match="5 keys and 6 queries"):
        found.mask(5, 6)
    with pytest.raises(ValueError, match="never become that long"):
        spec("axis a[3]").mask(5)
    with pytest.raises(ValueError, match="for n = 0 and n = 1 alike"):
        spec("axis a[3]").mask(3)
    with pytest.raises(ValueError, match="add up to 1 keys"):
        spec("axis a[n - 3] axis c[n]").mask(1)
