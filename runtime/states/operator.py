"""Calls with states as a custom operator, for torch.compile, export and all else that traces.

Its backward pass computes the call again. (Where nothing traces, operations of tensors are differentiated one by one.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from attnspec.runtime.core.program import decode
from attnspec.runtime.core.program import spec as spec_of
from attnspec.runtime.core.visible import traced
from attnspec.runtime.linear.work import vector_sizes
from attnspec.runtime.prepare.operator import LIBRARY, define, in_places, refuse
from attnspec.runtime.states.allowed import require_state
from attnspec.runtime.states.call import Asked, going_on, state_shape
from attnspec.runtime.states.piece import Results

_GIVEN = "Tensor[] tensors, str[] names, Tensor? state, float? scale, SymInt? q_start, bool return_state, str program"
_RESULTS = "(Tensor, Tensor, Tensor)"
_UPSTREAM = "Tensor? dout, Tensor? dtotal, Tensor? dstate, str[] wanted"

_untraced = _disable_dynamo(going_on)  # masks are evaluated in Python: the graph breaks there


def attended_from(asked: Asked, dense: bool) -> Results:
    """As :func:`attnspec.runtime.states.call.going_on` has it, as one operator where tensors are traced.

    ``dense`` is whether that is the program's target.
    """
    if dense:
        return (_untraced if torch.compiler.is_compiling() else going_on)(asked)
    program, q, k, v, scale, inputs, state, q_start, return_state = asked[:9]
    if not traced(q, *inputs.values()):
        return going_on(asked)
    factor = None if scale is None else float(scale)
    out, total, new = attend_from(
        [q, k, v, *inputs.values()], list(inputs), state, factor, q_start, return_state, program
    )
    return Results(out, total, new)


def _asked(
    tensors: Sequence[Tensor],
    names: Sequence[str],
    state: Tensor | None,
    scale: float | None,
    q_start: int | None,
    return_state: bool,
    program: str,
) -> Asked:
    """From the arguments of a schema."""
    q, k, v, *rest = tensors
    return Asked(program, q, k, v, scale, dict(zip(names, rest, strict=True)), state, q_start, return_state)


def _run(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    asked = _asked(*given)
    found = going_on(asked)
    total = (
        asked.v.new_empty(0, dtype=torch.float32)
        if found.total is None
        else found.total.clone(memory_format=torch.contiguous_format)
    )
    return found.out.contiguous(), total, found.state.contiguous()


def _forward(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        return _run(*given)


def _backward(*arguments: Any) -> list[Tensor]:
    """Gradients of q, k and v, of the state if there is one, and of the inputs of these names."""
    (tensors, names, state, *rest), (*upstream, wanted) = arguments[:7], arguments[7:]
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [
            t.detach().requires_grad_(name is None or name in wanted)
            for t, name in zip(tensors, [None, None, None, *names], strict=True)
        ]
        old = None if state is None else state.detach().requires_grad_()
        results = _run(leaves, names, old, *rest)
    pairs = [(x, d) for x, d in zip(results, upstream, strict=True) if d is not None and x.requires_grad]
    by_name = dict(zip(names, leaves[3:], strict=True))
    sources = [*leaves[:3], *([] if old is None else [old]), *(by_name[name] for name in wanted)]
    found = torch.autograd.grad(
        [x for x, _ in pairs], sources, [d for _, d in pairs], allow_unused=True, materialize_grads=True
    )
    return [d.contiguous() for d in found]


def _fake(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    asked = _asked(*given)
    program, q, k, v = asked[:4]
    spec, batch, heads, kv_heads = spec_of(decode(program)), *q.shape[:2], k.shape[1]
    packed = require_state(decode(program), heads, kv_heads, batch).packed
    many = batch * (1 if packed is None else asked.inputs[packed].shape[-1] - 1)
    whole = spec.weights.divide is not None and not spec.weights.each
    features = vector_sizes(spec, q, v)["features"]
    total = v.new_empty(q.shape[:3] if whole else 0, dtype=torch.float32)
    shape = state_shape(spec, many, heads, kv_heads, features, v.shape[3])
    state = v.new_empty(shape if asked.return_state else 0, dtype=torch.float32)
    return q.new_empty((*q.shape[:3], v.shape[3])), total, state


def _fake_backward(*arguments: Any) -> list[Tensor]:
    tensors, names, state, *_, wanted = arguments
    by_name = dict(zip(names, tensors[3:], strict=True))
    sources = [*tensors[:3], *([] if state is None else [state]), *(by_name[name] for name in wanted)]
    return [t.new_empty(t.shape) for t in sources]


define("attend_from", f"({_GIVEN}) -> {_RESULTS}", _forward, _fake, ("CPU",))
define("attend_from_backward", f"({_GIVEN}, {_UPSTREAM}) -> Tensor[]", _backward, _fake_backward, ("CPU",))
attend_from = torch.ops.attnspec.attend_from.default
attend_from_backward = torch.ops.attnspec.attend_from_backward.default


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, ctx.names, state, *ctx.rest = inputs
    ctx.save_for_backward(*([] if state is None else [state]), *tensors)
    ctx.has_state = state is not None
    ctx.wanted = [name for name, t in zip(ctx.names, tensors[3:], strict=True) if t.requires_grad]
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, *upstream: Tensor | None) -> tuple[Any, ...]:
    saved = list(ctx.saved_tensors)
    state = saved.pop(0) if ctx.has_state else None
    found: list[Tensor | None] = [None] * len(saved)
    dstate = None
    if any(d is not None for d in upstream):
        made = attend_from_backward(saved, ctx.names, state, *ctx.rest, *upstream, ctx.wanted)
        if state is not None:
            dstate = made.pop(3)
        found = in_places(made, ctx.names, ctx.wanted)
    return found, None if ctx.names else [], dstate, None, None, None, None


torch.library.register_autograd("attnspec::attend_from", _gradients, setup_context=_save, lib=LIBRARY)
torch.library.register_autograd("attnspec::attend_from_backward", refuse, lib=LIBRARY)
