"""The delta rule: values that lose what their keys recall of the corrected values before.

``v'_i = write_i v_i - read_i * sum over j of m_ij (b_i . b_j) D_ij v'_j`` over the pairs of keys that a pattern has,
but those of a position with itself: tile by tile in one sweep over the sequence. Gradients are those of a triangular
system: with ``u`` the solution of the transposed one for the gradient of v', ``write u`` is that of v, and those of b
and of steps are two sweeps over pairs, of ``-read u`` and v'.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnspec.codegen.expressions.earlier import earlier
from attnspec.codegen.expressions.entrywise import in_kernels
from attnspec.codegen.expressions.reads import names as names_of
from attnspec.codegen.tiles import SEQUENCE
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.program import Program, decode
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.core.request import Call
from attnspec.runtime.core.visible import transforming
from attnspec.runtime.cpp.delta import solved
from attnspec.runtime.cpp.linear import Beside, Sweep, sweep
from attnspec.runtime.prepare.once import once


class Earlier(NamedTuple):
    """The pairs of keys of a pattern of which one comes before the other, as a program of its own.

    ``reads`` are the inputs that it reads; ``of_k`` is ``"k"`` where its kernels map keys to features.
    """

    program: str
    reads: tuple[str, ...]
    of_k: str

    @staticmethod
    @functools.lru_cache(maxsize=128)
    def of(whole: str, mapped: bool = True) -> Earlier:
        """Of a pattern with features; not ``mapped``: its kernels take features. Raises SpecError without kernels."""
        program = decode(whole)
        spec = spec_of(program)
        of_k = in_kernels(spec.weights)[1] if mapped else ""
        layout = SEQUENCE if program.layout == "auto" else program.layout
        own = Program.of(
            str(earlier(spec, mapped)), f"{spec.name}, earlier", None, {}, program.tile, layout, program.target
        )
        return Earlier(own.encoded, tuple(names_of(spec_of(own))), of_k)

    def call(self, b: Tensor, v: Tensor, inputs: Sequence[Tensor], scale: float = 1.0) -> Call:
        """A call in which keys, (batch, heads, n, dim), are queries too."""
        return Call(b, b, v, inputs, None, None, scale, self.program)


def corrected(
    earlier: Earlier,
    inputs: Sequence[Tensor],
    b: Tensor,
    v: Tensor,
    write: Tensor | None,
    read: Tensor,
    decay: Tensor | None,
    unit: bool = False,
) -> Tensor:
    """The corrected values (batch, heads, n, dim_v), float32, differentiable in all but the inputs of the pattern.

    b are features of keys (batch, heads, n, features), or what kernels map to them, v values (batch, heads, n, dim_v),
    write (None: ones) and read (batch, heads, n) float32, ``decay`` of that shape the sums of the logarithms of all
    steps up to a key, float64. ``unit``: keys are made of length one before, and nothing has gradients. Raises
    CallError inside torch.func.
    """
    if transforming():
        raise CallError(
            f"{spec_of(decode(earlier.program)).name}: kernels of `delta` have no rules for torch.func; "
            'target="dense" has them'
        )
    return _Corrected.apply(earlier, inputs, unit, b, v, write, read, decay)  # type: ignore[no-any-return, no-untyped-call]


def totals(earlier: Earlier, inputs: Sequence[Tensor], b: Tensor, decay: Tensor | None, unit: bool = False) -> Tensor:
    """The sums of what earlier keys weigh for each, (batch, heads, n), float32, as :func:`corrected` has them."""
    return _Totals.apply(earlier, inputs, unit, b, decay)  # type: ignore[no-any-return, no-untyped-call]


class _Corrected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, earlier: Earlier, inputs: Sequence[Tensor], unit: bool, *given: Tensor | None) -> Tensor:
        b, v, write, read, decay = _plain(*given)
        found, _ = solved(earlier.call(b, v, inputs), False, earlier.of_k, unit, b, v, write, read, decay)
        ctx.earlier, ctx.inputs = earlier, inputs
        ctx.save_for_backward(*given, found)
        return found

    @staticmethod
    @once
    def backward(ctx: Any, up: Tensor) -> tuple[Any, ...]:
        earlier, (b, v, write, read, decay, found) = ctx.earlier, _plain(*ctx.saved_tensors)
        up = up.float()
        # What no row sees may be no number, and has no part in gradients.
        unseen = (up == 0).all(-1) & ~(found.isfinite().all(-1) & b.isfinite().all(-1) & read.isfinite())
        if bool(unseen.any()):
            b, v, found = (t.masked_fill(unseen[..., None], 0.0) for t in (b, v, found))
            read = read.masked_fill(unseen, 0.0)
        call = earlier.call(b, v, ctx.inputs)
        by_read, u = solved(call, True, earlier.of_k, False, b, up, None, read, decay)
        of_b = dread = ddecay = None
        if any(ctx.needs_input_grad[i] for i in (3, 6, 7)):
            by_row, dread, by_key, of_key = _of_pairs(earlier, ctx.inputs, b, u, by_read, found, decay, -1.0)
            of_b = torch.addcmul(by_key, by_row, read[..., None]).to(b.dtype)
            ddecay = None if decay is None else (read * dread - of_key).double()
        of_v = u if write is None else u * write[..., None]
        dwrite = None if write is None else torch.where(u == 0, 0.0, u * v).sum(-1)
        return None, None, None, of_b, of_v.to(v.dtype), dwrite, dread, ddecay


class _Totals(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, earlier: Earlier, inputs: Sequence[Tensor], unit: bool, b: Tensor, decay: Tensor | None
    ) -> Tensor:
        ctx.earlier, ctx.inputs = earlier, inputs
        ctx.save_for_backward(b, decay)
        b, _, decay = _plain(b, None, decay)
        ones = torch.ones(()).expand(*b.shape[:3], 1)
        of = Sweep(maps=(earlier.of_k, earlier.of_k, "", ""), decay=decay is not None, units=(unit, unit))
        found, _ = sweep(earlier.call(b, ones, inputs), of, b, b, ones, torch.float32, _beside(decay))
        return found[..., 0]

    @staticmethod
    @once
    def backward(ctx: Any, up: Tensor) -> tuple[Any, ...]:
        b, decay = ctx.saved_tensors
        b, _, decay = _plain(b, None, decay)
        ones, up = torch.ones(()).expand(*b.shape[:3], 1), up.float().contiguous()[..., None]
        unseen = (up == 0) & ~b.isfinite().all(-1, keepdim=True)
        if bool(unseen.any()):
            b = b.masked_fill(unseen, 0.0)
        by_row, of_row, by_key, of_key = _of_pairs(ctx.earlier, ctx.inputs, b, up, up, ones, decay, 1.0)
        return None, None, None, (by_row + by_key).to(b.dtype), None if decay is None else (of_row - of_key).double()


def _plain(b: Any, v: Any, *by_key: Any) -> Any:
    """Features, values and what is by key as kernels read them, past autograd."""
    b, v = (None if t is None else t.detach() for t in (b, v))
    return b, v, *(None if t is None else t.detach().contiguous() for t in by_key)


def _beside(decay: Tensor | None) -> Beside:
    return Beside() if decay is None else Beside(decay_q=decay, decay_k=decay)


def _of_pairs(
    earlier: Earlier,
    inputs: Sequence[Tensor],
    b: Tensor,
    of_rows: Tensor,
    of_keys: Tensor,
    values: Tensor,
    decay: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of b as that of later keys and as that of earlier ones, and sums of weight times gradient of each.

    ``of_rows`` and ``of_keys`` are what gradients of weights are products of, with ``values``, in the one sum and the
    other.
    """
    call, of_k, beside = earlier.call(b, values, inputs, scale), earlier.of_k, _beside(decay)._replace(source=b)
    of = Sweep(maps=("", "", of_k, of_k), decay=decay is not None, crossing=True)
    sums = torch.zeros(b.shape[:3]), torch.zeros(b.shape[:3])
    by_row, _ = sweep(call, of, of_rows, values, b, torch.float32, beside._replace(crossing=sums[0]))
    by_key, _ = sweep(
        call, replace(of, keys=True), values, of_keys, b, torch.float32, beside._replace(crossing=sums[1])
    )
    return by_row, sums[0], by_key, sums[1]
