"""What the README says cannot be said: each row is refused by the code that is named here, and what serves checks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import attnspec
from attnspec.check.check import check_text

# By the beginning of a row: what is refused, and with which code; what serves. (Merging has tests of its own.)
ROWS: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "softmaxes in a row": ([("attend causal  score s[q, k // 8 * 8]", "E021")], []),
    "softmaxes of queries and keys of their own": (
        [("mix { branch { } branch share -0.5 { score dot(q2, k2) } }", "E011")],
        ["mix { branch share 1.0 { } branch share -0.5 { score s * 2 } }"],
    ),
    "pairs chosen by scores or reals": (
        [
            ("attend s > 0.0", "E011"),
            ("attend k in top(s, 4)", "E011"),
            ("input reach: float[heads]  attend q - k < reach[h]", "E021"),
        ],
        [
            "input top: int[batch, heads, (n + 63) // 64, 4]  attend causal and k // 64 in top[b, h, q // 64]",
            "input reach: float[heads]  attend causal  score s + log(clamp(reach[h] + k - q, 0.0, 1.0))",
        ],
    ),
    "scores that read scores of other pairs": (
        [
            ("attend causal  score s[q - 1, k]", "E021"),
            ("input g: float[n, n]  attend causal  score s + (sum j in 0..n: g[q, j])", "E028"),
        ],
        ["input c: float[batch, heads, n]  attend causal  score s + c[q] - c[k]"],
    ),
    "further products with queries": (
        [("input r: float[n, 8]  attend causal  score s + dot(q, r[q - k])", "E011")],
        ["input far: float[batch, heads, n_q, 8]  attend window(8)  score s + far[q, q - k]"],
    ),
    "other clusters than hashes": (
        [
            ("order by kmeans(4)  attend q.slot == k.slot", "E045"),
            ("order by lsh(buckets = 4)  order by lsh(buckets = 8)  attend q.slot == k.slot", "E013"),
            ("axis x[n]  axis y[n]  x -> y: causal  order by lsh(buckets = 4)", "E048"),
            ("order by lsh(buckets = 4)  mix { branch { attend q.bucket == k.bucket } }", "E048"),
        ],
        ["order by lsh(buckets = 4)  attend q.bucket == k.bucket"],
    ),
    "divisors that depend on a position": (
        [("attend k % (q + 1) == 0", "E024")],
        ["input keep: bool[n, n]  attend keep[q, k]"],
    ),
    "weights that are no softmax": ([("weights sigmoid(s)", "E001"), ("dropout 0.1", "E001")], []),
    "values that depend on the query": ([("value v + r[q - k]", "E001")], []),
    "rows of unlike lengths": (
        [],
        ["input doc: int[batch, n] sorted  attend doc[q] == doc[k]", "input length: int[batch]  attend k < length"],
    ),
}


def test_every_row_is_tried() -> None:
    text = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
    table = text.split("### What cannot be said")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == len(ROWS) + 1  # and the head
    for row, begin in zip(rows[1:], ROWS, strict=True):
        assert row.startswith(begin)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_true(row: str) -> None:
    refused, serves = ROWS[row]
    for text, code in refused:
        with pytest.raises(attnspec.SpecError, match=code):
            check_text(f"attention a {{ {text} }}")
    for text in serves:
        check_text(f"attention a {{ {text} }}")


def test_rows_of_unlike_lengths_are_refused() -> None:
    sequences = [torch.zeros(2, 5, 8), torch.zeros(2, 7, 8)]
    for nested in (torch.nested.nested_tensor(sequences), torch.nested.nested_tensor(sequences, layout=torch.jagged)):
        with pytest.raises(attnspec.CallError, match=r"q is a nested tensor.*`packed`"):
            attnspec.compile("causal")(nested, nested, nested)
    with pytest.raises(attnspec.CallError, match=r"must have 4 dimensions .* not \(12, 2, 8\)"):
        attnspec.compile("causal")(*(torch.zeros(12, 2, 8) for _ in range(3)))
