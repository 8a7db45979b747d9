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


@pytest.mark.parametrize("fed", [True, False])
@pytest.mark.parametrize(("buckets", "rounds", "causal"), [(8, 3, True), ([4, 6], 2, False), (2, 1, True)])
def test_lsh_attention(buckets: Any, rounds: int, causal: bool, fed: bool) -> None:
    """The published layer in float64, by the buckets that it finds in float32.

    It gives a self the logit -1e5, near which float32 has two digits; ours is -1e3. Beside others the exponential of
    either is zero. It adds 1e-6 to the mean square by which it divides keys: an error of 1e-6, inside the tolerance.
    """
    text = TEXT.replace("buckets = 64", f"buckets = {buckets}")
    text = text if causal else text.replace("    within causal\n", "")
    assert causal == ("within causal" in text)
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
