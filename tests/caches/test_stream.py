"""A cache of states gives what a call with all keys gives, however the tokens come, and does not grow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.runtime.attention import Attention
from attnspec.runtime.caches.cache import Cache
from attnspec.runtime.core.arguments import CallError
from tests.support.marks import slow
from tests.support.oracle import TOLERANCE, close

HEADS, KEY_HEADS, BATCH, DIM = 4, 2, 2, 8
CHUNKS = (7, 1, 1, 5, 0, 1, 3, 1)
N = sum(CHUNKS)
DOCUMENTS = torch.stack([torch.arange(N) // 8, torch.arange(N) // 5])
CHUNKED = "attention chunked { attend causal and k // 4 >= q // 4 - 1  linear softmax(x)  divide total }"
GATED = """attention gated {
    input g: float[batch, heads, n]
    attend causal and k // 4 <= q // 4
    linear elu(x) + 1  decay g[b, h, t]  divide total + 0.5
}"""
PACKED = """attention packed {
    input cu: int[batch, n] offsets  input g: float[batch, heads, n]
    attend causal and cu[b, q] == cu[b, k]
    linear relu(x)  decay g[b, h, t]  divide total + 0.5
}"""
BEHIND = """attention behind {
    input g: float[batch, heads, n]
    attend k <= q - 3
    linear elu(x) + 1  decay g[b, h, t]  divide total + 0.1 * mass  rotate rope()
}"""
NEAR = "attention near { attend window(4)  linear [softmax(x), softmax(-x)]  divide total }"
SINKS = "attention sinks { attend causal and (k // 4 <= q // 4 - 2 or k > q - 2)  linear exp(x) }"
EACH = "attention each { attend 2 <= q - k < 6 or h == 1 and k <= q  linear exp(x)  divide each total }"
SORTED = """attention sorted {
    input doc: int[batch, n] sorted  attend doc[b, q] == doc[b, k] and q - k >= 2  linear relu(x)  divide total
}"""
CASES: dict[str, dict[str, Tensor]] = {
    "linear": {},
    "latte": {},
    "retention": {},
    "tost": {},
    "gla": {"gate": -torch.rand(BATCH, HEADS, N, DIM)},
    "gated_delta": {"gate": -torch.rand(BATCH, HEADS, N), "beta": torch.rand(BATCH, HEADS, N)},
    "linear_documents": {"doc": DOCUMENTS},
    CHUNKED: {},
    GATED: {"g": -torch.rand(BATCH, HEADS, N)},
    BEHIND: {"g": -torch.rand(BATCH, HEADS, N)},
    NEAR: {},
    SINKS: {},
    EACH: {},
    SORTED: {"doc": DOCUMENTS},
    PACKED: {"g": -torch.rand(BATCH, HEADS, N), "cu": torch.tensor([[0, 3, 3, 8, N, N, N], [0, 7, 8, 9, 10, 13, N]])},
}
QUICK = ("linear", "gla", "gated_delta", "linear_documents", CHUNKED, GATED, PACKED, BEHIND, NEAR)


def new(attend: Attention, **more: Any) -> Cache:
    """An empty cache."""
    return Cache(attend, batch=BATCH, kv_heads=KEY_HEADS, heads=HEADS, dim=DIM, **more)


def vectors(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a whole sequence."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(BATCH, h, N, DIM, generator=generator).to(dtype) for h in (HEADS, KEY_HEADS, KEY_HEADS))
    return q, k, v


def cut(inputs: dict[str, Tensor], first: int, end: int) -> dict[str, Tensor]:
    """Those of some tokens; documents by offsets are those of all up to them."""
    return {
        name: t.clamp(max=end) if name == "cu" else t[:, first:end] if name == "doc" else t[:, :, first:end]
        for name, t in inputs.items()
    }


def agree(text: str, inputs: dict[str, Tensor], target: str, own: bool, dtype: torch.dtype = torch.float32) -> Cache:
    """Write a sequence in chunks; rows are those of the whole. ``own``: inputs are those of tokens not in the state."""
    attend = attnspec.compile(text, target=target)
    cache, (q, k, v), at = new(attend, dtype=dtype), vectors(dtype), 0
    for count in CHUNKS:
        end = at + count
        cache.append(k[:, :, at:end], v[:, :, at:end])
        first = cache.positions[0][0].start if own and count else 0
        given = cut(inputs, first, end)
        out = cache.attend(q[:, :, at:end], inputs=given)
        assert (out.dtype, cache.n) == (dtype, end)
        whole = cut(inputs, 0, end)
        vectors_so_far = (t[:, :, :end].double() for t in (q, k, v))
        exact = {name: t.double() if t.is_floating_point() else t for name, t in whole.items()}
        want = attnspec.compile(text, target="dense")(*vectors_so_far, inputs=exact)[:, :, at:]
        close("rows", out, want, TOLERANCE[dtype])
        again = cache.attend(q[:, :, at:end][:, :, -1:], inputs=given)
        close("the last row again", again, want[:, :, -1:], TOLERANCE[dtype])
        at = end
    return cache


@pytest.mark.parametrize("text", [text if text in QUICK else slow(text) for text in CASES])
def test_rows_are_those_of_the_whole_sequence(text: str) -> None:
    agree(text, CASES[text], "dense", False)
    if "doc" not in CASES[text]:
        agree(text, CASES[text], "dense", True)


@pytest.mark.parametrize(
    "text",
    ["linear", slow("tost"), slow("gated_delta"), slow("linear_documents"), slow(CHUNKED), slow(BEHIND), slow(NEAR)],
)
def test_kernels(text: str) -> None:
    agree(text, CASES[text], "auto", False)


@pytest.mark.slow
def test_half_precision() -> None:
    agree("linear", {}, "auto", False, torch.bfloat16)


def test_memory_does_not_grow() -> None:
    cache, (q, k, v), sizes = new(attnspec.compile("linear", target="dense")), vectors(), set()
    for i in range(N):
        now = slice(i, i + 1)
        cache.append(k[:, :, now], v[:, :, now])
        out, lse = cache.attend(q[:, :, now], return_lse=True)
        assert out.shape[:3] == lse.shape == (BATCH, HEADS, 1)
        if i:
            sizes.add(cache.bytes)
    state = BATCH * KEY_HEADS * DIM * (DIM + 1) * 4
    assert sizes == {state + 2 * BATCH * KEY_HEADS * DIM * 4}
    assert str(cache) == f"Cache(linear: {N} tokens, a state, {cache.bytes} bytes)"
    assert (cache.kept, cache.positions) == ((), ((range(N - 1, N),),))
    cache.reset()
    assert (cache.n, cache.bytes) == (0, 0)
    assert "a state and up to 3 keys" in str(new(attnspec.compile(CHUNKED)))


def test_entries_of_the_batch_change_places() -> None:
    attend, (q, k, v) = attnspec.compile(CHUNKED, target="dense"), vectors()
    cache, order = new(attend), torch.tensor([1, 1, 0])
    for now in (slice(0, 6), slice(6, 9)):
        cache.append(k[:, :, now], v[:, :, now])
        cache.attend(q[:, :, now])
    cache.reorder(order)
    q, k, v = (t.index_select(0, order) for t in (q, k, v))
    cache.append(k[:, :, 9:], v[:, :, 9:])
    close("rows", cache.attend(q[:, :, 9:]), attend(q, k, v)[:, :, 9:].double(), 1e-5)


def test_what_cannot_be_kept_is_refused() -> None:
    strides = "attention a { attend causal and (q - k) % 4 == 0  linear x }"
    for text, why in ((strides, "4 states"), ("performer_causal", "stable = none")):
        with pytest.raises(CallError, match=why):
            new(attnspec.compile(text, target="dense"))
    plain = (
        "attention a { input doc: int[batch, n, n] sorted  attend causal and doc[b, 0, q] == doc[b, 0, k]  linear x }"
    )
    with pytest.raises(CallError, match="documents are `sorted` numbers or `offsets`"):
        new(attnspec.compile(plain, target="dense"))
    cache, (q, k, v) = new(attnspec.compile(PACKED, target="dense")), vectors()
    cache.append(k[:, :, :4], v[:, :, :4])
    with pytest.raises(CallError, match=f"`cu` must end with offset 4, not {N}"):
        cache.attend(q[:, :, :4], g=CASES[PACKED]["g"][:, :, :4], cu=CASES[PACKED]["cu"])
    cache = new(attnspec.compile("gla", target="dense"))
    with pytest.raises(CallError, match="the cache is empty"):
        cache.attend(q)
    for now in (slice(0, 4), slice(4, 8)):
        cache.append(k[:, :, now], v[:, :, now])
        cache.attend(q[:, :, now], gate=CASES["gla"]["gate"][:, :, now])
    with pytest.raises(CallError, match="`gate` has 5 entries by position; there are 8 tokens, 4 of which"):
        cache.attend(q[:, :, 4:8], gate=CASES["gla"]["gate"][:, :, :5])
    with pytest.raises(CallError, match="were dropped"):
        cache.attend(q[:, :, :8], gate=CASES["gla"]["gate"][:, :, :8])
    with pytest.raises(CallError, match="no logarithm"):
        cache.attend(q[:, :, :1], return_lse=True, gate=CASES["gla"]["gate"][:, :, :8])
    with pytest.raises(CallError, match="asks for gradients"):
        cache.append(k[:, :, :1].clone().requires_grad_(), v[:, :, :1])
