"""A cache gives what a call with all keys gives, however the tokens come, whatever it dropped."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.relation.sizes import Sizes
from attnspec.runtime import attend as around
from attnspec.runtime.attention import Attention
from attnspec.runtime.caches.cache import Cache
from attnspec.runtime.cpp import prepared, structures
from attnspec.runtime.prepare import tables
from attnspec.runtime.prepare.example import example
from tests.support.marks import slow
from tests.support.oracle import TOLERANCE, close
from tests.support.shipped import FUSED, SMALL

HEADS, KEY_HEADS, BATCH, DIM = 4, 2, 2, 32
CHUNKS = (50, 1, 1, 7, 0, 18, 1, 30, 1, 1)
"""Tokens that come together: more than rings have room for, and few."""


def vectors(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a whole sequence."""
    generator = torch.Generator().manual_seed(3)
    heads = (HEADS, KEY_HEADS, KEY_HEADS)
    q, k, v = (torch.randn((BATCH, h, n, DIM), generator=generator).to(dtype) for h in heads)
    return q, k, v


def steps(chunks: tuple[int, ...]) -> Iterator[slice]:
    """The tokens of each chunk."""
    at = 0
    for count in chunks:
        yield slice(at, at + count)
        at += count


def inputs_of(attend: Attention, n: int, n_q: int) -> dict[str, Tensor]:
    """Those of a call of these lengths."""
    sizes = Sizes(n, n_q, HEADS, KEY_HEADS, BATCH, attend.spec.align == "end")
    return example(attend.spec, sizes, torch.Generator().manual_seed(n))


def new(attend: Attention, **more: Any) -> Cache:
    """An empty cache."""
    return Cache(attend, batch=BATCH, kv_heads=KEY_HEADS, heads=HEADS, dim=DIM, **more)


def agree(attend: Attention, chunks: tuple[int, ...] = CHUNKS, dtype: torch.dtype = torch.float32) -> Cache:
    """Write a sequence in chunks; assert that all rows are those of the dense form over all keys."""
    cache = new(attend, dtype=dtype)
    q, k, v = vectors(sum(chunks), dtype)
    for now in steps(chunks):
        cache.append(k[:, :, now], v[:, :, now])
        inputs = inputs_of(attend, now.stop, now.stop - now.start)
        out, lse = cache.attend(q[:, :, now], return_lse=True, inputs=inputs)
        exact = {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}
        past = slice(0, now.stop)
        given = (q[:, :, now].double(), k[:, :, past].double(), v[:, :, past].double())
        want, want_lse = around.dense(attend.spec, *given, None, exact)
        assert (out.dtype, lse.dtype, cache.n) == (dtype, torch.float32, now.stop)
        empty = torch.isinf(want_lse)
        assert torch.equal(torch.isinf(lse), empty)
        close("lse", lse.masked_fill(empty, 0.0), want_lse.masked_fill(empty, 0.0), TOLERANCE[dtype])
        close("out", out, want, TOLERANCE[dtype])
    return cache


OWN = {
    "rotated": "attention rotated { attend window(20) attend k < 3 within causal rotate rope() }",
    "renumbered": "attention renumbered { attend window(20) rotate rope() at (q // 2, k // 2) normalize k }",
    "by_length": "attention by_length { attend window(20) rotate rope() at (q - n, k - n) }",
    "sunk": "attention sunk { input logit: float[heads] attend window(20) sink logit[h] }",
    "first_rows": "attention first_rows { align start attend k % 3 == q % 3 }",
    "holes": "attention holes { attend k % 16 >= 12 and causal attend window(9) }",
    "gaps": "attention gaps { attend k % 32 >= 24 attend k < 3 attend window(9) within causal rotate rope() }",
    "runs": "attention runs { attend 5 <= k < 9 attend 30 <= k < 41 attend window(7) within causal }",
    "by_heads": "attention by_heads { for h in 0..2 { attend window(5) } for h in 2..4 { attend causal } }",
    "by_entry": "attention by_entry { attend 0 <= q - k < 6 * (b + 1) }",
    "selves": "attention selves { attend q == k }",
}
QUICK = ("sinks",)
SHIPPED = [name for name in FUSED if not (spec := attnspec.read(name)).axes and spec.order is None]


@pytest.mark.parametrize("name", [name if name in QUICK else slow(name) for name in (*SHIPPED, *OWN)])
def test_rows_are_those_of_the_whole_call(name: str) -> None:
    cache = agree(attnspec.compile(OWN.get(name, name), params=SMALL.get(name)))
    for item, positions in zip(cache.kept, cache.positions, strict=True):
        bound = item.retention.bound
        if bound is not None and all(ring.step == 1 for ring in item.retention.rings):
            assert sum(map(len, positions)) <= bound + 32


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["sinks", "rotated", "sunk"])
def test_other_types(name: str, dtype: torch.dtype) -> None:
    agree(attnspec.compile(OWN.get(name, name), params=SMALL.get(name)), dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sinks", "rotated", "sunk", "by_heads"])
def test_triton(name: str) -> None:
    agree(attnspec.compile(OWN.get(name, name), params=SMALL.get(name), target="triton"), (40, 1, 17, 40))


@pytest.mark.slow
def test_ten_thousand_steps_take_the_same_memory_and_touch_the_same_number_of_keys() -> None:
    attend = attnspec.compile("sinks", start=4, recent=60)
    cache = new(attend)
    q, k, v = vectors(10_000)
    sizes, touched = set(), set()
    with torch.inference_mode():
        for i in range(10_000):
            cache.append(k[:, :, i : i + 1], v[:, :, i : i + 1])
            out = cache.attend(q[:, :, i : i + 1])
            if i > 100:
                sizes.add(cache.bytes)
                touched.add(sum(map(len, cache.positions[0])))
    assert len(sizes) == 1
    assert max(touched) <= 4 + 59 + 32
    want = attend(q[:, :, -1:], k, v)
    torch.testing.assert_close(out, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["sinks", slow("streaming"), slow("causal"), slow("longnet"), slow("gaps")])
def test_a_step_prepares_nothing(name: str) -> None:
    """What is kept of calls is found again in every step, wherever the ring begins; so it does not grow either."""
    attend = attnspec.compile(OWN.get(name, name), params=SMALL.get(name))
    cache, (q, k, v) = new(attend), vectors(120)
    kept = (prepared.forward, prepared.moving, prepared.native, structures.fixed_of, structures._lists, tables._cached)
    for i in range(120):
        if i == 1:
            before = [function.cache_info().misses for function in kept]
        now = slice(i, i + 1)
        cache.append(k[:, :, now], v[:, :, now])
        out = cache.attend(q[:, :, now])
    assert [function.cache_info().misses for function in kept] == before
    torch.testing.assert_close(out, attend(q, k, v)[:, :, -1:], atol=1e-5, rtol=1e-4)


def test_a_call_may_be_given_the_cache() -> None:
    attend = attnspec.compile("sinks", params=SMALL["sinks"])
    cache, (q, k, v) = new(attend), vectors(70)
    cache.append(k, v)
    out, lse = attend(q, cache=cache, return_lse=True)
    want, want_lse = attend(q, k, v, return_lse=True)
    torch.testing.assert_close((out, lse), (want, want_lse), atol=1e-5, rtol=1e-4)
    assert torch.equal(attend(q[:, :, -1:], cache=cache), cache.attend(q[:, :, -1:]))
    with pytest.raises(attnspec.CallError, match="make one for each pattern"):
        attnspec.compile("window")(q, cache=cache)
    with pytest.raises(attnspec.CallError, match="q with k and v, or with cache="):
        attend(q, k, v, cache=cache)


def test_beams_change_places_and_a_sequence_ends() -> None:
    attend = attnspec.compile("sinks", params=SMALL["sinks"])
    cache, (q, k, v) = new(attend), vectors(80)
    for _ in range(2):
        cache.append(k[:, :, :60], v[:, :, :60])
        cache.reorder(torch.tensor([1, 1, 0]))
        cache.append(*(t[[0, 1, 1], :, 60:] for t in (k, v)))
        chosen = [torch.cat((t[[1, 1, 0], :, :60], t[[0, 1, 1], :, 60:]), 2) for t in (q, k, v)]
        want = attend(*chosen)[:, :, 60:]
        torch.testing.assert_close(cache.attend(chosen[0][:, :, 60:]), want, atol=1e-5, rtol=1e-4)
        cache.reset()
        cache.reorder(torch.tensor([0, 1]))
        assert (cache.n, cache.positions) == (0, ((),))
    cache.append(k, v)
    fork = copy.deepcopy(cache)
    fork.append(k[:, :, :1], v[:, :, :1])
    assert (cache.n, fork.n) == (80, 81)
    torch.testing.assert_close(cache.attend(q)[:, :, -1:], attend(q, k, v)[:, :, -1:], atol=1e-5, rtol=1e-4)


def test_what_does_not_fit_is_refused_and_nothing_is_taken() -> None:
    attend = attnspec.compile("sinks", params=SMALL["sinks"])
    cache, (q, k, v) = new(attend), vectors(90)
    with pytest.raises(attnspec.CallError, match="the cache is empty"):
        cache.attend(q)
    with pytest.raises(attnspec.CallError, match=r"k has the shape .* tokens, dim\) = \(2, 2, tokens, 32\)"):
        cache.append(k[..., :8], v)
    with pytest.raises(attnspec.CallError, match=r"k is torch\.float16 on cpu; this cache is of torch\.float32"):
        cache.append(k.half(), v)
    with pytest.raises(attnspec.CallError, match="k asks for gradients"):
        cache.append(k.clone().requires_grad_(), v)
    assert cache.n == 0
    cache.append(k, v)
    with pytest.raises(attnspec.CallError, match="q asks for gradients"):
        cache.attend(q.clone().requires_grad_())
    with pytest.raises(attnspec.CallError, match="there is no input `doc`"):
        cache.attend(q, doc=q)
    cache.attend(q)
    with pytest.raises(attnspec.CallError, match=r"90 queries stand at positions 0 to 89, .* before position 65"):
        cache.attend(q)
    with pytest.raises(attnspec.CallError, match="indices hold 0 to 2; there are 2"):
        cache.reorder(torch.tensor([0, 2]))
    by_heads = Cache(attnspec.compile(OWN["by_heads"]), batch=2, kv_heads=2, dim=32)
    by_heads.append(k, v)
    with pytest.raises(attnspec.CallError, match=r"attnspec.Cache\(..., heads=4\)"):
        by_heads.attend(q)
    with pytest.raises(attnspec.CallError, match='target="dense" has no caches'):
        new(attnspec.compile("causal", target="dense"))
    with pytest.raises(attnspec.SpecError, match="a cache of keys is not defined"):
        new(attnspec.compile("memory"))
    for wrong, message in (
        ({"dim": 1000}, "head size"),
        ({"batch": -1}, "batch of a cache is a whole number from 1 on, not -1"),
        ({"heads": 3}, "3 heads cannot be shared among 2"),
        ({"dtype": torch.float64}, "supported are float32"),
    ):
        with pytest.raises(attnspec.CallError, match=message):
            Cache(attend, **{"batch": 1, "kv_heads": 2, "dim": 16, **wrong})  # type: ignore[arg-type]


def test_modes_may_change_between_tokens() -> None:
    """Memory made in one mode is written to in another."""
    attend = attnspec.compile("sinks", params=SMALL["sinks"])
    cache, (q, k, v) = new(attend), vectors(90)
    with torch.inference_mode():
        cache.append(k[:, :, :80] * 1.0, v[:, :, :80] * 1.0)
        cache.attend(q[:, :, :80])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache.append(k[:, :, 80:].bfloat16(), v[:, :, 80:])
        out = cache.attend(q[:, :, 80:])
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, attend(q, k, v)[:, :, 80:], atol=2e-2, rtol=2e-2)
