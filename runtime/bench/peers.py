"""What a pattern is compared with: the same attention by PyTorch, and our own kernel of plain causal attention."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

from attnspec.relation.sizes import Sizes
from attnspec.runtime.attention import Attention, compile
from attnspec.runtime.bench.clock import race
from attnspec.runtime.bench.setup import Peer, Setup, call_of, clock_of, inputs
from attnspec.runtime.dense.counts import Rows
from attnspec.runtime.expressions.functions import mask_function, score_function, why_not
from attnspec.runtime.expressions.real import real, tables
from attnspec.runtime.prepare.inputs import prepare
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.real import RealExpr, Score, Total
from attnspec.spec.spec import Spec

CAUSAL_LIMIT = 1 << 35
"""Query-key pairs beyond which peers that visit all of them (or enumerate them beforehand) are left out."""
MASK_LIMIT = 1 << 29
"""Elements of a dense mask from which on SDPA with the mask is left out."""
OWN = "attnspec causal"
_SCORES_LIMIT = 1 << 32
_BACKENDS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION")
_ROWS = 1 << 22


@dataclass(frozen=True)
class Making:
    """What peers are made from; ``notes`` is where they say how, by their own name."""

    attend: Attention
    setup: Setup
    given: Mapping[str, Tensor]
    autotune: bool = False
    notes: dict[str, str] = field(default_factory=dict)


def peers(device: torch.device) -> tuple[str, ...]:
    """The names of the peers on a device."""
    return ("SDPA causal", "SDPA mask", "FlexAttention", *(() if device.type == "cpu" else (OWN,)))


def reason(name: str, setup: Setup, spec: Spec, flex: bool) -> str | None:
    """Why a peer is not run; None if it can be."""
    s = setup.sizes
    if name == "FlexAttention" and not flex:
        return "not asked for"
    if s.n * s.n_q > CAUSAL_LIMIT:
        return "would take hours at this length"
    if name in ("SDPA causal", OWN):
        return None
    if name == "FlexAttention":
        return "no backward on the CPU" if setup.backward and setup.device.type == "cpu" else why_not(spec)
    if why := why_not(spec):
        return why
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


def make(name: str, making: Making) -> Peer:
    """A peer, ready to be called; building masks is done here."""
    return {"SDPA causal": causal, "SDPA mask": masked, "FlexAttention": flex, OWN: own_causal}[name](making)


def bias(spec: Spec) -> tuple[RealExpr, ...] | None:
    """What score lines add to the score, if that is all they do: a mask can then hold it. None if they do more."""
    if spec.score == Score():
        return ()
    if isinstance(spec.score, Total) and Score() in spec.score.terms:
        terms = list(spec.score.terms)
        terms.remove(Score())
        return tuple(terms) if not any(Score() in contents.walk(term) for term in terms) else None
    return None


def _all_pairs(making: Making) -> bool:
    """Whether plain attention over all pairs stands in for causal attention: the pattern has them, or one query."""
    spec, s = making.attend.spec, making.setup.sizes
    return s.n_q == 1 or (making.setup.device.type != "cpu" and not spec.mixture and spec.pred == e.Bool(True))


def own_causal(making: Making) -> Peer:
    """Our own kernel of causal attention: what useful throughput is measured against. Dense for a dense pattern."""
    name = "dense" if _all_pairs(making) else "causal"
    making.notes[OWN] = name
    attend = compile(name)
    return lambda q, k, v: attend(q, k, v)


def causal(making: Making) -> Peer:
    """SDPA's causal attention (dense for a dense pattern), on a GPU by the backend that is fastest here."""
    first_rows = not _all_pairs(making)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa(q, k, v, is_causal=first_rows, enable_gqa=q.shape[1] != k.shape[1])

    return _fastest("SDPA causal", call, making)


def masked(making: Making) -> Peer:
    """SDPA with the pattern as a dense mask; without a mask where the pattern is all pairs."""
    s, spec = making.setup.sizes, making.attend.spec
    ready = prepare(spec, s, making.given)
    mask: Tensor | None = _mask(spec, s, ready).to(making.setup.device)
    added = bias(spec)
    if added:
        mask = _biased(s, ready, added, mask).to(making.setup.dtype)
    elif making.setup.device.type != "cpu" and mask is not None and bool(mask.all()):
        mask = None

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa(q, k, v, attn_mask=mask, scale=spec.scale, enable_gqa=q.shape[1] != k.shape[1])

    return _fastest("SDPA mask", call, making)


def _fastest(name: str, call: Peer, making: Making) -> Peer:
    """A call of SDPA by the backend that takes the least time here; on the CPU there is but one."""
    setup = making.setup
    if setup.device.type == "cpu":
        return call

    def under(backend: SDPBackend) -> Peer:
        def chosen(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return call(q, k, v)  # type: ignore[no-any-return]

        return chosen

    tensors, found = inputs(setup), {}
    for title in _BACKENDS:
        peer = under(getattr(SDPBackend, title))
        timed = call_of(peer, tensors, setup)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a backend that cannot run says why, at length
                timed()
                found[title] = race({title: timed}, 3, clock=clock_of(setup.device))[title].median, peer
        except RuntimeError:
            continue
    if not found:
        raise RuntimeError("none of SDPA's fused backends can compute this")
    best = min(found, key=lambda title: found[title][0])
    making.notes[name] = best.removesuffix("_ATTENTION").lower()
    return found[best][1]


def _mask(spec: Spec, sizes: Sizes, ready: Mapping[str, Tensor]) -> Tensor:
    """The pattern, (batch or 1, heads or 1, n_q, n), in blocks of rows."""
    rows = Rows(spec, sizes, {name: t.numpy(force=True) for name, t in ready.items() if not t.is_floating_point()})
    batch, heads = _shared(spec, sizes)
    out = torch.empty(batch or 1, heads or 1, sizes.n_q, sizes.n, dtype=torch.bool)
    step = max(1, _ROWS // max(1, sizes.n))
    for b in range(out.shape[0]):
        for h in range(out.shape[1]):
            for start in range(0, sizes.n_q, step):
                part = slice(start, min(start + step, sizes.n_q))
                out[b, h, part] = torch.from_numpy(rows.counts(h, b, part)[0].copy())
    return out


def _biased(sizes: Sizes, ready: Mapping[str, Tensor], added: tuple[RealExpr, ...], mask: Tensor | None) -> Tensor:
    """A mask with what is added to scores, (batch, heads, n_q, n)."""
    assert mask is not None
    arrays = tables(ready)
    out = torch.empty(sizes.batch, sizes.heads, sizes.n_q, sizes.n, device=mask.device)
    places = {"q": np.arange(sizes.n_q)[:, None] + sizes.first, "k": np.arange(sizes.n)[None, :]}
    for b in range(sizes.batch):
        for h in range(sizes.heads):
            env = {**sizes.parameters(h, b), **arrays, **places}
            out[b, h] = real(Total(added), env, ready, dtype=torch.float32)
    return out.masked_fill_(~mask, float("-inf"))


def _shared(spec: Spec, sizes: Sizes) -> tuple[int | None, int | None]:
    """How many batch entries and heads a mask needs: None where all share one."""
    names = contents.free(spec.pred)
    return sizes.batch if "b" in names else None, sizes.heads if "h" in names else None


def flex(making: Making) -> Peer:
    """Compiled FlexAttention with its block mask; where there is a choice, the fastest that was tried."""
    from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

    setup, s, spec = making.setup, making.setup.sizes, making.attend.spec
    torch.compiler.reset()  # or the ninth pattern of a suite would run uncompiled
    tables = prepare(spec, s, making.given)
    function, score = mask_function(spec, s, tables), score_function(spec, s, tables)
    large = s.n * s.n_q > 1 << 24
    modes: tuple[str | None, ...] = (None, "max-autotune-no-cudagraphs") if making.autotune else (None,)

    def build(block: int) -> BlockMask:
        return create_block_mask(
            function, *_shared(spec, s), s.n_q, s.n, device=str(setup.device), BLOCK_SIZE=block, _compile=large
        )

    def ready(mode: str | None, block: int) -> Peer:
        # A graph that breaks is an error: FlexAttention would run uncompiled, ten times slower, and nobody would know.
        compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True, mode=mode)
        mask = build(block)
        if block == 128 and mode is None:
            again = race({"mask": functools.partial(build, block)}, 1, clock=clock_of(setup.device))["mask"].median
            making.notes["FlexAttention mask"] = f"{again:.6f}"
        return lambda q, k, v: compiled(
            q, k, v, score_mod=score, block_mask=mask, scale=spec.scale, enable_gqa=q.shape[1] != k.shape[1]
        )

    # A table of blocks of 64 has tiles without a mask only if FlexAttention's blocks are as small.
    tabled = any(isinstance(node, (e.Flag, e.Among)) for node in contents.walk(spec.pred))
    tried = [(mode, block) for mode in modes for block in ((128, 64) if tabled else (128,))]
    if len(tried) == 1:
        return ready(*tried[0])
    found = {f"blocks of {block}{f', {mode}' if mode else ''}": ready(mode, block) for mode, block in tried}
    tensors = inputs(setup)
    calls: dict[str, Callable[[], object]] = {title: call_of(peer, tensors, setup) for title, peer in found.items()}
    times = race(calls, 1, clock=clock_of(setup.device))
    best = min(times, key=lambda title: times[title].median)
    making.notes["FlexAttention"] = best
    return found[best]
