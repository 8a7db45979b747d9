"""Reformer against Hugging Face's LSH self-attention, with its buckets and with our own."""

from __future__ import annotations

import copy
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

import attnspec
from tests.published.comparing import alike, learned, merge, random, split
from tests.support.marks import slow

pytest.importorskip("transformers")
from transformers.models.reformer.modeling_reformer import LSHSelfAttention

HEADS, DIM, CHUNK, N = 2, 16, 8, 96
TEXT = files("attnspec.specs").joinpath("reformer.attn").read_text(encoding="utf-8")


def published(buckets: Any, rounds: int, causal: bool) -> tuple[Any, dict[str, Tensor]]:
    config = SimpleNamespace(
        lsh_attn_chunk_length=CHUNK,
        num_hashes=rounds,
        num_buckets=buckets,
        lsh_num_chunks_before=1,
        lsh_num_chunks_after=0,
        hash_seed=3,
        is_decoder=causal,
        max_position_embeddings=N,
        lsh_attention_probs_dropout_prob=0.0,
        num_attention_heads=HEADS,
        attention_head_size=DIM,
        hidden_size=HEADS * DIM,
    )
    module = LSHSelfAttention(config, 0).eval()
    return module, learned(module)


def compared(text: str, buckets: Any, rounds: int, causal: bool, fed: bool) -> None:
    """A spec's text against the published layer in float64, by the buckets that it finds in float32.

    It adds 1e-6 to the mean square by which it divides keys: an error of 1e-6, inside the tolerance.
    """
    text = text.replace("buckets = 64", f"buckets = {buckets}")
    attend = attnspec.compile(text, rounds=rounds, chunk=CHUNK, seed=3)
    module, weights = published(buckets, rounds, causal)
    x = random(2, N, HEADS * DIM)
    with torch.random.fork_rng():  # its hash_seed is that of all of torch
        found = module(x).buckets
    own = found - torch.arange(rounds)[:, None] * torch.tensor(buckets).prod()
    exact = copy.deepcopy(module).double()

    def theirs() -> Tensor:
        wide = {name: p.double() for name, p in weights.items()}
        return functional_call(exact, wide, (x.double(),), {"buckets": found}).hidden_states  # type: ignore[no-any-return]

    def mine() -> Tensor:
        qk, v = split(module.query_key(x), HEADS), split(module.value(x), HEADS)
        return merge(attend(qk, qk, v, **({"buckets": own} if fed else {})))

    alike(mine, theirs, {"x": x} | weights)


@pytest.mark.parametrize("fed", [True, False])
@pytest.mark.parametrize(("buckets", "rounds", "causal"), [(8, 3, True), ([4, 6], 2, False), (2, 1, True)])
def test_lsh_attention(buckets: Any, rounds: int, causal: bool, fed: bool) -> None:
    """A self has the logit -1e3 here and -1e5 there: beside others the exponential of either is zero."""
    text = TEXT if causal else TEXT.replace("    within causal\n", "")
    assert causal == ("within causal" in text)
    compared(text, buckets, rounds, causal, fed)


SELF = "score if q == k then -1000.0 else s"
AS_SCORES = "score if q == k then -100000.0 else if k <= q then s else -1000000000.0"


@pytest.mark.parametrize("rounds", [3, slow(1)])
@pytest.mark.parametrize("masked", [slow(False), True])
def test_logits_of_selves_and_masks_as_published(masked: bool, rounds: int) -> None:
    """-1e5 for a self, and -1e9 for what is later: row 0 sees nothing else, in every round.

    In float32, where the log-sum-exp of such a row has two digits, and the published layer is wrong by 7e-3.
    """
    assert SELF in TEXT
    text = TEXT.replace(SELF, "score if q == k then -100000.0 else s")
    if masked:  # nothing is left out, all is in the scores
        text = TEXT.replace(SELF, AS_SCORES).replace("    within causal\n", "")
    compared(text, 8, rounds, True, True)
