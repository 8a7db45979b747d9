"""The dense oracle: scores, sinks, multiplicity, mixtures and orders against other ways to compute the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attnspec.check.check import check_text
from attnspec.errors.source import Source, Span
from attnspec.relation.sizes import Sizes
from attnspec.runtime.dense.softmax import dense, dense_attention
from attnspec.runtime.expressions.real import real
from attnspec.runtime.prepare.inputs import prepare
from attnspec.runtime.prepare.order import lsh
from attnspec.runtime.prepare.rotate import rotate, turned
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.parts import Order, Rotation
from attnspec.spec.spec import Spec

Q, K, H = e.Var("q"), e.Var("k"), e.Var("h")
DISTANCE = e.Add((Q, e.Mul(e.Int(-1), K)))
S = r.Score()


def spec(**fields: Any) -> Spec:
    nowhere = Span(Source("test", ""), 0, 0)
    return Spec("t", (), (), (), "end", "", nowhere, **fields)


def tensors(
    n: int = 7, n_q: int | None = None, heads: int = 2, kv_heads: int | None = None, batch: int = 2, dim: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    n_q, kv_heads = n if n_q is None else n_q, kv_heads or heads
    shapes = ((batch, heads, n_q, dim), (batch, kv_heads, n, dim), (batch, kv_heads, n, dim + 1))
    return tuple(torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes)  # type: ignore[return-value]


def causal(n: int, n_q: int | None = None) -> Tensor:
    n_q = n if n_q is None else n_q
    return torch.arange(n) <= torch.arange(n_q)[:, None] + n - n_q


def alike(got: Tensor, want: Tensor, *sources: Tensor) -> None:
    """Assert that two results agree, and their gradients by each source."""
    torch.testing.assert_close(got, want)
    weights = torch.randn(got.shape, dtype=got.dtype)
    mine, theirs = (torch.autograd.grad((x * weights).sum(), sources, retain_graph=True) for x in (got, want))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_plain_attention_is_that_of_torch(kv_heads: int) -> None:
    q, k, v = tensors(9, 5, heads=4, kv_heads=kv_heads)
    mask = causal(9, 5)
    out, lse = dense(spec(), q, k, v, None, {}, mask)
    want = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    alike(out, want, q, k, v)
    scores = (q @ k.repeat_interleave(4 // kv_heads, 1).transpose(-1, -2) / 2).masked_fill(~mask, float("-inf"))
    alike(lse, scores.logsumexp(-1), q, k)
    again, lse_again = dense_attention(q, k, v, mask, 0.5)
    assert torch.equal(again, out)
    assert torch.equal(lse_again, lse)


def test_the_scale_is_that_of_the_call_then_of_the_spec() -> None:
    q, k, v = tensors()
    mask = torch.ones(7, 7, dtype=torch.bool)
    for given_scale, of_spec, scale in ((None, None, 0.5), (None, 2.0, 2.0), (0.1, 2.0, 0.1)):
        got = dense(spec(scale=of_spec), q, k, v, given_scale, {}, mask)
        alike(got[0], scaled_dot_product_attention(q, k, v, scale=scale), q, k, v)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 6), n_q=st.integers(1, 5), seed=st.integers(0, 10**6), sink=st.booleans())
def test_a_pair_that_counts_twice_is_a_key_that_stands_twice(n: int, n_q: int, seed: int, sink: bool) -> None:
    torch.manual_seed(seed)
    q, k, v = tensors(n, n_q)
    counts = torch.randint(0, 4, (2, 2, n_q, n))
    logit = torch.randn(2, dtype=torch.float64, requires_grad=True)
    t = spec(sink=r.RealRead("logit", (H,)) if sink else None)
    out, lse = dense(t, q, k, v, 0.7, {"logit": logit}, counts)
    for b in range(2):
        for h in range(2):
            for i in range(n_q):
                keys = torch.repeat_interleave(torch.arange(n), counts[b, h, i])
                scores = torch.cat([k[b, h, keys] @ q[b, h, i] * 0.7, logit[h : h + 1] if sink else logit[:0]])
                values = torch.cat([v[b, h, keys], v.new_zeros(int(sink), 5)])
                if not len(scores):
                    assert torch.isneginf(lse[b, h, i])
                    assert not out[b, h, i].any()
                    continue
                alike(out[b, h, i], scores.softmax(0) @ values, q, k, v, *([logit] if sink else []))
                alike(lse[b, h, i], scores.logsumexp(0), q, k, *([logit] if sink else []))


def test_rows_without_pairs_give_zeros_and_zero_gradients() -> None:
    for logit in (None, r.Real(0.5)):
        q, k, v = tensors(4)
        counts = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0]])
        out, lse = dense(spec(sink=logit, score=r.Product(S, r.Real(2.0))), q, k, v, None, {}, counts)
        empty = torch.tensor([0, 3])
        assert not out[:, :, empty].any()
        want = float("-inf") if logit is None else 0.5
        assert (lse[:, :, empty] == want).all()
        for gradient in torch.autograd.grad((out.sum(), lse.masked_fill(lse.isneginf(), 0.0).sum()), (q, k, v)):
            assert gradient.isfinite().all()
        (dq,) = torch.autograd.grad(dense(spec(sink=logit), q, k, v, None, {}, counts)[0].sum(), q)
        assert not dq[:, :, empty].any()


# Scores


def test_score_lines() -> None:
    q, k, v = tensors(8)
    slope = torch.rand(2, dtype=torch.float64, requires_grad=True)
    mask = causal(8)
    distance = (torch.arange(8) - torch.arange(8)[:, None]).double()
    alibi = r.Total((S, r.Product(r.RealRead("slope", (H,)), r.Cast(e.Add((K, e.Mul(e.Int(-1), Q)))))))
    bias = (slope[:, None, None] * distance).masked_fill(~mask, float("-inf"))
    got = dense(spec(score=alibi), q, k, v, None, {"slope": slope}, mask)
    alike(got[0], scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(2, 2, 8, 8)), q, k, v, slope)
    capped = r.Product(r.Real(2.0), r.Apply("tanh", r.Quotient(alibi, r.Real(2.0))))
    out, lse = dense(spec(score=capped), q, k, v, None, {"slope": slope}, mask)
    scores = (2 * torch.tanh((q @ k.transpose(-1, -2) / 2 + slope[:, None, None] * distance) / 2)).masked_fill(
        ~mask, float("-inf")
    )
    alike(out, scores.softmax(-1) @ v, q, k, v, slope)
    alike(lse, scores.logsumexp(-1), q, k, slope)


def test_scores_need_a_value_only_where_there_are_pairs() -> None:
    """The logarithm of a distance has no value before the diagonal; nor may it spoil a gradient there."""
    q, k, v = tensors(6)
    slope = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    past = r.Apply("log", r.Cast(e.Add((DISTANCE, e.Int(1)))))
    t = spec(score=r.Total((S, r.Product(r.RealRead("slope", ()), past))))
    out, lse = dense(t, q, k, v, None, {"slope": slope}, causal(6))
    for gradient in torch.autograd.grad((out.sum(), lse.sum()), (q, k, v, slope)):
        assert gradient.isfinite().all()
    assert torch.autograd.gradcheck(lambda *x: dense(t, *x[:3], None, {"slope": x[3]}, causal(6)), (q, k, v, slope))


def test_scores_by_batch_entry_and_head_and_query_position() -> None:
    q, k, v = tensors(5, 3)
    bias = torch.randn(2, 2, 5, dtype=torch.float64, requires_grad=True)
    t = spec(score=r.Total((S, r.RealRead("bias", (e.Var("b"), H, Q)), r.Cast(K))))
    out, lse = dense(t, q, k, v, 1.0, {"bias": bias}, torch.ones(3, 5))
    scores = q @ k.transpose(-1, -2) + bias[:, :, 2:, None] + torch.arange(5)
    alike(out, scores.softmax(-1) @ v, q, k, v, bias)
    alike(lse, scores.logsumexp(-1), q, k, bias)


def test_a_sink_by_batch_entry_and_head() -> None:
    q, k, v = tensors(5)
    logit = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    t = spec(sink=r.Total((r.RealRead("logit", (e.Var("b"), H)), r.Cast(H))))
    out, lse = dense(t, q, k, v, 1.0, {"logit": logit}, causal(5))
    scores = (q @ k.transpose(-1, -2)).masked_fill(~causal(5), float("-inf"))
    column = (logit + torch.arange(2))[..., None, None].expand(2, 2, 5, 1)
    whole = torch.cat([scores, column], -1)
    alike(out, whole.softmax(-1)[..., :-1] @ v, q, k, v, logit)
    alike(lse, whole.logsumexp(-1), q, k, logit)


def test_rotations_and_normalized_vectors() -> None:
    rope = Rotation("rope", (("theta", 100.0), ("dims", 0), ("layout", "half")), Q, K)
    q, k, v = tensors(6, 4, heads=4, kv_heads=2)
    out, _ = dense(spec(rotations=(rope,), normalized=frozenset("k")), q, k, v, None, {}, causal(6, 4))
    a = rotate(q, range(2, 6), rope, "q")
    b = rotate(k / k.norm(dim=-1, keepdim=True), range(6), rope, "k")
    want = scaled_dot_product_attention(a, b, v, attn_mask=causal(6, 4), enable_gqa=True)
    alike(out, want, q, k, v)


# Mixtures


def branches(n: int) -> list[Tensor]:
    """Dilated segments as in LongNet; one row is in none of them."""
    i = torch.arange(n)
    found = []
    for width, rate in ((4, 1), (8, 2)):
        on = (i % width) % rate == 0
        found.append(causal(n) & (i[:, None] // width == i // width) & on[:, None] & on)
    for branch in found:
        branch[5] = False
    return found


def parts(q: Tensor, k: Tensor, v: Tensor, masks: list[Tensor]) -> tuple[Tensor, Tensor]:
    outs, lses = zip(*(dense_attention(q, k, v, mask, 0.5) for mask in masks), strict=True)
    return torch.stack(outs), torch.stack(lses)


def test_a_mixture_combines_its_branches_by_their_denominators() -> None:
    q, k, v = tensors(16)
    masks = branches(16)
    got, lse = dense(spec(), q, k, v, None, {}, masks)
    assert torch.equal(got, dense(spec(), q, k, v, None, {}, masks[0].int() + masks[1].int())[0])
    outs, lses = parts(q, k, v, masks)
    weights = lses.masked_fill(lses.isneginf(), -1e9).softmax(0)
    alike(got, (weights[..., None] * outs).sum(0), q, k, v)
    assert lse[:, :, 5].isneginf().all()


@pytest.mark.parametrize("sink", [False, True])
def test_detached_weights_change_the_gradient_alone(sink: bool) -> None:
    """The published LongNet code: out = sum of alpha_p O_p with alpha computed without gradient."""
    q, k, v = tensors(16)
    masks = branches(16)
    logit = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    line = r.RealRead("logit", ()) if sink else None
    plain = dense(spec(sink=line), q, k, v, None, {"logit": logit}, masks)
    got = dense(spec(sink=line, detached=True), q, k, v, None, {"logit": logit}, masks)
    torch.testing.assert_close(got[0], plain[0])
    alike(torch.where(got[1].isneginf(), 0.0, got[1]), torch.where(plain[1].isneginf(), 0.0, plain[1]), q, k)
    outs, lses = parts(q, k, v, masks)
    with torch.no_grad():
        all_ = torch.cat([lses, logit.expand(1, 2, 2, 16)]) if sink else lses
        alpha = all_.masked_fill(all_.isneginf(), -1e9).softmax(0)[:2]
    alike(got[0], (alpha[..., None] * outs).sum(0), q, k, v)
    differ = [torch.autograd.grad(x[0].square().sum(), q)[0] for x in (got, plain)]
    assert (differ[0] - differ[1]).abs().max() > 1e-3


# Orders


@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize("rounds", [1, 3])
def test_reformer_is_that_of_hugging_face(decoder: bool, rounds: int) -> None:
    pytest.importorskip("transformers")
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    n, heads, dim, chunk, total = 64, 2, 16, 8, 8
    config = ReformerConfig(
        hidden_size=heads * dim,
        num_attention_heads=heads,
        attention_head_size=dim,
        num_hashes=rounds,
        num_buckets=total,
        lsh_attn_chunk_length=chunk,
        lsh_num_chunks_before=1,
        lsh_num_chunks_after=0,
        lsh_attention_probs_dropout_prob=0.0,
        is_decoder=decoder,
        hash_seed=1,
    )
    # In single precision a self score of -1e5 leaves three digits for the weights of the rounds.
    theirs = LSHSelfAttention(config, 0).eval().double()
    x = torch.randn(2, n, heads * dim, dtype=torch.float64)
    with torch.no_grad(), torch.random.fork_rng():
        found = theirs(x)
    qk, v = (layer(x).view(2, n, heads, dim).transpose(1, 2).detach() for layer in (theirs.query_key, theirs.value))
    slots = lsh(qk, Order((total,), rounds, 1), found.buckets - torch.arange(rounds)[:, None] * total)
    # Every slot sees its own chunk and the one before, around the end; what stands there is counted by position.
    chunks = slots.order.long().view(2, heads, -1, chunk)
    keys = torch.cat([chunks.roll(1, dims=2), chunks], dim=-1)
    counts = torch.zeros(2, heads, n, n, dtype=torch.long)
    b, h = torch.meshgrid(torch.arange(2), torch.arange(heads), indexing="ij")
    pairs = (*(t[..., None, None, None].expand(*keys.shape[:3], chunk, 2 * chunk) for t in (b, h)),)
    rows = chunks[..., :, None].expand(*keys.shape[:3], chunk, 2 * chunk)
    counts.index_put_((*pairs, rows, keys[..., None, :].expand_as(rows)), torch.tensor(1), accumulate=True)
    if decoder:
        counts = counts * causal(n)
    demoted = r.Choose(e.Cmp("==", Q, K), r.Real(-1e5), S)
    out, _ = dense(spec(score=demoted, scale=1.0, normalized=frozenset("k")), qk, qk, v, None, {}, counts)
    want = found.hidden_states.view(2, n, heads, dim).transpose(1, 2)
    torch.testing.assert_close(out, want, atol=2e-5, rtol=1e-4)


# Real expressions


def test_a_side_that_is_not_chosen_has_no_gradient() -> None:
    slope = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    score = torch.ones(3, 3, dtype=torch.float64, requires_grad=True)
    read = r.RealRead("slope", (e.Int(0),))
    past = r.Product(read, r.Apply("sqrt", r.Cast(DISTANCE)))
    node = r.Choose(e.Cmp("<=", K, Q), r.Total((S, past)), r.Product(S, r.Real(3.0)))
    env = {"q": np.arange(3)[:, None], "k": np.arange(3)[None, :]}
    got = real(node, env, {"slope": slope}, score)
    ds, dscore = torch.autograd.grad(got.sum(), (slope, score))
    assert got[0].tolist() == [1.0, 3.0, 3.0]
    torch.testing.assert_close(ds, torch.tensor([2 + 2**0.5], dtype=torch.float64))
    assert dscore.tolist() == [[1, 3, 3], [1, 1, 3], [1, 1, 1]]


def test_reads_outside_are_zero() -> None:
    bias = torch.ones(4, dtype=torch.float32, requires_grad=True)
    env = {"k": np.arange(-2, 7)}
    got = real(r.RealRead("bias", (K,)), env, {"bias": bias}, dtype=torch.float64)
    assert got.tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 0]
    assert torch.autograd.grad(got.sum(), bias)[0].tolist() == [1, 1, 1, 1]
    assert not real(r.RealRead("bias", (K,)), env, {"bias": bias[:0]}).any()
    with pytest.raises(ValueError, match="`s` has no value"):
        real(S, env, {})


# Whole specs


LONGNET = """
attention a {
    mix (w, r) in [(4, 1), (8, 2)] {
        let on(i) = i % w % r == h % r
        attend causal and q // w == k // w and on(q) and on(k)
    }
    rotate rope(theta = 100)
}"""
GPT_OSS = """
attention a {
    input logit: float[heads]
    attend window(3)
    sink logit[h]
}"""
ALIBI = """
attention a {
    input doc: int[batch, n] offsets
    attend causal and doc[q] == doc[k]
    score softcap(s, 5) + alibi_slope(h, heads) * (k - q)
    normalize k
    scale 3
    rotate rope(theta = 10) at (q - first(doc, q), k - first(doc, k))
}"""
AXES = """
attention a {
    axis token[n]
    axis summary[n // 4]
    input bias: float[n]
    token -> token: causal
    token -> summary: k < q // 4
    summary -> token: k // 4 == q
    score s + bias[k]
}"""


@pytest.mark.parametrize("weights", ["", "weights detached"])
def test_a_mixture_from_its_text(weights: str) -> None:
    t = check_text(LONGNET.replace("{\n        let", f"{weights} {{\n        let"))
    assert t.detached == bool(weights)
    q, k, v = tensors(16)
    given_counts = torch.from_numpy(t.mask(16, heads=2, batch=2))
    counts: Any = given_counts
    if t.detached:
        counts = [torch.from_numpy(replace(t, mixture=(b,)).mask(16, heads=2, batch=2)) for b in t.mixture]
    out, _ = dense(t, q, k, v, None, {}, counts)
    a, b = turned(t, q, k, Sizes(16, 16, 2, 2, 2))
    weights = given_counts * torch.exp(a @ b.transpose(-1, -2) / 2)
    torch.testing.assert_close(out, weights / weights.sum(-1, keepdim=True).clamp_min(1e-30) @ v)


def test_scores_of_documents_from_their_text() -> None:
    t = check_text(ALIBI)
    q, k, v = tensors(9)
    doc = torch.tensor([[0, 3, 9], [0, 9, 9]])
    counts = torch.from_numpy(t.mask(9, heads=2, batch=2, inputs={"doc": doc.numpy()}))
    ready = prepare(t, Sizes(9, 9, 2, 2, 2), {"doc": doc}, real=torch.float64)
    out, lse = dense(t, q, k, v, None, ready, counts)
    # The first batch entry is two sequences, each by itself.
    bare = check_text(
        ALIBI.replace("doc[q] == doc[k]", "true").replace("first(doc, q)", "0").replace("first(doc, k)", "0")
    )
    for b, start, stop in ((0, 0, 3), (0, 3, 9), (1, 0, 9)):
        rows = slice(start, stop)
        part = [x[b : b + 1, :, rows] for x in (q, k, v)]
        want = dense(bare, *part, None, {"alibi.slope": ready["alibi.slope"]}, causal(stop - start))
        torch.testing.assert_close(out[b : b + 1, :, rows], want[0])
        torch.testing.assert_close(lse[b : b + 1, :, rows], want[1])


def test_axes_and_a_sink_from_their_text() -> None:
    t = check_text(AXES)
    q, k, v = tensors(10)
    bias = torch.randn(8, dtype=torch.float64, requires_grad=True)
    counts = torch.from_numpy(t.mask(10, heads=2, batch=2, inputs={"bias": bias.detach().numpy()}))
    out, _ = dense(t, q, k, v, None, {"bias": bias}, counts)
    extra = torch.cat([bias, bias.new_zeros(2)]).masked_fill(~counts, float("-inf"))
    alike(out, scaled_dot_product_attention(q, k, v, attn_mask=extra), q, k, v, bias)
    t = check_text(GPT_OSS)
    logit = torch.randn(2, dtype=torch.float64, requires_grad=True)
    out, _ = dense(t, q, k, v, None, {"logit": logit}, causal(10).triu(-2))
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(~causal(10).triu(-2), float("-inf"))
    whole = torch.cat([scores, logit[:, None, None].expand(2, 2, 10, 1)], -1).softmax(-1)
    alike(out, whole[..., :-1] @ v, q, k, v, logit)
