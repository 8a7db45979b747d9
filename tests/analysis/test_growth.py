"""Whether what a query sees changes when tokens come after it: as the masks of all short lengths say."""

from __future__ import annotations

import pytest

import attnspec
from attnspec.analysis.growth import grows
from attnspec.relation.lower import lower

NOT, DOES = "", "query "
MASKS = {
    "k <= q": NOT,
    "window(3) and k < n": NOT,
    "k <= min(q, n - 1) and k >= max(0, min(q, n) - 3)": NOT,
    "k < 2 * n and causal and h < 1": NOT,
    "causal and k >= n - 5": DOES,
    "causal and k < n // 2": DOES,
    "causal and (q - k < 3 or k % 4 == (n - 1) % 4)": DOES,
    "causal and k <= n * n - 7": DOES,
    "q == n - 1 or k == q": DOES,
}


@pytest.mark.parametrize("text", MASKS)
def test_masks(text: str) -> None:
    spec = attnspec.read(f"attention a {{ attend {text} }}")
    rows = {n: spec.mask(n, heads=2)[0] for n in range(1, 13)}
    same = all((rows[n][:, q, : q + 1] == rows[q + 1][:, q]).all() for n in rows for q in range(n))
    assert same == (MASKS[text] == NOT)
    found = grows(lower(spec))
    assert found.startswith(MASKS[text]) or "n * n" in text
    assert bool(found) != same


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("attend causal  score s / n", "reads `n`"),
        ("attend causal  score s * log(q + 2)", ""),
        ("attend causal  sink log(n)", "`log(n)` reads `n`"),
        ("attend causal  rotate rope() at (q, k - n)", "`k - n` reads `n`"),
        ("input r: int[n] random(0..4, 1)  attend causal and r[q] == 0", "other numbers are drawn"),
        ("input r: int[64] random(0..4, 1)  attend causal and r[q] == 0", ""),
        ("input r: int[64] random(0..4, 1)  attend causal and r[n] == 0", "reads `n`"),
        (
            "mix { branch { attend causal } branch { attend causal and k < n - 2 } }",
            "query 0 sees key 0 in a call of n = 3",
        ),
    ],
)
def test_what_reads_the_length(text: str, said: str) -> None:
    found = grows(lower(attnspec.read(f"attention a {{ {text} }}")))
    assert said in found
    assert bool(found) == bool(said)
