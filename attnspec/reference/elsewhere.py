"""For those who come from FlexAttention, flash-attn, NATTEN or SDPA: twelve masks and two scores, side by side."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.reference.entry import fenced, wrap


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """One mask: what it is called, whose ``theirs`` is (with a note where one is needed), and ours.

    ``theirs`` is Python, ``ours`` are the clauses of an attention. ``tests/reference`` evaluates both over all pairs.
    """

    title: str
    theirs: str
    ours: str
    note: str = ""


TEXT = """\
`q_idx` is `q`, `kv_idx` is `k`, `b` and `h` are the same, and what a `mask_mod` reads from tensors around it is an
input, given by name in the call. There is no block mask to build, and nothing to rebuild when a length changes.
`and_masks` is `and` or `within`, `or_masks` is several `attend` lines.

Tensors are (batch, heads, length, dim), as for SDPA and FlexAttention. flash-attn has (batch, length, heads, dim):
`x.transpose(1, 2)` both ways, without a copy. Its packed (total, heads, dim) is one batch entry here: `x.transpose(0,
1)[None]`. NATTEN's (batch, height, width, heads, dim): `x.flatten(1, 2).transpose(1, 2)`. `enable_gqa` is by shape;
`return_lse=True` gives (out, lse); `softmax_scale` is `scale=`. There is no dropout."""

MASKS = (
    Elsewhere("causal (FlexAttention)", "lambda b, h, q_idx, kv_idx: q_idx >= kv_idx", "attend causal"),
    Elsewhere(
        "causal (SDPA)",
        "scaled_dot_product_attention(q, k, v, is_causal=True)",
        "align start\nattend causal",
        "With fewer queries than keys SDPA's first query stands at the first key. flash-attn's last one stands at "
        "the last key, which is the rule here: leave out `align start`.",
    ),
    Elsewhere(
        "sliding window, causal (FlexAttention)",
        "lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx <= 4)",
        "attend window(5)",
        "`window(w)` counts keys, the query's own included.",
    ),
    Elsewhere(
        "sliding window (flash-attn)",
        "flash_attn_func(q, k, v, window_size=(4, 2))",
        "attend band(4, 2)",
        "With `causal=True`: `attend window(5)`.",
    ),
    Elsewhere(
        "prefix (FlexAttention)",
        "lambda b, h, q_idx, kv_idx: (kv_idx < prefix_length[b]) | (q_idx >= kv_idx)",
        "input prefix_length: int[batch]\nattend k < prefix_length\nattend causal",
    ),
    Elsewhere(
        "documents (FlexAttention)",
        "lambda b, h, q_idx, kv_idx: (document_id[q_idx] == document_id[kv_idx]) & (q_idx >= kv_idx)",
        "input document_id: int[n] sorted\nattend document_id[q] == document_id[k]\nwithin causal",
    ),
    Elsewhere(
        "documents (flash-attn)",
        "flash_attn_varlen_func(q, k, v, cu_seqlens, cu_seqlens, longest, longest, causal=True)",
        "input cu_seqlens: int[n] offsets\nattend cu_seqlens[q] == cu_seqlens[k]\nwithin causal",
    ),
    Elsewhere(
        "padding (SDPA)",
        "scaled_dot_product_attention(q, k, v, attn_mask=live[:, None, None, :])",
        "input live: bool[batch, n]\nwithin live[k]",
        "Where all padding is at one end, `input length: int[batch]  within k < length` knows its tiles without "
        "looking.",
    ),
    Elsewhere(
        "any mask as a tensor (SDPA)",
        "scaled_dot_product_attention(q, k, v, attn_mask=allowed)",
        "input allowed: bool[batch, heads, n_q, n]\nattend allowed[b, h, q, k]",
        "It works, and all tiles are visited: say the rule in place of the tensor, or a table of blocks.",
    ),
    Elsewhere(
        "sinks and a window (FlexAttention)",
        "lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & ((kv_idx < 2) | (q_idx - kv_idx < 3))",
        "attend sinks(2)\nattend window(3)\nwithin causal",
    ),
    Elsewhere(
        "neighbourhood in an image of 4 x 4 (NATTEN)",
        "na2d(q, k, v, kernel_size=3)",
        "attend |clamp(q // 4, 1, 2) - k // 4| <= 1\n    and |clamp(q % 4, 1, 2) - k % 4| <= 1",
        "The shipped `neighborhood_2d_shifted`, height and width 4 and radius 1.",
    ),
    Elsewhere(
        "dilated neighbourhood in a sequence (NATTEN)",
        "na1d(q, k, v, kernel_size=3, dilation=2)",
        "let last(i) = (n - 1 - i % 2) // 2\nattend |clamp(q // 2, 1, last(q) - 1) - k // 2| <= 1\nwithin (q - k) % "
        "2 == 0",
        "With `is_causal=True`: `attend dilated(3, 2)`.",
    ),
)

SCORES = (
    Elsewhere(
        "ALiBi (FlexAttention)",
        "lambda score, b, h, q_idx, kv_idx: score + slopes[h] * (kv_idx - q_idx)",
        "input slopes: float[heads]\nwithin causal\nscore s + slopes[h] * (k - q)",
        "`alibi_slope(h, heads)` has the paper's slopes.",
    ),
    Elsewhere(
        "soft cap (FlexAttention)",
        "lambda score, b, h, q_idx, kv_idx: 50.0 * torch.tanh(score / 50.0)",
        "score softcap(s, 50.0)",
        "flash-attn: `softcap=50.0`.",
    ),
)


def elsewhere() -> str:
    """All of them."""
    return "\n\n".join([wrap(TEXT), *map(_side_by_side, (*MASKS, *SCORES))])


def _side_by_side(item: Elsewhere) -> str:
    shown = fenced(f"# theirs\n{item.theirs}\n# ours\n{item.ours}")
    return "\n\n".join([f"### {item.title}", shown, *([wrap(item.note)] if item.note else [])])
