"""A call over many ranks as one operator, which torch.compile keeps whole and checkpointing can save the results of.

Which ranks there are, and what is planned for them, follows from a string, as the program of a call does.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from attnspec.codegen.ranks.exact import total
from attnspec.runtime.attention import Attention
from attnspec.runtime.core.program import decode
from attnspec.runtime.distributed.finish import Kept
from attnspec.runtime.distributed.planning import Asked
from attnspec.runtime.distributed.spread import Given, Spread
from attnspec.runtime.prepare.operator import define, in_places, refuse

_GIVEN = "Tensor[] tensors, str[] names, float? scale, str spread, SymInt n"
_SPREADS: WeakValueDictionary[str, Spread] = WeakValueDictionary()


def registered(spread: Spread, group: str) -> tuple[str, Spread]:
    """What the operators take for it, what it is made from as a string; and the one that this means, if there is one.

    That is to be held instead: a string means nothing when the last that was made from the same is gone.
    """
    asked = spread.asked._asdict()
    encoded = json.dumps([spread.attend.program.encoded, spread.attend._target, group, asked])
    found = _SPREADS.get(encoded)
    if found is None or found.transport is not spread.transport:  # a group of that name that is gone
        found = _SPREADS[encoded] = spread
    return encoded, found


def _spread(encoded: str) -> Spread:
    """That of a string, which may come from a graph that was saved."""
    found = _SPREADS.get(encoded)
    if found is None:
        from attnspec.runtime.distributed.processes import of_name

        program, target, group, asked = json.loads(encoded)
        found = Spread(Attention(decode(program), target), of_name(group), Asked(**asked))
        _KEPT.append(found)
        _SPREADS[encoded] = found
    return found


_KEPT: list[Spread] = []
"""Those that nobody else holds."""


def share_of_pairs(encoded: str, n: int) -> float:
    """The pairs of a batch entry that a rank has on average: the same number on all ranks."""
    spread = _spread(encoded)
    return total(spread.schedule(n).work) / spread.transport.ranks


def _operations(products: Callable[[int, int], int], *arguments: Any, out_val: Any = None) -> int:
    """What this rank computes of a call, by its plan (documents leave less): so many products of each pair."""
    (q, _, v, *_), _, _, encoded, n, *_ = arguments
    spread = _spread(encoded)
    pairs = int(spread.schedule(n).work[spread.transport.rank]) * q.shape[0]
    return int(2 * pairs * products(q.shape[3], v.shape[3]))


FORMULAS: Mapping[str, Callable[..., int]] = MappingProxyType(
    {
        "attend_parallel": functools.partial(_operations, lambda dim, dim_v: dim + dim_v),
        "attend_parallel_backward": functools.partial(_operations, lambda dim, dim_v: 3 * dim + 2 * dim_v),
    }
)
"""What FlopCounterMode is told: see :mod:`attnspec.runtime.flops`."""


def _forward(*arguments: Any) -> Kept:
    tensors, names, scale, encoded, n, keep = arguments
    return _spread(encoded).forward(Given.of(tensors, names, scale, n), keep)


def _backward(*arguments: Any) -> list[Tensor]:
    tensors, names, scale, encoded, n, out, lse, outs, lses, dout, dlse, wanted = arguments
    given = Given.of(tensors, names, scale, n)
    return _spread(encoded).backward(given, Kept(out, lse, outs, lses), dout, dlse, wanted)


def _fake_forward(*arguments: Any) -> tuple[Tensor, ...]:
    (q, _, v, *_), _, _, encoded, _, keep = arguments
    known = _spread(encoded).attend._facts
    out = q.new_empty((*q.shape[:3], v.shape[3]))
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    branches = len(_spread(encoded).attend.branches) if keep and (known.separate or known.shared) else 0
    outs = out.new_empty((branches, *out.shape) if branches else 0)
    return out, lse, outs, lse.new_empty((branches, *lse.shape) if branches and known.shared else 0)


def _fake_backward(*arguments: Any) -> list[Tensor]:
    tensors, names, *_, wanted = arguments
    by_name = dict(zip(names, tensors[3:], strict=True))
    vectors = [t.new_empty(t.shape) for t in tensors[:3]]
    return [*vectors, *(by_name[name].new_empty(by_name[name].shape, dtype=torch.float32) for name in wanted)]


_RESULT = "Tensor out, Tensor lse, Tensor outs, Tensor lses"
define("attend_parallel", f"({_GIVEN}, bool keep) -> (Tensor, Tensor, Tensor, Tensor)", _forward, _fake_forward)
define(
    "attend_parallel_backward",
    f"({_GIVEN}, {_RESULT}, Tensor dout, Tensor? dlse, str[] wanted) -> Tensor[]",
    _backward,
    _fake_backward,
)
attend_parallel = torch.ops.attnspec.attend_parallel.default
attend_parallel_backward = torch.ops.attnspec.attend_parallel_backward.default


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, ctx.names, ctx.scale, ctx.spread, ctx.n, ctx.keep = inputs
    ctx.save_for_backward(*output, *tensors)
    ctx.held = _spread(ctx.spread)  # as long as the graph is there
    ctx.wanted = [name for name, t in zip(ctx.names, tensors[3:], strict=True) if t.requires_grad]
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dout: Tensor | None, dlse: Tensor | None, *_: None) -> tuple[Any, ...]:
    out, lse, outs, lses, *tensors = ctx.saved_tensors
    found: Sequence[Tensor | None] = [None] * len(tensors)
    if dout is not None or dlse is not None:
        given = tensors, ctx.names, ctx.scale, ctx.spread, ctx.n
        dout = torch.zeros_like(out) if dout is None else dout
        kept = (out, lse, outs, lses) if ctx.keep else attend_parallel(*given, True)
        found = in_places(attend_parallel_backward(*given, *kept, dout, dlse, ctx.wanted), ctx.names, ctx.wanted)
    return found, None if ctx.names else [], None, None, None, None  # an empty list may be one of tensors


torch.library.register_autograd("attnspec::attend_parallel", _gradients, setup_context=_save)
torch.library.register_autograd("attnspec::attend_parallel_backward", refuse)
