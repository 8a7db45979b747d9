"""The logits of a sink: worked out around the kernel, and as an operator with gradients where tensors are traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.program import decode
from attnspec.runtime.core.request import check_lists, sizes_of
from attnspec.runtime.core.visible import visible
from attnspec.runtime.expressions.functions import real_function
from attnspec.runtime.expressions.real import real, tables
from attnspec.runtime.prepare.inputs import check_floats
from attnspec.runtime.prepare.operator import GIVEN, LIBRARY, Given, define
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.derive import derivatives
from attnspec.spec.real import RealExpr, RealRead
from attnspec.spec.spec import Spec


def sink(spec: Spec, sizes: Sizes, found: Mapping[str, Tensor], device: torch.device) -> Tensor | None:
    """The sink of each head of each batch entry, (batch, heads), or of each row, (batch, heads, n_q), float32."""
    if spec.sink is None:
        return None
    if (logit := _logit(spec, found, sizes.batch, sizes.heads)) is not None:
        at = sizes.held
        whole = logit.expand(sizes.batch, sizes.heads)
        return whole[at.b_start : at.b_start + at.batch, at.h_start : at.h_start + at.heads]
    if not visible(*found.values()):
        return _transformed(spec.sink, sizes, found, device)
    shape, env = _places(spec, sizes, found)
    return real(spec.sink, env, found, dtype=torch.float32, device=device).expand(shape)


def _transformed(expr: RealExpr, sizes: Sizes, found: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """The same inside transforms of torch.func, which want operations of tensors."""
    at = sizes.held
    b, h, q = at.b_start + torch.arange(at.batch)[:, None], at.h_start + torch.arange(at.heads), torch.tensor(0)
    shape: tuple[int, ...] = (at.batch, at.heads)
    if "q" in contents.free(expr):
        b, h, q = b[..., None], h[:, None], at.q_start + torch.arange(at.rows)
        shape = (*shape, at.rows)
    b, h, q = (t.to(device) for t in (b, h, q))
    value = real_function(expr, sizes, found)(b, h, q, q)  # a number where it reads nothing
    return torch.as_tensor(value, dtype=torch.float32, device=device).expand(shape)


def traced_sink(spec: Spec, program: str, q: Tensor, k: Tensor, found: Mapping[str, Tensor]) -> Tensor | None:
    """The same where tensors are traced."""
    if spec.sink is None:
        return None
    if (logit := _logit(spec, found, q.shape[0], q.shape[1])) is not None:
        return logit.expand(q.shape[0], q.shape[1])
    return sink_operator([q.detach(), k.detach(), *found.values()], list(found), program)  # type: ignore[no-any-return]


def gradients(spec: Spec, sizes: Sizes, found: Mapping[str, Tensor], gradient: Tensor) -> dict[str, Tensor]:
    """The gradients of the float inputs that a sink reads, float32, from that of the sink."""
    assert spec.sink is not None
    shape, env = _places(spec, sizes, found)
    sums: dict[str, Tensor] = {}
    for read, slope in derivatives(spec.sink).items():
        assert isinstance(read, RealRead)  # a sink has no score
        t = found[read.name]
        by = real(slope, env, found, dtype=torch.float32, device=gradient.device)
        parts = torch.where(gradient == 0, 0.0, gradient * by).double().expand(shape)
        # Which entry is read where: found by reading their numbers. 0 is what is outside.
        numbers = torch.arange(1, t.numel() + 1, dtype=torch.float64, device=t.device).view(t.shape)
        at = real(read, env, {**found, read.name: numbers}, dtype=torch.float64).long().expand(shape)
        total = sums.setdefault(read.name, torch.zeros(t.numel() + 1, dtype=torch.float64, device=t.device))
        total.index_add_(0, at.reshape(-1), parts.reshape(-1))
    return {name: total[1:].view(found[name].shape).float() for name, total in sums.items()}


def _logit(spec: Spec, found: Mapping[str, Tensor], batch: int, heads: int) -> Tensor | None:
    """The input that is the sink as it is, if one is."""
    shapes: dict[tuple[e.IntExpr, ...], tuple[int, ...]] = {
        (e.Var("h"),): (heads,),
        (e.Var("b"), e.Var("h")): (batch, heads),
    }
    if not isinstance(spec.sink, RealRead) or (shape := shapes.get(spec.sink.indices)) is None:
        return None
    logit = found[spec.sink.name]
    return logit if logit.shape == shape else None


def _places(spec: Spec, sizes: Sizes, found: Mapping[str, Tensor]) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The shape of a sink, and the values of the variables in it."""
    assert spec.sink is not None
    at = sizes.held
    places = {"b": at.b_start + np.arange(at.batch)[:, None], "h": at.h_start + np.arange(at.heads)[None, :]}
    shape: tuple[int, ...] = (at.batch, at.heads)
    if "q" in contents.free(spec.sink):
        places = {name: place[..., None] for name, place in places.items()}
        places["q"] = at.q_start + np.arange(at.rows)
        shape = (*shape, at.rows)
    return shape, {**sizes.parameters(0, 0), **tables(found), **places}


def _forward(tensors: Sequence[Tensor], names: Sequence[str], program: str) -> Tensor:
    spec, q, k, found = Given.of(tensors, names, program)
    sizes = sizes_of(spec, q, k)
    check_lists(decode(program), sizes.heads, sizes.kv_heads, sizes.batch)
    check_floats(spec, sizes, found)
    out = sink(spec, sizes, found, q.device)
    assert out is not None
    return out.clone(memory_format=torch.contiguous_format)


def _fake_forward(tensors: Sequence[Tensor], names: Sequence[str], program: str) -> Tensor:
    spec, q, _, _ = Given.of(tensors, names, program)
    assert spec.sink is not None
    return q.new_empty(q.shape[: 3 if "q" in contents.free(spec.sink) else 2], dtype=torch.float32)


def _backward(tensors: Sequence[Tensor], names: Sequence[str], program: str, gradient: Tensor) -> list[Tensor]:
    spec, q, k, found = Given.of(tensors, names, program)
    made = gradients(spec, sizes_of(spec, q, k), found, gradient)
    return [made[name] if name in made else q.new_empty(0) for name in names]


def _fake_backward(tensors: Sequence[Tensor], names: Sequence[str], program: str, gradient: Tensor) -> list[Tensor]:
    spec, q, _, found = Given.of(tensors, names, program)
    read = _read(spec)
    return [gradient.new_empty(t.shape) if name in read else q.new_empty(0) for name, t in found.items()]


def _read(spec: Spec) -> set[str]:
    """The float inputs that a sink has derivatives by."""
    assert spec.sink is not None
    return {read.name for read in derivatives(spec.sink) if isinstance(read, RealRead)}


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors, ctx.names, ctx.program = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    made = torch.ops.attnspec.sink_backward.default(ctx.saved_tensors, ctx.names, ctx.program, gradient)
    read = _read(Given.of(ctx.saved_tensors, ctx.names, ctx.program).spec)
    return [None, None, *(t if name in read else None for name, t in zip(ctx.names, made, strict=True))], None, None


define("sink", f"({GIVEN}) -> Tensor", _forward, _fake_forward)
define("sink_backward", f"({GIVEN}, Tensor gradient) -> Tensor[]", _backward, _fake_backward)
torch.library.register_autograd("attnspec::sink", _gradients, setup_context=_save, lib=LIBRARY)
sink_operator = torch.ops.attnspec.sink.default
