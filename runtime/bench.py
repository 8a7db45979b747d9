"""A pattern against PyTorch's own attention on the same tensors, in one process and one interleaved run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from attnspec import expr as e
from attnspec.evaluate import table
from attnspec.real import RealExpr, Score, Total
from attnspec.runtime.attention import Attention
from attnspec.runtime.clock import Timing, race
from attnspec.runtime.flex import mask_function, score_function, why_not
from attnspec.runtime.inputs import example, prepare
from attnspec.runtime.real import real
from attnspec.runtime.rows import Rows
from attnspec.sizes import Sizes
from attnspec.spec import Spec

CAUSAL_LIMIT = 1 << 35
"""Query-key pairs beyond which peers that visit all of them (or enumerate them beforehand) are left out."""
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
    """The timings by contender (``attnspec`` first), and why others are missing.

    ``preparation`` is what checking and completing the inputs takes of each call of attnspec; None if there are none.
    """

    timings: dict[str, Timing]
    missing: dict[str, str]
    preparation: Timing | None = None

    @property
    def share(self) -> float | None:
        """The preparation's share of the time of attnspec's calls."""
        return None if self.preparation is None else self.preparation.median / self.timings["attnspec"].median

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


def examples(spec: Spec, setup: Setup, seed: int = 0) -> dict[str, Tensor]:
    """Example inputs of a pattern, as a call would give them."""
    return example(spec, setup.sizes, torch.Generator().manual_seed(seed))


def bench(attend: Attention, setup: Setup, flex: bool, tick: Callable[[str], object] = lambda _: None) -> Outcome:
    """Time a pattern, SDPA causal, SDPA with the pattern's mask and compiled FlexAttention with its block mask.

    Mask building and compilation are not counted for anyone; all get the same example inputs. What a pattern rotates or
    normalizes is part of attnspec's call, and not of the others': they get vectors as if that were done. ``tick`` is
    told what happens.
    """
    tensors, given, spec = inputs(setup), examples(attend.spec, setup), attend.spec
    contenders: dict[str, Callable[[], object]] = {}
    missing: dict[str, str] = {}
    tick("compiling the kernel")
    own: Callable[..., Tensor] = attend
    contenders["attnspec"] = _call(lambda q, k, v: own(q, k, v, **given), tensors, setup)
    contenders["attnspec"]()
    if setup.sizes.n * setup.sizes.n_q > CAUSAL_LIMIT:
        missing["SDPA causal"] = "would take hours at this length"
    else:
        contenders["SDPA causal"] = _call(
            lambda q, k, v: sdpa(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]), tensors, setup
        )
    for name, make in (("SDPA mask", _masked), ("FlexAttention", _flex if flex else None)):
        tick(f"preparing {name}")
        reason = "not asked for" if make is None else _why_not(name, setup, spec)
        if reason is None and make is not None:
            reason = _prepare(contenders, name, lambda make=make: make(attend, setup, given), tensors, setup)  # type: ignore[misc]
        if reason is not None:
            missing[name] = reason
    if "SDPA causal" in contenders:
        tick("warming up SDPA causal")
        contenders["SDPA causal"]()
    with _quiet():
        timings = race(contenders, setup.runs, lambda: tick("timing"))
        preparation = None
        if spec.inputs:
            prepare(spec, setup.sizes, given)
            work = {"preparation": lambda: prepare(spec, setup.sizes, given)}
            preparation = race(work, setup.runs)["preparation"]
    return Outcome(timings, missing, preparation)


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


def _why_not(name: str, setup: Setup, spec: Spec) -> str | None:
    s = setup.sizes
    if s.n * s.n_q > CAUSAL_LIMIT:
        return "would take hours at this length"
    if name == "FlexAttention":
        return "no backward on the CPU" if setup.backward else why_not(spec)
    if reason := why_not(spec):
        return reason
    if bias(spec) is None:
        return "cannot express its score lines"
    # A mask of booleans has one byte for an element, one of biases four, and as a rule one for each head.
    batch, heads = _shared(spec, s)
    size = s.n * s.n_q * ((batch or 1) * (heads or 1) if spec.score == Score() else 4 * s.batch * s.heads)
    if size > MASK_LIMIT:
        return "the mask would not fit"
    if setup.backward and s.n * s.n_q * s.heads * s.batch > _SCORES_LIMIT:
        return "the scores would not fit"
    return None


def bias(spec: Spec) -> tuple[RealExpr, ...] | None:
    """What score lines add to the score, if that is all they do: a mask can then hold it. None if they do more."""
    if spec.score == Score():
        return ()
    if isinstance(spec.score, Total) and Score() in spec.score.terms:
        terms = list(spec.score.terms)
        terms.remove(Score())
        return tuple(terms) if not any(Score() in e.walk(term) for term in terms) else None
    return None


Peer = Callable[[Tensor, Tensor, Tensor], Any]


def _masked(attend: Attention, setup: Setup, given: Mapping[str, Tensor]) -> Peer:
    s, spec = setup.sizes, attend.spec
    ready = prepare(spec, s, given)
    mask = _mask(spec, s, ready)
    added = bias(spec)
    if added:
        mask = _biased(s, ready, added, mask).to(setup.dtype)
    return lambda q, k, v: sdpa(q, k, v, attn_mask=mask, scale=spec.scale, enable_gqa=q.shape[1] != k.shape[1])


def _mask(spec: Spec, sizes: Sizes, ready: Mapping[str, Tensor]) -> Tensor:
    """The pattern, (batch or 1, heads or 1, n_q, n), in blocks of rows."""
    rows = Rows(spec, sizes, {name: t.numpy() for name, t in ready.items() if not t.is_floating_point()})
    batch, heads = _shared(spec, sizes)
    out = torch.empty(batch or 1, heads or 1, sizes.n_q, sizes.n, dtype=torch.bool)
    step = max(1, (1 << 22) // max(1, sizes.n))
    for b in range(out.shape[0]):
        for h in range(out.shape[1]):
            for start in range(0, sizes.n_q, step):
                part = slice(start, min(start + step, sizes.n_q))
                out[b, h, part] = torch.from_numpy(rows.counts(h, b, part)[0].copy())
    return out


def _biased(sizes: Sizes, ready: Mapping[str, Tensor], added: tuple[RealExpr, ...], mask: Tensor) -> Tensor:
    """A mask with what is added to scores, (batch, heads, n_q, n)."""
    arrays = {table(name): t.numpy() for name, t in ready.items() if not t.is_floating_point()}
    out = torch.empty(sizes.batch, sizes.heads, sizes.n_q, sizes.n)
    places = {"q": np.arange(sizes.n_q)[:, None] + sizes.first, "k": np.arange(sizes.n)[None, :]}
    for b in range(sizes.batch):
        for h in range(sizes.heads):
            env = {**sizes.parameters(h, b), **arrays, **places}
            out[b, h] = real(Total(added), env, ready, dtype=torch.float32)
    return out.masked_fill_(~mask, float("-inf"))


def _shared(spec: Spec, sizes: Sizes) -> tuple[int | None, int | None]:
    """How many batch entries and heads a mask needs: None where all share one."""
    names = e.free(spec.pred)
    return sizes.batch if "b" in names else None, sizes.heads if "h" in names else None


def _flex(attend: Attention, setup: Setup, given: Mapping[str, Tensor]) -> Peer:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    s, spec = setup.sizes, attend.spec
    torch.compiler.reset()  # or the ninth pattern of a suite would run uncompiled
    tables = prepare(spec, s, given)
    function, score = mask_function(spec, s, tables), score_function(spec, s, tables)
    large = s.n * s.n_q > 1 << 24
    compiled = torch.compile(flex_attention, dynamic=False)

    def ready(block: int) -> Peer:
        mask = create_block_mask(
            function, *_shared(spec, s), s.n_q, s.n, device="cpu", BLOCK_SIZE=block, _compile=large
        )
        return lambda q, k, v: compiled(
            q, k, v, score_mod=score, block_mask=mask, scale=spec.scale, enable_gqa=q.shape[1] != k.shape[1]
        )

    if not any(isinstance(node, (e.Flag, e.Among)) for node in e.walk(spec.pred)):
        return ready(128)
    # A table of blocks of 64 has tiles without a mask only if FlexAttention's blocks are as small: the faster one runs.
    tensors = inputs(setup)[:3]
    tried = [ready(block) for block in (128, 64)]
    with torch.no_grad():
        times = race({str(i): (lambda call=call: call(*tensors)) for i, call in enumerate(tried)}, 1)  # type: ignore[misc]
    return tried[min((0, 1), key=lambda i: times[str(i)].median)]


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
