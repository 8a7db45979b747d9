"""Calls over ranks that simulated ranks and processes are both tried on, of every kind of pattern."""

from __future__ import annotations

import torch

from tests.support.over_ranks import Call
from tests.support.patterns import LONGNET, MIXTURES, PATTERNS

_DOC = torch.tensor([[0] * 30 + [1] * 3 + [2] * 47, [0] * 61 + [5] * 19])
_BIAS = torch.linspace(-1, 1, 80).sin()
_LOGIT = torch.tensor([0.5, -1.0, 2.0, 0.0])


def _floats(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: t.clone().requires_grad_(t.is_floating_point()) for name, t in inputs.items()}


BIASED = """
attention biased {
    input doc: int[batch, n] sorted
    input bias: float[n]
    input logit: float[heads]
    attend causal and doc[q] == doc[k]
    attend k < 2
    rotate rope() at (q - first(doc, q), k - first(doc, k))
    score s + bias[k] - 0.01 * (q - k)
    sink logit[h]
}
"""
SHARES = """
attention shared_out {
    input gate: float[heads]
    mix {
        branch share sigmoid(gate[h]) { attend window(9) }
        branch share 1 - sigmoid(gate[h]) { attend causal and k % 4 == 0 }
    }
}
"""
GLOBAL_SHARES = (
    "attention a { mix { branch share 0.5 { attend q < 2 } branch share 0.25 { attend |q - k| <= 9  attend q < 2 } } }"
)
LATE = """
attention late {
    input late: float[n_q]
    sink late[q]
    mix weights detached { branch { attend dilated(6, 2) } branch { attend causal } }
}
"""
SHARES_BY_HEAD = (
    "attention a { sink 0.5  mix { branch share 0.5 { attend q < [1, 2, 3, 5][h] } branch share 0.25 * (h + 1) {"
    " attend 0 <= q - k <= 9 * h and (q - k) % [1, 2, 3, 5][h] == 0  attend q < 2 } } }"
)
DETACHED_BY_HEAD = (
    "attention a { sink 0.5  mix weights detached { branch times 3 { attend q < [1, 2, 3, 5][h] } branch {"
    " attend |q - k| <= 9 * h  attend q < 3  attend k < 2 } } }"
)
WINDOW = "attention near { attend window(20) }"
SINKS = "attention sunk { input logit: float[heads]  attend window(20)  attend k < 3  within causal  sink logit[h] }"
GAPS = "attention gaps { attend k <= q and q % 3 == 1 and k >= 5 }"

# Text or name, and the call; ranks are 2 to 4.
CASES: dict[str, tuple[str, Call]] = {
    "causal, zigzag": ("causal", Call(83, 4, 2, 2, shard="zigzag")),
    "causal, contiguous": ("causal", Call(80, shard="contiguous")),
    "window": (WINDOW, Call(81, batch=2)),
    "window, wide values": (WINDOW, Call(80, dim=8, dim_v=24, shard="zigzag")),
    "global rows and columns": (PATTERNS["both"], Call(82, heads=4, kv_heads=4)),
    "dilated, residues": ("attention far { attend dilated(6, 4) }", Call(79, shard="residue")),
    "rotations, bfloat16": ("rope", Call(80, dim=32, dtype=torch.bfloat16, shard="zigzag")),
    "window, bfloat16": (WINDOW, Call(170, batch=2, dtype=torch.bfloat16)),
    "sinks, bfloat16": (SINKS, Call(173, dtype=torch.bfloat16, chunks=2, inputs=_floats(logit=_LOGIT))),
    "dilated, residues, bfloat16": (
        "attention far { attend dilated(3, 4) }",
        Call(158, dtype=torch.bfloat16, shard="residue"),
    ),
    "sinks": (SINKS, Call(80, inputs=_floats(logit=_LOGIT))),
    "LongNet": (LONGNET % "", Call(96)),
    "LongNet, detached, residues": (LONGNET % " weights detached", Call(96, shard="residue")),
    "rates by head": (PATTERNS["per head"], Call(80, kv_heads=4)),
    "empty rows": (GAPS, Call(77, shard="greedy", chunks=3)),
    "documents, biases, a sink": (BIASED, Call(80, batch=2, inputs=_floats(doc=_DOC, bias=_BIAS, logit=_LOGIT))),
    "a mixture": (MIXTURES["branches"], Call(120, shard="zigzag", chunks=4)),
    "given shares": (SHARES, Call(80, inputs=_floats(gate=_LOGIT))),
    "one branch, detached": (MIXTURES["one branch, detached"], Call(80)),
    "a sink by position, residues": (LATE, Call(37, shard="residue", inputs=_floats(late=_BIAS[:37]))),
    "shares of global rows": (GLOBAL_SHARES, Call(80)),
    "shares by head, bfloat16": (SHARES_BY_HEAD, Call(81, batch=2, dtype=torch.bfloat16)),
    "detached by head, bfloat16": (DETACHED_BY_HEAD, Call(81, 4, 1, 2, dtype=torch.bfloat16)),
    "fewer positions than ranks": ("causal", Call(2)),
    "one position a rank": ("causal", Call(4)),
    "nothing": (PATTERNS["nothing"], Call(40)),
}
