"""Words and signs from elsewhere (PyTorch, FlexAttention, mathematics, C), and what takes their place.

>>> brought("q_idx")
'the position of the query is `q`'
>>> brought("widht")
''
"""

from __future__ import annotations


def brought(word: str) -> str:
    """What takes the place of a word from elsewhere, or nothing."""
    return WORDS.get(word, "")


_SAID = {
    "the position of the query is `q`": "q_idx q_pos q_index query query_idx query_pos i row qi",
    "the position of the key is `k`": "kv_idx k_idx k_pos k_index kv_pos key key_idx key_pos kv j col column ki",
    "the query head is `h`": "head head_idx h_idx head_id hidx",
    "the batch entry is `b`": "batch_idx b_idx batch_id batch_index bidx",
    "the number of keys is `n`": "seq_len seqlen seq_length sequence_length kv_len k_len seqlen_k N L S T",
    "the number of query rows is `n_q`": "q_len query_len seqlen_q seq_len_q Q_LEN",
    "the number of query heads is `heads`": "num_heads n_heads nheads n_head num_attention_heads H",
    "the number of key heads is `kv_heads`": "num_kv_heads n_kv_heads num_key_value_heads",
    "the number of batch entries is `batch`": "batch_size bsz B",
    "write `true`": "True TRUE",
    "write `false`": "False FALSE",
    "write `and`": "AND logical_and and_masks bitwise_and",
    "write `or`, or a second `attend` line": "OR logical_or or_masks bitwise_or",
    "write `not`": "NOT logical_not invert bitwise_not",
    "between predicates write `!=`": "xor XOR logical_xor bitwise_xor",
    "write `not a or b`": "implies",
    "write `if c then a else b`": "where elif cond case when unless select",
    "the remainder is written `a % b`": "mod fmod remainder",
    "whole division rounds downwards: `a // b`": "div floor floor_divide floordiv int trunc",
    "rounded upwards, it is written `(a + b - 1) // b`": "ceil cdiv ceil_div ceildiv",
    "a power is written `a ** b`": "pow power",
    "write `max(a, b)`": "maximum",
    "write `min(a, b)`": "minimum",
    "write `clamp(x, low, high)`": "clip",
    "write `x in list`": "isin contains",
    "a range is written `0..4`": "range arange",
    "functions have no module before them": "torch np jnp math numpy tl",
    "`attend P` says what is seen, `within P` restricts it": (
        "mask mask_mod allow visible see sees keep deny block_mask"
    ),
    "clauses say what is seen: `attend q >= k`": "lambda return def fn function",
    "the score is `s`; write `score s + 0.5 * (k - q)`": "score_mod score qk scores logits",
    "write `score s + bias[h, q - k]`, and declare `input bias: float[...]`": "bias attn_bias alibi_bias",
    "write `score s - alibi_slope(h, heads) * (q - k)`": "alibi slopes alibi_slopes",
    "write `score softcap(s, 50.0)`": "softcap logit_softcapping logits_soft_cap soft_cap",
    "write `scale 0.125`, or give `scale=` in the call": "softmax_scale sm_scale scaling",
    "write `rotate rope(theta = 10000)`": "rope yarn xpos rotary rotary_emb rope_theta apply_rotary",
    "write `order by lsh(buckets = 64)`": "lsh hash bucket",
    "make it a parameter: `attention name(width = 64) { ... }`": (
        "width radius w r block block_size chunk chunk_size stride dilation rate size"
    ),
    "write `linear elu(x) + 1`, and `divide total`": "linear_attention feature_map phi kernel_fn",
    "write `decay gate[b, h, t]`, and declare `input gate: float[batch, heads, n]`": "gate gates forget log_f g_t",
    "there is no dropout of weights": "dropout dropout_p attention_dropout drop",
    "write `causal`": "is_causal causal_mask tril autoregressive",
    "write `k >= q`": "triu anti_causal",
    "write `window(w)` for the last w keys, `band(left, right)` for both sides": (
        "window_size sliding_window sliding local"
    ),
    "without an `attend` line every pair is seen": "dense full bidirectional all_pairs noop no_mask everything",
    "declare it: `input doc: int[batch, n] sorted`": (
        "doc docs doc_id doc_ids document document_id document_ids documents segment_ids seq_ids"
    ),
    "declare it: `input cu_seqlens: int[n] offsets`": "cu_seqlens cu_seqlens_q cu_seqlens_k offsets",
    "declare it: `input length: int[batch]`, and write `within k < length`": "length lengths seqused_k valid_len",
    "declare it: `input live: bool[batch, n]`, and write `within live[k]`": (
        "key_padding_mask attention_mask attn_mask padding_mask pad live"
    ),
    "leave the line out": "None null nil",
}

WORDS = {word: said for said, words in _SAID.items() for word in words.split()}
"""What is said of each word, where it is the name of nothing."""

OPTIONS = {
    **dict.fromkeys(("base", "rope_theta", "rope_base"), "theta"),
    **dict.fromkeys(("dim", "rotary_dim", "rotary_dims", "head_dim"), "dims"),
    **dict.fromkeys(("scaling_factor", "scale"), "factor"),
    **dict.fromkeys(("original_max_position_embeddings", "max_position_embeddings"), "original"),
    **dict.fromkeys(("temperature", "mscale", "attention_scaling"), "attention_factor"),
    **dict.fromkeys(("inv_freq", "freqs"), "frequencies"),
    **dict.fromkeys(("interleaved", "interleave", "style"), "layout"),
    **dict.fromkeys(("num_hashes", "n_hashes"), "rounds"),
    **dict.fromkeys(("num_buckets", "n_buckets"), "buckets"),
}
"""Options of rotations and orders, as they are called elsewhere."""

SIGNS = {
    **dict.fromkeys(("&", "&&", "∧", "⋀"), "write `and`"),
    **dict.fromkeys(("∨", "⋁"), "write `or`"),
    "!": "write `not`, or `!=` for unequal",
    **dict.fromkeys(("~", "¬"), "write `not`"),
    "^": "a power is written `**`; of two predicates one alone holds: `!=`",
    **dict.fromkeys(("≤", "⩽", "≦"), "write `<=`"),
    **dict.fromkeys(("≥", "⩾", "≧"), "write `>=`"),
    "≠": "write `!=`",
    **dict.fromkeys(("×", "·", "∗", "⋅"), "write `*`"),
    "÷": "write `//` for whole numbers, `/` in scores",
    **dict.fromkeys(("−", "–", "—"), "write `-`"),
    "∈": "write `in`",
    "∉": "write `not in`",
    "∀": "write `all i in 0..4: ...`",
    "∃": "write `any i in 0..4: ...`",
    **dict.fromkeys(("∑", "Σ"), "write `sum i in 0..4: ...`"),
    **dict.fromkeys(("→", "⟶"), "write `->`"),
    **dict.fromkeys(("⇒", "⟹"), "write `not a or b`"),
    **dict.fromkeys(("≡", "↔", "⇔"), "write `==`, which predicates have too; a remainder is written `a % b == c`"),
    **dict.fromkeys(("∣", "｜", "‖"), "the absolute value is written `|x|`"),
    **dict.fromkeys(("⌊", "⌋"), "whole division rounds downwards: `a // b`"),
    **dict.fromkeys(("⌈", "⌉"), "rounded upwards, it is written `(a + b - 1) // b`"),
    "²": "write `** 2`",
    "³": "write `** 3`",
    **dict.fromkeys(("∞", "√"), "there is no infinity; a root is written `sqrt(x)`"),
    "…": "a range is written `0..4`",
    "?": "write `if c then a else b`",
    ";": "clauses need nothing between them",
    "\\": "a line goes on without a sign for it",
    **dict.fromkeys(("'", "“", "”", "‘", "’", "«", "»", "`"), 'strings stand in double quotes: "..."'),
    **dict.fromkeys("（），：＝＜＞［］｛｝", "write it in ASCII"),
}
"""What is said of signs that no token begins with."""
