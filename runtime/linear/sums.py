"""Sums of values weighed by products of features, over the pairs of a pattern, and their gradients.

``out_i = scale * sum over j of m_ij (a_i . b_j) D_ij v_j``, where the pattern has pair (i, j) m_ij times and D_ij is
what decay leaves, in a time that is linear in the length if the pattern lets it. Division by ``total_i``, the sum of
the weights, may be part of it.

Gradients are sums of the same form: with ``du = dout / total`` and ``dtotal = -(du . out)`` those of features
``[du, dtotal]`` of queries and ``[v, 1]`` of keys, over the pattern or its transpose.

The gradient of a step is the sum, over the pairs that it lies between, of weight times gradient of the weight: what all
queries from there on have of that less what all keys from there on have. Neither counts the pair of a position with
itself, which does not decay: it would hide all others where decay is strong.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from attnspec.runtime.core.request import EMPTY, Call
from attnspec.runtime.cpp.linear import Beside, Sweep, sweep
from attnspec.spec.weights import LOWEST_STEP


class Channels(NamedTuple):
    """The logarithms of the steps of each feature, (batch, heads, positions, features), float32.

    The first query and key of the call are at the positions ``at`` of them.
    """

    steps: Tensor
    at: tuple[int, int]


class Given(NamedTuple):
    """A call of which q and k are the features a and b, or vectors that the kernel maps to them.

    a is (batch, heads, n_q, features), b (batch, kv_heads, n, features), v (batch, kv_heads, n, dim_v). ``of_q`` is
    ``"q"`` where the call has queries, ``of_k`` ``"k"`` where it has keys, and ``""`` where it has features.
    ``decay_q`` (batch, heads, n_q) and ``decay_k`` (batch, heads, n) are the sums of the logarithms of all steps up to
    a position, float64, where pairs decay, and ``channels`` the steps where features do so each by itself: a pattern
    then sees no keys that come later. ``units`` says whether the kernel makes queries, and keys, of length one before
    that; gradients are of those that are. ``begin`` (batch, kv_heads, features, values) float32 is the state that each
    row sees besides, where nothing decays: with totals it has one more value.
    """

    call: Call
    of_q: str = ""
    of_k: str = ""
    decay_q: Tensor | None = None
    decay_k: Tensor | None = None
    channels: Channels | None = None
    units: tuple[bool, bool] = (False, False)
    begin: Tensor | None = None

    def cut(self) -> Given:
        """The same numbers as kernels read them, past autograd."""
        q, k, v, *_ = (t.detach() for t in self.call[:3])
        decay_q, decay_k = (None if t is None else t.detach().contiguous() for t in (self.decay_q, self.decay_k))
        channels = self.channels
        if channels is not None:
            steps = channels.steps.detach()
            channels = channels._replace(steps=steps if steps.stride(3) == 1 else steps.contiguous())
        call = self.call._replace(q=q, k=k, v=v)
        return self._replace(call=call, decay_q=decay_q, decay_k=decay_k, channels=channels)

    @property
    def decays(self) -> bool:
        """Whether pairs decay."""
        return self.decay_q is not None or self.channels is not None

    @property
    def steps(self) -> tuple[Tensor, ...]:
        """The tensors that say how."""
        if self.channels is not None:
            return (self.channels.steps,)
        return () if self.decay_q is None or self.decay_k is None else (self.decay_q, self.decay_k)

    @property
    def beside(self) -> Beside:
        """What all sweeps read."""
        if self.channels is not None:
            return Beside(steps=self.channels.steps, at=self.channels.at)
        if self.decay_q is None or self.decay_k is None:
            return Beside()
        return Beside(decay_q=self.decay_q, decay_k=self.decay_k)


class Sums(NamedTuple):
    """The sums, of v's dtype, and the totals of the weights (batch, heads, n_q) float32 if they are wanted."""

    out: Tensor
    total: Tensor | None
    end: Tensor | None = None


class Gradients(NamedTuple):
    """Those of what is q, k and v of a call, of their dtypes, and of its ``steps`` and ``begin``, float32."""

    q: Tensor | None
    k: Tensor | None
    v: Tensor
    steps: tuple[Tensor, ...] = ()
    begin: Tensor | None = None


def sums(
    given: Given,
    total: bool,
    divide: bool,
    dtype: torch.dtype | None = None,
    leaves: bool = False,
    kept: bool = True,
) -> Sums:
    """The sums of a call, of v's dtype or another. With ``divide`` they are divided by the total, which then is wanted.

    A row without keys, or whose weights add up to zero, then gives zeros. ``leaves``: the state after all keys is
    wanted too, of the form of ``begin``. Without ``kept`` the totals are only divided by: none are returned.
    """
    assert total or not divide
    call, of_q, of_k, *_ = given
    of = forward_sweep(of_q, of_k, given.decays, given.channels is not None, divide, total, given.units)
    beside, end = given.beside, None
    if given.begin is not None:
        beside = beside._replace(state_in=given.begin)
    if leaves:
        end = torch.empty((*call.k.shape[:2], call.k.shape[3], call.v.shape[3] + total))
        beside = beside._replace(state_out=end)
    out, found = sweep(call, of, *call[:3], dtype or call.v.dtype, beside, kept)
    return Sums(out, found if total and kept else None, end)


@functools.lru_cache(maxsize=64)
def forward_sweep(
    of_q: str, of_k: str, decay: bool, by_channel: bool, divide: bool, total: bool, units: tuple[bool, bool]
) -> Sweep:
    """The sweep that gives the sums."""
    maps, one = (of_q, of_k, "", ""), "z" if total else ""
    return Sweep(one=one, divide=divide, maps=maps, decay=decay, channels="y" * by_channel, units=units)


@functools.lru_cache(maxsize=64)
def backward_sweeps(
    of_q: str, of_k: str, decay: bool, by_channel: bool, divided: bool, total: bool
) -> tuple[Sweep, Sweep, Sweep]:
    """The sweeps that give the gradients of queries, keys and values; ``total``: a gradient of totals goes along."""
    to_q = Sweep(divide=divided, maps=("", "", of_k, of_q), decay=decay, crossing=decay, channels="z" * by_channel)
    to_k = replace(to_q, keys=True, maps=("", "", of_q, of_k))
    to_v = Sweep(True, divide=divided, maps=(of_k, of_q, "", ""), decay=decay, channels="y" * by_channel)
    if total:
        to_q, to_k = replace(to_q, one="y", up="x"), replace(to_k, one="x", up="y")
        to_v = replace(to_v, up="z" if divided else "")
    return to_q, to_k, to_v


def gradients(
    given: Given,
    of: Sums,
    divided: bool,
    dout: Tensor,
    dtotal: Tensor | None,
    of_v_alone: bool = False,
    dend: Tensor | None = None,
) -> Gradients:
    """The gradients from those of the sums, of the totals and of the state at the end (None: zero).

    ``of_v_alone`` leaves out all others.
    """
    call, of_q, of_k, *_ = given
    a, b, v = call[:3]
    decay, shape, by_channel = given.decays, (*a.shape[:3],), given.channels is not None
    to_q, to_k, to_v = backward_sweeps(of_q, of_k, decay, by_channel, divided, of.total is not None)
    beside = given.beside
    if of.total is not None:
        dtotal = EMPTY if dtotal is None else dtotal.to(torch.float32).contiguous()
        beside = beside._replace(total=of.total, dtotal=dtotal, extra=torch.zeros(shape))
    at_v, after = beside, EMPTY
    if dend is not None:
        after = dend.to(torch.float32) / call.scale  # the sweeps by keys multiply by it
        at_v = beside._replace(state_in=after[..., : v.shape[3]].contiguous())
    dv, _ = sweep(call, to_v, b, a, dout, v.dtype, at_v)
    if of_v_alone:
        return Gradients(None, None, dv)
    own = a.shape[3:] if by_channel else ()
    by_q = torch.zeros((*shape, *own)) if decay else EMPTY
    by_k = torch.zeros((*shape[:2], b.shape[2], *own)) if decay else EMPTY
    sources = a if of_q or decay else EMPTY, b if of_k or decay else EMPTY
    at_q = beside._replace(source=sources[0], result=of.out if divided else EMPTY, crossing=by_q)
    dbegin = None
    at_k = beside._replace(source=sources[1], crossing=by_k, state_in=_turned(after))
    if given.begin is not None:
        dbegin = torch.empty(_turned(given.begin).shape)
        at_q, at_k = at_q._replace(state_in=_turned(given.begin)), at_k._replace(state_out=dbegin)
    da, _ = sweep(call, to_q, dout, v, b, a.dtype, at_q)
    db, _ = sweep(call, to_k, v, dout, a, b.dtype, at_k)
    if dbegin is not None:
        dbegin = dbegin.mT * call.scale
    if given.channels is not None:
        return Gradients(da, db, dv, (_of_steps(given.channels, by_q, by_k),))
    return Gradients(da, db, dv, (by_q, -by_k) if decay else (), dbegin)


def _turned(state: Tensor) -> Tensor:
    """With features and values exchanged, as the sweeps for the gradients of features have them."""
    return state if state is EMPTY else state.mT.contiguous()


def _of_steps(of: Channels, by_q: Tensor, by_k: Tensor) -> Tensor:
    """The gradient of steps, from the sums over the pairs of each query and each key."""
    at_q, at_k = of.at
    sums = torch.zeros(of.steps.shape, dtype=torch.float64)
    sums[:, :, at_q : at_q + by_q.shape[2]] += by_q
    sums[:, :, at_k : at_k + by_k.shape[2]] -= by_k
    return sums.flip(2).cumsum(2).flip(2).float().masked_fill(of.steps < LOWEST_STEP, 0.0)
