"""LSH orders: hashing, sorting, and that buckets and attention are those of Hugging Face's Reformer."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.prepare.order import hash_buckets, lsh, rotations, sort
from attnspec.spec.parts import Order


def naive(x: Tensor, order: Order) -> Tensor:
    """The definition, on whole tensors: (batch, heads, rounds, n)."""
    projected = torch.einsum("bhnd,hdrk->bhrnk", x, rotations(order, x.shape[1], x.shape[3]).to(x.dtype))
    total, step, at = torch.zeros(projected.shape[:-1], dtype=torch.long), 1, 0
    for factor in order.buckets:
        part = projected[..., at : at + factor // 2]
        total = total + step * torch.cat([part, -part], dim=-1).argmax(dim=-1)
        step, at = step * factor, at + factor // 2
    return total


@settings(max_examples=40, deadline=None)
@given(
    buckets=st.lists(st.integers(1, 5).map(lambda x: 2 * x), min_size=1, max_size=3),
    rounds=st.integers(1, 3),
    n=st.integers(0, 40),
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_hashing_and_sorting(
    buckets: list[int], rounds: int, n: int, batch: int, heads: int, dtype: torch.dtype
) -> None:
    order = Order(tuple(buckets), rounds, seed=3)
    x = torch.randn(batch, heads, n, 8, dtype=dtype, requires_grad=True)
    got = hash_buckets(x, order)
    assert got.dtype == torch.int32
    assert torch.equal(got.long(), naive(x.detach(), order))
    slots = lsh(x, order)
    assert slots.order.dtype == slots.bucket.dtype == torch.int32
    assert slots.order.shape == slots.bucket.shape == (batch, heads, rounds * n)
    total = prod(buckets)
    for b in range(batch):
        for h in range(heads):
            places = [(int(got[b, h, r, i]) + r * total, i) for r in range(rounds) for i in range(n)]
            want = sorted(places)
            assert slots.order[b, h].tolist() == [i for _, i in want]
            assert slots.bucket[b, h].tolist() == [bucket for bucket, _ in want]


def test_length_does_not_matter_and_no_gradient_passes() -> None:
    order = Order((16,), 2, 0)
    x = torch.randn(1, 2, 50, 16, requires_grad=True)
    assert torch.equal(hash_buckets(x, order), hash_buckets(3 * x, order))
    assert not lsh(x, order).order.requires_grad
    assert torch.equal(hash_buckets(x.bfloat16(), order), hash_buckets(x.bfloat16().float(), order))


def test_many_rows_are_hashed_in_pieces() -> None:
    order = Order((64, 32), 4, 1)
    x = torch.randn(1, 1, 9000, 16)
    assert torch.equal(hash_buckets(x, order).long(), naive(x, order))


def test_the_seed_decides() -> None:
    x = torch.randn(1, 2, 100, 16)
    assert torch.equal(hash_buckets(x, Order((16,), 2, 5)), hash_buckets(x, Order((16,), 2, 5)))
    assert not torch.equal(hash_buckets(x, Order((16,), 2, 5)), hash_buckets(x, Order((16,), 2, 6)))
    first, second = hash_buckets(x, Order((16,), 2, 5)).unbind(2)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("buckets", [(4,), (1 << 10, 1 << 10)])
def test_sorting_is_stable_with_few_and_many_buckets(buckets: tuple[int, ...]) -> None:
    order = Order(buckets, 2, 0)
    given = torch.randint(0, 4, (2, 3, 2, 200))
    slots = sort(given, order)
    by_round = given.sort(dim=-1, stable=True)
    assert torch.equal(slots.order.view(2, 3, 2, 200).long(), by_round.indices)
    assert torch.equal(slots.bucket.view(2, 3, 2, 200)[:, :, 1].long(), by_round.values[:, :, 1] + prod(buckets))


def test_buckets_may_be_given() -> None:
    order = Order((4,), 1, 0)
    x = torch.randn(1, 1, 3, 8)
    given = torch.tensor([3, 0, 3]).view(1, 1, 1, 3)
    for dtype in (torch.int64, torch.int32, torch.uint8):
        assert lsh(x, order, given.to(dtype)).order.tolist() == [[[1, 0, 2]]]
    with pytest.raises(CallError, match="must be integers"):
        lsh(x, order, given.float())
    with pytest.raises(CallError, match=r"\(1, 1, 1, 3\), not \(1, 1, 3\)"):
        lsh(x, order, given[0])
    with pytest.raises(CallError, match="between 0 and 3; they are between 1 and 4"):
        lsh(x, order, given + 1)
    with pytest.raises(CallError, match="between 0 and 3"):
        lsh(x, order, given - 1)
    with pytest.raises(ValueError, match="even"):
        lsh(x, Order((3,), 1, 0))


@pytest.mark.parametrize("buckets", [[8], [4, 6]])
def test_buckets_are_those_of_hugging_face(buckets: list[int]) -> None:
    pytest.importorskip("transformers")
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    config = ReformerConfig(
        hidden_size=32,
        num_attention_heads=2,
        attention_head_size=16,
        num_hashes=3,
        num_buckets=buckets if len(buckets) > 1 else buckets[0],
        lsh_attn_chunk_length=8,
        hash_seed=7,
    )
    attention = LSHSelfAttention(config, 0).eval()
    vectors = torch.randn(2, 2, 64, 16)
    with torch.random.fork_rng():
        theirs = attention._hash_vectors(vectors, 3, None).view(2, 2, 3, 64)
    ours = hash_buckets(vectors, Order(tuple(buckets), 3, 7))
    offsets = torch.arange(3)[:, None] * prod(buckets)
    assert torch.equal(ours.long() + offsets, theirs)
    sorted_, _ = attention._get_sorted_bucket_idx_and_undo_sorted_bucket_idx(64, theirs.flatten(2), 3)
    assert torch.equal(sort(ours, Order(tuple(buckets), 3, 7)).order.long(), sorted_ % 64)
