"""Patterns of every clause of the language, with inputs for a call: what each target is tried on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

HEADS = 4
Inputs = Callable[[int, int], dict[str, Tensor]]


def _random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def documents(batch: int, n: int) -> dict[str, Tensor]:
    return {"doc": (_random(batch, n) < 0.03).cumsum(-1)}


def _offsets(batch: int, n: int) -> dict[str, Tensor]:
    return {"doc": torch.tensor([0, min(3, n), n // 2, n // 2, n])}


def _blocks(batch: int, n: int) -> dict[str, Tensor]:
    return {"keep": _random(batch, HEADS, -(-n // 32), -(-n // 32)) < 0.4}


def long_documents(batch: int, n: int) -> dict[str, Tensor]:
    """Two documents, far longer than tiles where there is room."""
    return {"doc": (torch.arange(n) * 5 > torch.arange(batch)[:, None] * 40 + n).long() - 3}


def _lists(batch: int, n: int) -> dict[str, Tensor]:
    return {"top": (_random(batch, HEADS, -(-n // 32), 3) * (n // 32 + 3)).long() - 1}


def slopes(batch: int, n: int) -> dict[str, Tensor]:
    return {"slope": (_random(HEADS) * 0.1).requires_grad_()}


def _table(batch: int, n: int) -> dict[str, Tensor]:
    return {"bias": _random(HEADS, 32).requires_grad_()}


def _full(batch: int, n: int) -> dict[str, Tensor]:
    return {"bias": _random(batch, n, n).requires_grad_()}


def _nothing(batch: int, n: int) -> dict[str, Tensor]:
    return {}


LSH = "order by lsh(buckets = 8, rounds = 2)"
CLAUSES: dict[str, tuple[str, Inputs]] = {
    "documents": ("input doc: int[batch, n] sorted  attend causal and doc[q] == doc[k]", documents),
    "offsets": ("input doc: int[n] offsets  attend doc[q] == doc[k]  within causal", _offsets),
    "documents in a union": ("input doc: int[batch, n] sorted  attend doc[q] == doc[k]  attend k < 5", documents),
    "other documents": ("input doc: int[batch, n] sorted  attend causal and not doc[q] == doc[k]", documents),
    "local window": (
        "input doc: int[batch, n] sorted  within doc[q] == doc[k]"
        "  attend window(20) at (q - first(doc, q), k - first(doc, k))",
        documents,
    ),
    "local sinks": (
        "input doc: int[batch, n] sorted  let place(i) = i - first(doc, i)  within doc[q] == doc[k] and causal"
        "  attend sinks(4) at (place(q), place(k))  attend window(20) at (place(q), place(k))",
        long_documents,
    ),
    "local ends": (
        "input doc: int[n] offsets  within doc[q] == doc[k]  attend last(doc, k) - k < 3"
        "  attend q - first(doc, q) < 2  attend |q - k| < 9 and not k - first(doc, k) == 5",
        lambda b, n: {"doc": torch.tensor([0, n // 9, n // 9, n - n // 3, n])},
    ),
    "local dilated": (
        "input doc: int[batch, n] sorted  within doc[q] == doc[k]"
        "  attend dilated(8, 3) at (q - last(doc, q), k - last(doc, k))",
        documents,
    ),
    "padding": (
        "input length: int[batch]  attend causal  within k < length",
        lambda b, n: {"length": torch.arange(b) * 9 + n // 2},
    ),
    "prefix": (
        "input p: int[batch, heads]  attend causal  attend k < p",
        lambda b, n: {"p": (_random(b, HEADS) * n).long()},
    ),
    "flags by key": ("input live: bool[n]  attend causal and live[k]", lambda b, n: {"live": _random(n) < 0.5}),
    "block table": (
        "input keep: bool[batch, heads, (n + 31) // 32, (n + 31) // 32]  attend causal and keep[q // 32, k // 32]",
        _blocks,
    ),
    "block table in a union": (
        "input keep: bool[batch, heads, (n + 31) // 32, (n + 31) // 32]  attend keep[q // 32, k // 32]"
        "  attend |q - k| < 4",
        _blocks,
    ),
    "block list": (
        "input top: int[batch, heads, (n + 31) // 32, 3]  attend causal and k // 32 in top[q // 32]",
        _lists,
    ),
    "odd blocks": ("input top: int[batch, heads, (n + 31) // 32, 3]  attend (k + 7) // 32 in top[q // 32]", _lists),
    "product of positions": ("attend causal and q * k % 7 < 3", _nothing),
    "alibi": ("attend causal  score s + alibi_slope(h, heads) * (k - q)", _nothing),
    "slopes": ("input slope: float[heads]  attend causal  attend strided(8)  score s + slope[h] * (k - q)", slopes),
    "softcap": ("attend window(40)  score softcap(s, 2.0)", _nothing),
    "learned buckets": (
        "input bias: float[heads, 32]  attend |q - k| < 90  score s + bias[h, t5_bucket(k - q, 32, 128, true)]",
        _table,
    ),
    "full bias": ("input bias: float[batch, n, n]  attend causal  score s / 2 + bias[b, q, k] * 3", _full),
    "floor of a score": ("attend causal  score max(s, -0.25)", _nothing),
    "reals compared": (
        "input slope: float[heads]  attend causal  score if s > slope[h] and q - k < 40 then s ** 2 / 2 else s"
        "  score clamp(s, -1.0, 3 * slope[h]) + min(s, 0.5, (1 + |q - k|) ** -0.5)"
        "  score (3.0 + tanh(s)) ** 1.5 - s ** 3",
        slopes,
    ),
    "two score lines": (
        "attend causal  score s + (k - q) / 16  score tanh(s) * 2.0 + elu(s) - sigmoid(s) * softplus(s) + relu(s)",
        _nothing,
    ),
    "sink": ("input slope: float[heads]  attend window(20) and q > 30  sink slope[h]", slopes),
    "sink of each row": (
        "input slope: float[heads]  input far: float[n_q]  attend window(20) and q > 30"
        "  sink if q % 3 == 0 then slope[h] * 2.0 else far[q] + q / n",
        lambda b, n: {**slopes(b, n), "far": _random(n)},
    ),
    "sink of each row and mixture": (
        "input far: float[batch, heads, n_q]  mix w in [8, 32] weights detached { attend window(w) }  sink far[q]",
        lambda b, n: {"far": _random(b, HEADS, n)},
    ),
    "sink and mixture": (
        "input slope: float[heads]  mix w in [8, 32] weights detached { attend window(w) }  sink slope[h]",
        slopes,
    ),
    "rotations": ("attend causal  rotate rope(theta = 100)  scale 0.3  normalize k", _nothing),
    "axes": (
        "axis token[n]  axis summary[n // 4]  axis latent[7] queries  token -> token: causal"
        "  token -> summary: k < q // 4  summary -> token: q == k // 4  latent -> token: k % 7 == q",
        _nothing,
    ),
    "lsh": (f"{LSH}  attend q.slot // 16 - k.slot // 16 in 0..2  within causal", _nothing),
    "lsh in buckets": (f"{LSH}  attend q.bucket == k.bucket and |q.slot - k.slot| < 12", _nothing),
    "lsh with wraparound": (
        f"{LSH}  attend q.slot // 16 - k.slot // 16 in 0..2"
        "  attend q.slot // 16 == 0 and k.slot // 16 == 2 * n // 16 - 1"
        "  within causal  score if q == k then -50.0 else s  normalize k",
        _nothing,
    ),
    "lines of branches": (
        "input slope: float[heads]  mix { branch { attend window(8)  score s - slope[h] * (q - k) } "
        "branch times 2 { attend window(32)  rotate rope(theta = 100)  scale 0.3 } }  sink slope[h]",
        slopes,
    ),
}
