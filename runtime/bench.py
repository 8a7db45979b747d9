"""A pattern against PyTorch's own attention on the same tensors, in one process and one interleaved run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from attnspec.runtime.attention import Attention
from attnspec.runtime.clock import Timing, race
from attnspec.runtime.flex import mask_function
from attnspec.sizes import Sizes

MASK_LIMIT = 1 << 29
"""Elements of a dense mask from which on SDPA with the mask is left out."""
_SCORES_LIMIT = 1 << 32


@dataclass(frozen=True)
class Setup:
    """What to run: sizes, head size, element type, and whether the backward pass belongs to it."""

    sizes: Sizes
    dim: int
    dtype: torch.dtype
    backward: bool
    runs: int


@dataclass(frozen=True)
class Outcome:
    """The timings by contender (``attnspec`` first), and why others are missing."""

    timings: dict[str, Timing]
    missing: dict[str, str]

    def ratio(self, peer: str) -> float | None:
        """How many times faster than a peer, by medians."""
        return self.timings[peer].median / self.timings["attnspec"].median if peer in self.timings else None


def inputs(setup: Setup, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random q, k, v and output gradient."""
    s, generator = setup.sizes, torch.Generator().manual_seed(seed)

    def normal(heads: int, length: int) -> Tensor:
        return torch.randn(s.batch, heads, length, setup.dim, generator=generator).to(setup.dtype)

    q, k, v = normal(s.heads, s.n_q), normal(s.kv_heads, s.n), normal(s.kv_heads, s.n)
    return q, k, v, normal(s.heads, s.n_q)


def bench(attend: Attention, setup: Setup, flex: bool, tick: Callable[[str], object] = lambda _: None) -> Outcome:
    """Time a pattern, SDPA causal, SDPA with the pattern's mask and compiled FlexAttention with its block mask.

    Mask building and compilation are not counted for anyone. ``tick`` is told what happens.
    """
    tensors = inputs(setup)
    contenders: dict[str, Callable[[], object]] = {}
    missing: dict[str, str] = {}
    tick("compiling the kernel")
    contenders["attnspec"] = _call(lambda q, k, v: attend(q, k, v), tensors, setup)
    contenders["SDPA causal"] = _call(
        lambda q, k, v: sdpa(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]), tensors, setup
    )
    for name, make in (("SDPA mask", _masked), ("FlexAttention", _flex if flex else None)):
        tick(f"preparing {name}")
        reason = "not asked for" if make is None else _why_not(name, setup)
        if reason is None and make is not None:
            reason = _prepare(contenders, name, lambda make=make: make(attend, setup), tensors, setup)  # type: ignore[misc]
        if reason is not None:
            missing[name] = reason
    for name in ("attnspec", "SDPA causal"):
        tick(f"warming up {name}")
        contenders[name]()
    with _quiet():
        timings = race(contenders, setup.runs, lambda: tick("timing"))
    return Outcome(timings, missing)


def _prepare(
    contenders: dict[str, Callable[[], object]],
    name: str,
    make: Callable[[], Callable[[Tensor, Tensor, Tensor], Any]],
    tensors: tuple[Tensor, ...],
    setup: Setup,
) -> str | None:
    """Add a peer that has run once; the reason if it cannot: a peer's failure must not end a suite."""
    logging.disable(logging.CRITICAL)  # a peer that fails to compile prints its whole graph
    try:
        call = _call(make(), tensors, setup)
        call()
    except Exception as error:
        return f"failed: {type(error).__name__}"
    finally:
        logging.disable(logging.NOTSET)
    contenders[name] = call
    return None


def _why_not(name: str, setup: Setup) -> str | None:
    s = setup.sizes
    if name == "FlexAttention" and setup.backward:
        return "no backward on the CPU"
    if name == "SDPA mask" and s.n * s.n_q > MASK_LIMIT:
        return "the mask would not fit"
    if name == "SDPA mask" and setup.backward and s.n * s.n_q * s.heads * s.batch > _SCORES_LIMIT:
        return "the scores would not fit"
    return None


def _masked(attend: Attention, setup: Setup) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    s = setup.sizes
    batch, heads = _shared(attend, s)
    mask = attend.mask(s.n, s.n_q, heads or 1, batch or 1, s.kv_heads)
    return lambda q, k, v: sdpa(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def _shared(attend: Attention, sizes: Sizes) -> tuple[int | None, int | None]:
    """How many batch entries and heads a mask needs: None where all share one."""
    classes = attend.relation_for(heads=sizes.heads, kv_heads=sizes.kv_heads, batch=sizes.batch).classes
    by_head = any(item.heads is not None or item.pairs.depends_on("h") for item in classes)
    by_entry = any(item.pairs.depends_on("b") for item in classes)
    return sizes.batch if by_entry else None, sizes.heads if by_head else None


def _flex(attend: Attention, setup: Setup) -> Callable[[Tensor, Tensor, Tensor], Any]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    s = setup.sizes
    torch.compiler.reset()  # or the ninth pattern of a suite would run uncompiled
    function = mask_function(attend.spec, s)
    large = s.n * s.n_q > 1 << 24
    block_mask = create_block_mask(function, *_shared(attend, s), s.n_q, s.n, device="cpu", _compile=large)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, block_mask=block_mask, enable_gqa=q.shape[1] != k.shape[1])


def _call(
    function: Callable[[Tensor, Tensor, Tensor], Any], tensors: tuple[Tensor, ...], setup: Setup
) -> Callable[[], object]:
    q, k, v, gradient = tensors
    if not setup.backward:

        def forward() -> object:
            with torch.no_grad():
                return function(q, k, v)

        return forward

    def both() -> object:
        leaves = [t.detach().requires_grad_() for t in (q, k, v)]
        return torch.autograd.grad(function(*leaves), leaves, gradient)

    return both


@contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection while the clock runs."""
    import gc

    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
