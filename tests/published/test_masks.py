"""The pairs of shipped specs with axes, inputs or mixtures, counted by formulas written by hand from their sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import attnspec

rng = np.random.default_rng(0)
N = 42
TOP = rng.integers(-1, 12, (2, 4, 11, 2))
RAND = rng.integers(0, 11, (4, 11, 3))
KEEP = rng.random((2, 4, 11, 11)) < 0.3
DOC = np.array([[0] * 10 + [3] * 1 + [4] * 31, [7] * 42])

Formula = Callable[[int, int, int, int], Any]


def longnet(h: int, i: int, j: int, starts: dict[int, int]) -> int:
    on = [all(x % w % r == starts[r] for x in (i, j)) and i // w == j // w for w, r in ((8, 1), (16, 2), (32, 3))]
    return sum(on) * (j <= i)


def bigbird(i: int, j: int) -> bool:
    row, column = i // 4, j // 4
    return abs(row - column) <= 1 or bool({row, column} & {0, 10})


def hierarchical(b: int, h: int, i: int, j: int) -> bool:
    """27 tokens in segments of 8, and 3 summaries of each of the 4 segments."""
    if i < 27 and j < 27:
        return j <= i and i // 8 == j // 8
    if i < 27:
        return (j - 27) // 3 < i // 8
    return j < 27 and (i - 27) // 3 == j // 8


def both_ways(b: int, h: int, i: int, j: int) -> bool:
    """The mask of LM-RMT: causal, and all of a memory block inside it."""
    return j <= i or (i < 5 and j < 5) or (i >= N - 5 and j >= N - 5)


def etc(b: int, h: int, i: int, j: int) -> bool:
    return i < 6 or j < 6 or abs(i - j) <= 5


def longformer_axes(b: int, h: int, i: int, j: int) -> bool:
    """19 tokens, of which 4 are global, against two sets of 19 keys."""
    return (j < 19 and (abs(i - j) <= 3 or j < 4)) if i < 19 else j >= 19


def swin_shifted(b: int, h: int, i: int, j: int) -> bool:
    """Rows and columns 0 | 1 2 3 | 4 5 6 | 7 ...: what torch.roll by -1 puts together, but for what it wraps around."""
    parts = [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    return (parts[i // 7], parts[i % 7]) == (parts[j // 7], parts[j % 7])


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Formula]] = {
    "longnet": (
        {"branches": [[8, 1], [16, 2], [32, 3]]},
        {},
        lambda b, h, i, j: longnet(h, i, j, {r: h % r for r in (1, 2, 3)}),
    ),
    "longnet contiguous": (
        {"branches": [[8, 1], [16, 2], [32, 3]], "contiguous": True},
        {},
        lambda b, h, i, j: longnet(h, i, j, {1: 0, 2: h // 2, 3: h // 2}),
    ),
    "bigbird": (
        {"block": 4},
        {"rand": RAND},
        lambda b, h, i, j: bigbird(i, j) or j // 4 in RAND[h, i // 4],
    ),
    "bigbird_mixture": (
        {"block": 4},
        {"rand": RAND},
        lambda b, h, i, j: bigbird(i, j) + (0 < i // 4 < 10) * int((RAND[h, i // 4] == j // 4).sum()),
    ),
    "packed": ({}, {"doc": DOC}, lambda b, h, i, j: j <= i and DOC[b, i] == DOC[b, j]),
    "packed_offsets": (
        {},
        {"cu_seqlens": [0, 10, 10, 11, 42]},
        lambda b, h, i, j: j <= i and DOC[0, i] == DOC[0, j],
    ),
    "packed_window": (
        {"start": 2, "recent": 5},
        {"doc": DOC},
        lambda b, h, i, j: j <= i and DOC[b, i] == DOC[b, j] and (i - j < 5 or j - list(DOC[b]).index(DOC[b, j]) < 2),
    ),
    "padded": ({}, {"length": [42, 20]}, lambda b, h, i, j: j < [42, 20][b]),
    "left_padded": ({}, {"start": [0, 20]}, lambda b, h, i, j: [0, 20][b] <= j <= i),
    "prefix_lm_lengths": ({}, {"length": [0, 20]}, lambda b, h, i, j: j <= i or j < [0, 20][b]),
    "block_table": ({"block": 4}, {"keep": KEEP}, lambda b, h, i, j: KEEP[b, h, i // 4, j // 4]),
    "block_topk": (
        {"block": 4},
        {"top": TOP},
        lambda b, h, i, j: j <= i and j // 4 in TOP[b, h, i // 4],
    ),
    "hierarchical": ({"segment": 8, "slots": 3}, {}, hierarchical),
    "memory": ({"slots": 5}, {}, lambda b, h, i, j: j <= i),
    "memory both ways": ({"slots": 5, "both_ways": True}, {}, both_ways),
    "rmt": ({"slots": 5}, {}, lambda b, h, i, j: j <= i),
    "rmt_both_ways": ({"slots": 5}, {}, both_ways),
    "hmt": ({"before": 3}, {}, lambda b, h, i, j: j <= i),
    "transformer_xl": ({"length": 9}, {}, lambda b, h, i, j: j <= i + 9),
    "transformer_xl same length": ({"length": 9, "same_length": True}, {}, lambda b, h, i, j: 0 <= i + 9 - j < 9),
    "memory_layers": ({"length": 9}, {}, lambda b, h, i, j: j <= i + 9),
    "etc": ({"globals": 6, "radius": 5}, {}, etc),
    "longformer_axes": ({"width": 6, "globals": 4}, {}, longformer_axes),
    "transformer_xl_positions": ({}, {"position": np.zeros((2, 4, N, N))}, lambda b, h, i, j: j <= i),
    "alibi": ({}, {}, lambda b, h, i, j: j <= i),
    "alibi_window": ({"width": 5}, {}, lambda b, h, i, j: 0 <= i - j < 5),
    "softcap": ({"width": 5}, {}, lambda b, h, i, j: 0 <= i - j < 5),
    "t5_bias": ({}, {"bias": np.zeros((4, 32))}, lambda b, h, i, j: True),
    "t5_bias causal": ({"both_sides": False}, {"bias": np.zeros((4, 32))}, lambda b, h, i, j: j <= i),
    "gpt_oss": ({"width": 5}, {"sinks": np.zeros(4)}, lambda b, h, i, j: 0 <= i - j < 5),
    "rope": ({}, {}, lambda b, h, i, j: j <= i),
    "xpos": ({"block": 5}, {}, lambda b, h, i, j: j <= i and i // 5 - j // 5 <= 1),
    "yarn": ({}, {}, lambda b, h, i, j: j <= i),
    "swin": ({"width": 6, "window": 2}, {}, lambda b, h, i, j: (i // 12, i % 6 // 2) == (j // 12, j % 6 // 2)),
    "swin shifted": ({"width": 7, "window": 3, "shift": 1}, {}, swin_shifted),
    "streaming": ({"start": 2, "recent": 5}, {}, lambda b, h, i, j: j <= i and (j < 2 or i - j < 5)),
}
SIZES = {"hierarchical": (39, 39), "longformer_axes": (38, 23)}
SIZES |= dict.fromkeys(("transformer_xl", "transformer_xl same length", "memory_layers"), (N, N - 9))


@pytest.mark.parametrize("case", CASES)
def test_pairs(case: str) -> None:
    params, inputs, formula = CASES[case]
    n, n_q = SIZES.get(case, (N, N))
    mask = attnspec.read(case.split()[0], params=params).mask(n, n_q, heads=4, batch=2, inputs=inputs)
    assert mask.shape == (2, 4, n_q, n)
    for (b, h, i, j), found in np.ndenumerate(mask):
        assert found == formula(b, h, i, j), (b, h, i, j)


@pytest.mark.parametrize("there", [0, 3, 9])
def test_a_memory_that_fills_is_masked_as_in_transformer_xl(there: int) -> None:
    """With `same_length`, of which the authors' code masks what a triangle above and one below leave.

    Positions that are not there yet are the first of their axis: their columns are left out.
    """
    tokens, length = 6, 9
    params = {"segment": tokens, "length": length, "same_length": True}
    mask = attnspec.read("transformer_xl", params=params).mask(length + tokens, tokens)[0, 0]
    every = np.ones((tokens, there + tokens))
    beyond = there + tokens - length
    hidden = np.triu(every, 1 + there) + np.tril(every, -(tokens - beyond if beyond > 0 else tokens))
    assert (mask[:, length - there :] == (hidden == 0)).all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("bucket", [True, False])
def test_pairs_of_reformer(causal: bool, bucket: bool) -> None:
    """Slot by slot: chunks of 8 in rounds of 42 positions, of which the last chunk is not full."""
    name, rounds, chunk = ("reformer_bucket" if bucket else "reformer"), 3, 8
    text = attnspec.compile(name).program.text
    text = text if causal else text.replace("within causal", "")
    buckets = rng.integers(0, 6, (1, 2, rounds, N))
    params = {"buckets": 6, "rounds": rounds, "chunk": chunk}
    mask = attnspec.read(text, params=params).mask(N, heads=2, inputs={"buckets": buckets})
    for h in range(2):
        slots = [(buckets[0, h, r, i] + 6 * r, i) for r in range(rounds) for i in range(N)]
        slots.sort()
        chunks = [slots[at : at + chunk] for at in range(0, len(slots), chunk)]
        want = np.zeros((N, N), int)
        for at, own in enumerate(chunks):
            for x, i in own:
                for y, j in [*chunks[at - 1], *own]:
                    want[i, j] += (j <= i or not causal) and (x == y or not bucket)
        assert (mask[0, h] == want).all()


HF = {
    "window": ("window", {"width": 7}, lambda m: m.sliding_window_causal_mask_function(7)),
    "causal": ("causal", {}, lambda m: m.causal_mask_function),
    "band": (
        "attention a { attend |q - k| <= 7 }",
        {},
        lambda m: m.sliding_window_bidirectional_mask_function(7),
    ),
    "chunked": ("chunked", {"size": 8}, lambda m: m.chunked_causal_mask_function(8, torch.zeros(2, dtype=torch.int))),
    "chunked, left padding": (
        "attention a { input start: int[batch] within causal attend (q - start) // 8 == (k - start) // 8 }",
        {"start": [0, 5]},
        lambda m: m.chunked_causal_mask_function(8, torch.tensor([0, 5])),
    ),
    "packed": (
        "packed",
        {"doc": DOC},
        lambda m: m.and_masks(m.causal_mask_function, m.packed_sequence_mask_function(torch.from_numpy(DOC))),
    ),
    "left_padded": (
        "left_padded",
        {"start": [0, 20]},
        lambda m: m.and_masks(
            m.causal_mask_function,
            m.padding_mask_function(torch.arange(N) >= torch.tensor([0, 20])[:, None]),
        ),
    ),
}


@pytest.mark.parametrize("case", HF)
def test_masks_of_hugging_face(case: str) -> None:
    masking = pytest.importorskip("transformers.masking_utils")
    source, given, make = HF[case]
    inputs = {key: x for key, x in given.items() if key in ("start", "doc")}
    params = {key: x for key, x in given.items() if key not in inputs}
    function = make(masking)
    mask = attnspec.read(source, params=params).mask(N, heads=1, batch=2, inputs=inputs)
    i, j = torch.arange(N)[:, None], torch.arange(N)[None, :]
    for b in range(2):
        want = function(torch.tensor(b), torch.tensor(0), i, j).expand(N, N)
        assert (mask[b, 0] == want.numpy()).all()
