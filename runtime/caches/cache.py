"""A cache of keys and values for any pattern: ``attnspec.Cache``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from attnspec.analysis.cache_size import KeyHeads, key_heads
from attnspec.analysis.carried import by_head
from attnspec.analysis.retention import retention
from attnspec.relation.sizes import Held, Sizes
from attnspec.runtime.attend import check_results
from attnspec.runtime.attention import Attention
from attnspec.runtime.caches.branches import Branches
from attnspec.runtime.caches.kept import Kept
from attnspec.runtime.caches.paged import InPages
from attnspec.runtime.caches.rows import Rows
from attnspec.runtime.caches.stream import Stream
from attnspec.runtime.core.arguments import DTYPES, CallError, check_call, check_derivatives, named
from attnspec.runtime.core.direct import direct
from attnspec.runtime.core.program import Program, needed, relation
from attnspec.runtime.core.request import Part
from attnspec.runtime.prepare.apart import turned_keys
from attnspec.runtime.targets import kinds


class Cache:
    """Keys and values of a sequence as it is written: what later queries may see is kept, the rest is dropped.

    >>> import torch, attnspec
    >>> attend = attnspec.compile("sinks", start=2, recent=30)
    >>> cache = attnspec.Cache(attend, batch=1, kv_heads=2, dim=16)
    >>> q, k, v = torch.randn(3, 1, 2, 100, 16).unbind(0)
    >>> with torch.no_grad():
    ...     for i in range(100):
    ...         now = slice(i, i + 1)
    ...         cache.append(k[:, :, now], v[:, :, now])
    ...         out = cache.attend(q[:, :, now])
    >>> torch.allclose(out, attend(q, k, v)[:, :, -1:], atol=1e-5)
    True
    >>> cache
    Cache(sinks: 100 tokens, ring of 29 + 2 fixed, 12800 bytes)

    What is kept follows from the pattern, for every length (``attnspec inspect`` says it): fixed positions, a ring over
    the last ones, in which nothing moves, or, where nothing can be dropped, all, in room that doubles when it is full.
    Where runs of 8 positions or more stay and others between them do not, keys lie in pages (C++ kernels, patterns that
    read no inputs, without a sink; elsewhere all are kept). Key heads that keep unlike things do so each for itself.
    ``append`` the keys and values of any number of tokens, then ``attend`` with their queries, or with the last of
    these: the result is that of ``attend(q, keys, values)`` over all keys that were ever appended, whichever were
    dropped. Tokens that are more than a ring has room for (16 and up to 15 more beside what it keeps) stand beside it,
    with what their queries see, until these have attended, once.

    A step of as many tokens as the last prepares nothing, so that it takes as long, however long the sequence is, where
    what is kept does not grow. (Unless room doubles, or passes have tables in place of loops: ``attend.plan`` says so.)

    Keys are stored as the kernel reads them, normalized and rotated by their positions, where these do not change: by
    `rotate` lines whose frequencies and positions of keys read neither lengths nor inputs, but for xPos. Else they are
    stored as they come and rotated at every call. There are no gradients: what asks for some is refused.

    Where weights are products of features (`linear` lines, ``target="dense"`` too) a state takes the place of keys:
    tokens that have attended become part of it when the next are appended, as far as the pattern lets the sequence be
    cut. Where the last keys have to be told apart (windows, ``k <= q - 64``) they are kept beside it, all others are in
    it, or dropped. Inputs by position may then hold the entries of those tokens alone that are not in the state yet
    (but not documents: one must be known to go on). Where more than one state would have to be kept the error says so.

    ``batch``, ``kv_heads``, ``dim`` and ``dim_v`` (``dim`` if left out) are those of the keys and values, ``heads``
    those of the queries, for patterns that tell heads apart (``kv_heads`` if left out). Raises CallError for a wrong
    size or dtype, and for ``target="dense"`` of softmax; SpecError where a computed order or several axes leave no
    sequence to cache. Where branches of a mixture have lines of their own each has a cache of its own.
    """

    def __init__(
        self,
        attend: Attention,
        *,
        batch: int,
        kv_heads: int,
        dim: int,
        dim_v: int | None = None,
        heads: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if not isinstance(attend, Attention):
            raise CallError(f"a cache is for what attnspec.compile returns, not for {type(attend).__name__}")
        self._of, self._name = attend, attend.spec.name
        wanted = {"batch": batch, "kv_heads": kv_heads, "dim": dim, "dim_v": dim_v or dim, "heads": heads or kv_heads}
        for label, number in wanted.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise CallError(f"{self._name}: {label} of a cache is a whole number from 1 on, not {number!r}")
        linear, composed = attend.spec.weights.linear and not attend.spec.composed, attend.spec.composed
        if attend.program.target == "dense" and not linear:
            raise CallError(f'{self._name}: target="dense" has no caches of keys: it evaluates the whole mask')
        if dtype not in DTYPES:
            raise CallError(f"{self._name}: a cache of {dtype}; supported are float32, bfloat16 and float16")
        self._heads, self._kv_heads, self._dtype = heads or kv_heads, kv_heads, dtype
        # Keys that are none, for what calls are compared with.
        self._k, self._v = (
            torch.empty((batch, kv_heads, 0, size), dtype=dtype, device=device) for size in (dim, dim_v or dim)
        )
        self._check(self._k.new_empty((batch, self._heads, 0, dim)), self._k, self._v)
        # The shapes and element types of the last plain tensors that were seen to fit.
        self._fit_keys: tuple[Any, ...] = ()
        self._fit_queries: tuple[Any, ...] = ()
        self._rows = Rows.of(attend.spec, attend.program)
        self._turns = self._rows.turns and self._rows.once and not linear and not composed
        self._kept: list[Kept | InPages | Stream | Branches]
        self._by_heads: bool
        self._by_batch: bool
        if attend._mixture is not None:
            given = {**wanted, "dtype": dtype, "device": device}
            own = [Cache(branch, **given) for branch in attend.branches]  # type: ignore[arg-type]
            self._kept = [Branches(own, attend._mixture, kv_heads)]
            self._by_heads, self._by_batch = any(one._by_heads for one in own), any(one._by_batch for one in own)
            return
        if linear:
            self._kept = [Stream(attend.program, Sizes(1, 1, self._heads, kv_heads, batch))]
            self._by_heads, self._by_batch = by_head(attend.spec), False
            return
        plan = _plan(attend.program, self._heads, kv_heads, batch)
        self._kept = [Kept(item) for item in plan.kept]
        if self._has_gaps(plan):
            self._kept = [InPages(plan.kept[0])]
        self._by_heads, self._by_batch = plan.by_heads, plan.by_batch

    @property
    def n(self) -> int:
        """How many tokens were appended."""
        return self._kept[0].tokens

    @property
    def kept(self) -> tuple[KeyHeads, ...]:
        """What each of the key heads keeps: ``kept[0].heads``, ``kept[0].retention``; print the latter.

        Nothing where a state takes the place of keys.
        """
        found: list[KeyHeads] = []
        for item in self._kept:
            if isinstance(item, Branches):
                found += (of for cache in item.caches for of in cache.kept)
            elif not isinstance(item, Stream):
                found.append(item.of)
        return tuple(found)

    @property
    def positions(self) -> tuple[tuple[range, ...], ...]:
        """The positions whose keys are there, in runs, for each of :attr:`kept`."""
        found: list[tuple[range, ...]] = []
        for item in self._kept:
            found += item.positions if isinstance(item, Branches) else [item.positions]
        return tuple(found)

    @property
    def first_query(self) -> int:
        """The first position whose query can attend: keys that those before it see may have been dropped."""
        return max(item.first_query for item in self._kept)

    @property
    def bytes(self) -> int:
        """The memory that keys and values, and states, take, in bytes, with room for more."""
        return sum(item.bytes for item in self._kept)

    @_disable_dynamo
    def append(self, k: Tensor, v: Tensor) -> None:
        """Take the keys (batch, kv_heads, tokens, dim) and values (..., dim_v) of the next tokens, and copy them.

        First dropped is what none of their queries will see. Raises CallError for tensors that do not fit, or that want
        gradients (nothing is taken then).
        """
        k, v = self._cast(k), self._cast(v)
        self._check_keys(k, v)
        self._refuse_gradients(k=k, v=v)
        if self._turns:
            (batch, kv_heads, count, _), end = k.shape, self.n + k.shape[2]
            held = Held(self.n, count, self.n, count, 0, self._heads, kv_heads, 0, batch)
            k = turned_keys(self._of.spec, k, Sizes(end, end, self._heads, kv_heads, batch, part=held))
        for item in self._kept:
            item.append(*(_some(t, item.heads) for t in (k, v)))

    @overload
    def attend(
        self,
        q: Tensor,
        *,
        scale: float | None = None,
        return_lse: Literal[False] = False,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> Tensor: ...

    @overload
    def attend(
        self,
        q: Tensor,
        *,
        scale: float | None = None,
        return_lse: Literal[True],
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> tuple[Tensor, Tensor]: ...

    @_disable_dynamo
    def attend(
        self,
        q: Tensor,
        *,
        scale: float | None = None,
        return_lse: bool = False,
        inputs: Mapping[str, Tensor] | None = None,
        **more: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention of the queries (batch, heads, rows, dim) of the last tokens to all that was appended.

        What ``attend(q, keys, values)`` of the pattern returns over all keys and values there ever were: inputs are
        those of that call, sized for its ``n``. Raises CallError for tensors that do not fit or want gradients, and for
        queries so early that keys which they may see were dropped.
        """
        given = named(self._name, inputs, more)
        if return_lse and self._of.spec.shared:
            raise CallError(f"{self._name}: a mixture by given shares has no log-sum-exp")
        check_results(self._of.spec, scale, return_lse, False)
        q, n = self._cast(q), self.n
        self._check_queries(q)
        check_derivatives(self._name, scale, q, *given.values())
        self._refuse_gradients(q=q, **given)
        heads, (batch, kv_heads) = q.shape[1], self._k.shape[:2]
        if heads != self._heads and self._by_heads:
            raise CallError(
                f"{self._name}: q has {heads} heads, and this cache keeps what {self._heads} see; the pattern tells "
                f"heads apart: attnspec.Cache(..., heads={heads})"
            )
        aligned = self._of.spec.align == "end"
        first, rows_ = n - q.shape[2] if aligned else 0, q.shape[2]
        self._refuse_early(first if aligned else n, rows_)
        group, found = heads // kv_heads, []
        for item in self._kept:
            own = range(item.heads.start * group, item.heads.stop * group)
            part = Part(first, 0, own.start, 0, n, rows_, heads, kv_heads, batch)
            found.append(item.attend(self._rows, _some(q, own), part, scale, given))
        out, lse = (torch.cat(parts, 1) if len(parts) > 1 else parts[0] for parts in zip(*found, strict=True))
        if self._of.spec.sink is not None and not self._of.spec.composed:
            sizes = {"n_q": rows_, "heads": heads, "kv_heads": kv_heads, "batch": batch}
            out, lse = self._of.add_sink(out, lse, q_start=first, n=n, inputs=given, **sizes)  # type: ignore[arg-type]
        for item in self._kept:
            item.attended()
        out = out.to(self._dtype)
        return (out, lse) if return_lse else out

    def reset(self) -> None:
        """Forget all tokens. The memory stays, for the next sequence."""
        for item in self._kept:
            item.reset()

    @_disable_dynamo
    def reorder(self, indices: Tensor) -> None:
        """Put the batch entries ``indices`` (int, one dimension) in place of those there are: for beam search.

        One may come several times, and the batch may become larger or smaller. Raises CallError for others.
        """
        batch = self._k.shape[0]
        if not isinstance(indices, Tensor) or indices.dim() != 1 or indices.dtype not in (torch.int32, torch.int64):
            raise CallError(f"{self._name}: indices must be a tensor of integers of one dimension")
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < batch:
            raise CallError(
                f"{self._name}: indices hold {int(indices.min())} to {int(indices.max())}; there are {batch} entries"
            )
        if len(indices) != batch and self._by_batch:
            raise CallError(f"{self._name}: the pattern tells batch entries apart, so there must be {batch} of them")
        with torch.no_grad():
            indices = indices.to(self._k.device)
            self._k, self._v = self._k.index_select(0, indices), self._v.index_select(0, indices)
            self._fit_keys = self._fit_queries = ()
            for item in self._kept:
                item.reorder(indices)

    def serves(self, program: Program) -> None:
        """Raises CallError unless it was made for this program."""
        if program != self._of.program:
            raise CallError(
                f"{self._name}: this cache keeps what {self._of} sees; make one for each pattern: "
                "attnspec.Cache(attend)"
            )

    def __repr__(self) -> str:
        return f"Cache({self._name}: {self.n:,} tokens, {self.said()}, {self.bytes} bytes)"

    def said(self) -> str:
        """What is kept, in a few words."""
        kinds_ = (item if isinstance(item, Stream | Branches) else item.of.retention for item in self._kept)
        return ", ".join(dict.fromkeys(map(str, kinds_)))

    def _has_gaps(self, plan: _Plan) -> bool:
        """Whether pages save what stands between keys that stay: C++ kernels read them, where nothing comes beside."""
        bare, once = not self._rows.reads and self._of.spec.sink is None, self._rows.once
        here = self._k.device.type == "cpu" and self._of.program.target in ("auto", "cpp")
        return here and bare and once and len(plan.kept) == 1 and plan.kept[0].retention.page is not None

    def _cast(self, t: Tensor) -> Tensor:
        """Under autocast what is of another floating-point type is cast, as a call's tensors are."""
        kind = self._k.device.type
        if isinstance(t, Tensor) and torch.is_autocast_enabled(kind) and t.is_floating_point():
            return t.to(self._dtype)
        return t

    def _check_keys(self, k: Tensor, v: Tensor) -> None:
        """Raises CallError unless they fit. Plain tensors of the form of the last that did, as in every step, do."""
        plain = direct(k, v)
        if plain and self._fit_keys == (form := (k.shape, k.dtype, v.shape, v.dtype)):
            return
        for name, t, of in (("k", k, self._k), ("v", v, self._v)):
            if isinstance(t, Tensor) and (*t.shape[:2], *t.shape[3:]) != (*of.shape[:2], of.shape[3]):
                raise CallError(
                    f"{self._name}: {name} has the shape {tuple(t.shape)}; this cache is of (batch, kv_heads, tokens, "
                    f"dim) = ({of.shape[0]}, {of.shape[1]}, tokens, {of.shape[3]})"
                )
            if isinstance(t, Tensor) and (t.dtype, t.device) != (of.dtype, of.device):
                raise CallError(
                    f"{self._name}: {name} is {t.dtype} on {t.device}; this cache is of {of.dtype} on {of.device}"
                )
        self._check(self._k.new_empty((self._k.shape[0], self._heads, 0, self._k.shape[3])), k, v)
        if plain:
            self._fit_keys = form

    def _check_queries(self, q: Tensor) -> None:
        """The same of queries."""
        plain = direct(q)
        if plain and self._fit_queries == (form := (q.shape, q.dtype)):
            return
        self._check(q, self._k, self._v)
        if plain:
            self._fit_queries = form

    def _check(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        target = self._of.program.target
        check_call(self._name, target, kinds(target), q, k, v)

    def _refuse_gradients(self, **tensors: Tensor) -> None:
        if not torch.is_grad_enabled():
            return
        for name, t in tensors.items():
            if t.requires_grad:
                raise CallError(
                    f"{self._name}: {name} asks for gradients, and nothing that goes through a cache has them. Decode "
                    "under torch.no_grad() or torch.inference_mode(); to train, call attend(q, k, v)"
                )

    def _refuse_early(self, first: int, count: int) -> None:
        """Refuse queries from position ``first`` on, if keys that they may see are not there."""
        if not self.n:
            raise CallError(f"{self._name}: the cache is empty: append keys and values first")
        least = self.first_query
        if count and least and first < least:
            raise CallError(
                f"{self._name}: {count} queries stand at positions {first} to {first + count - 1}, but keys that "
                f"queries before position {least} may see were dropped. Attend with the queries of the tokens appended "
                "last, once where they are many, before others are appended"
            )


def _some(t: Tensor, heads: range) -> Tensor:
    """Some heads of a tensor; itself where these are all."""
    return t if len(heads) == t.shape[1] else t.narrow(1, heads.start, len(heads))


class _Plan(NamedTuple):
    """What key heads keep, and whether it takes the number of query heads, or of batch entries, to know that."""

    kept: tuple[KeyHeads, ...]
    by_heads: bool
    by_batch: bool


@functools.lru_cache(maxsize=64)
def _plan(program: Program, heads: int, kv_heads: int, batch: int) -> _Plan:
    sizes, read = Sizes(1, 1, heads, kv_heads, batch), needed(program, heads, kv_heads, batch)
    found, names = retention(relation(program, read), sizes), {name for name, _ in read}
    by_heads = "heads" in names or any(item.heads is not None for item in found)
    by_batch = "batch" in names or any(item.b is not None for item in found)
    return _Plan(key_heads(found, sizes), by_heads, by_batch)
