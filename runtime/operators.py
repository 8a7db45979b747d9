"""The custom operators, so that torch.compile, torch.export, autocast and checkpointing see plain functions of tensors.

They are defined with ``torch.library.Library`` and not with its ``custom_op``: the latter imports all of TorchDynamo, a
second of start-up, at the first call of an operator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnspec.codegen.expressions.reads import names
from attnspec.runtime import flops
from attnspec.runtime.core.direct import direct
from attnspec.runtime.core.program import decode, facts, spec
from attnspec.runtime.core.request import EMPTY, Call, Result, Turn, check_lists
from attnspec.runtime.cpp import run as cpp
from attnspec.runtime.prepare.inputs import check_floats
from attnspec.runtime.prepare.operator import refuse
from attnspec.runtime.prepare.rotate import Angles
from attnspec.runtime.targets import Target, target_of

# The fields of a Call. (Schemas have no structures.) Calls without inputs have operators of their own: AOTInductor and
# wrappers in C++ cannot pass an empty list.
_QKV, _REST = "Tensor q, Tensor k, Tensor v", "Tensor? order, Tensor? sink, float scale, str program"
_CALL, _BARE = f"{_QKV}, Tensor[] inputs, {_REST}", f"{_QKV}, {_REST}"
_RESULT = "Tensor out, Tensor lse, Tensor norm, Tensor parts"
_GIVEN = f"{_RESULT}, Tensor dout, Tensor? dlse"
_LIBRARY = torch.library.Library("attnspec", "DEF")  # type: ignore[no-untyped-call]
for _schema in (
    f"attend({_CALL}, bool keep) -> (Tensor, Tensor, Tensor, Tensor)",
    f"attend_bare({_BARE}, bool keep) -> (Tensor, Tensor, Tensor, Tensor)",
    f"attend_turning({_CALL}, Tensor cos, Tensor sin, bool pairs) -> (Tensor, Tensor)",
    f"attend_backward({_CALL}, {_GIVEN}, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor[])",
    f"attend_bare_backward({_BARE}, {_GIVEN}) -> (Tensor, Tensor, Tensor, Tensor)",
):
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]

attend = torch.ops.attnspec.attend.default
attend_bare = torch.ops.attnspec.attend_bare.default
attend_turning = torch.ops.attnspec.attend_turning.default
attend_backward = torch.ops.attnspec.attend_backward.default
attend_bare_backward = torch.ops.attnspec.attend_bare_backward.default


def attended(call: Call, keep: bool) -> Result:
    """A call: by the operator for it where somebody else is to know of it, else at once."""
    q, k, v, inputs, *rest = whole = call.whole
    if direct(q, k, v, *_given(call)):
        grows = keeps(q, k, v, call.sink, *inputs)
        return attended_at_once(call, keep or grows, grows).apart()
    flops.watched()
    return Result(*(attend(*whole, keep) if inputs else attend_bare(q, k, v, *rest, keep)))


def attended_at_once(call: Call, keep: bool, grows: bool) -> Result:
    """A call past the dispatcher; for tensors that :func:`attnspec.runtime.core.direct.direct` lets pass.

    ``grows`` is what :func:`keeps` says of them. ``keep`` is for a caller who wants the norm and the parts himself.
    """
    if not grows:
        return _run(call, keep, "cpu")
    q, k, v, inputs, order, sink, *rest = call.whole
    found = _apply_at_once(keep, rest, q, k, v, order, sink, *inputs)  # type: ignore[no-untyped-call]
    return Result(*found, *(EMPTY,) * (4 - len(found)))


def attended_turning(call: Call, by: Angles, at_once: bool) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of a call without gradients, whose queries the kernel turns."""
    turn = by.cos, by.sin, by.pairs
    if at_once:
        return cpp.forward(call, False, turn=Turn(*turn))[:2]
    flops.watched()
    return attend_turning(*call.whole, *turn)  # type: ignore[no-any-return]


def attended_backward(
    call: Call, result: Result, dout: Tensor, dlse: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Sequence[Tensor]]:
    """Its gradients, as :func:`_attend_backward` returns them."""
    q, k, v, inputs, *rest = whole = call.whole
    if not torch.is_grad_enabled() and direct(q, k, v, dout, *(() if dlse is None else (dlse,)), *_given(call)):
        return _attend_backward(*whole, *result, dout, dlse, wanted)
    flops.watched()
    if inputs:
        return attend_backward(*whole, *result, dout, dlse, wanted)  # type: ignore[no-any-return]
    return *attend_bare_backward(q, k, v, *rest, *result, dout, dlse), ()


def _given(call: Call) -> list[Tensor]:
    """The tensors of a call beside vectors."""
    return [t for t in (call.order, call.sink, *call.inputs) if t is not None]


def keeps(*tensors: Tensor | None) -> bool:
    """Whether a call of these tensors may need gradients."""
    if torch.is_grad_enabled():
        for t in tensors:
            if t is not None and t.requires_grad:
                return True
    return False


def _attend(*arguments: Any) -> Result:
    """Output and log-sum-exp of a program's attention, and what only gradients need: ``keep`` says they are wanted."""
    *fields, keep = arguments
    call = Call(*fields)
    return _run(call, keep, call.q.device.type).apart()


def _run(call: Call, keep: bool, kind: str) -> Result:
    """The same of tensors on a kind of device."""
    known = _beside(call.encoded, kind)
    if known.lists:
        check_lists(call.program, call.q.shape[1], call.k.shape[1], call.q.shape[0])
    if known.floats:
        check_floats(spec(call.program), call.sizes, dict(zip(known.floats, call.inputs, strict=True)))
    return known.target.forward(call, keep)


class _Beside(NamedTuple):
    """What a program wants beside its kernel: ``floats`` are the names of its inputs if some of them hold reals."""

    target: Target
    lists: bool
    floats: tuple[str, ...]


@functools.lru_cache(maxsize=256)
def _beside(program: str, kind: str) -> _Beside:
    of = decode(program)
    read: tuple[str, ...] = ()
    if not facts(of).bare:
        checked = spec(of)
        read, floats = tuple(names(checked)), {i.name for i in checked.inputs if i.kind == "float"}
        read = read if floats.intersection(read) else ()
    return _Beside(target_of(of.target, kind), facts(of).lists, read)


def _attend_bare(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Result:
    return _attend(q, k, v, (), *rest)


def _attend_turning(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp, where the kernel turns the queries by these angles; without gradients."""
    *fields, cos, sin, pairs = arguments
    return cpp.forward(Call(*fields), False, turn=Turn(cos, sin, pairs))[:2]


def _attend_backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Gradients of q, k, v, the sink (empty without one) and the inputs (those that are not wanted are empty)."""
    *fields, out, lse, norm, parts, dout, dlse, wanted = arguments
    call = Call(*fields)
    target = _beside(call.encoded, call.q.device.type).target
    dq, dk, dv, dsink, dinputs = target.backward(call, Result(out, lse, norm, parts), dout, dlse, wanted)
    none = out.new_empty(0, dtype=torch.float32)
    return dq, dk, dv, none if dsink is None else dsink, [out.new_empty(0) if d is None else d for d in dinputs]


def _attend_bare_backward(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _attend_backward(q, k, v, (), *rest, ())[:4]


_LIBRARY.impl("attend_turning", _attend_turning, "CPU")  # type: ignore[no-untyped-call]
for _name, _implementation in (
    ("attend", _attend),
    ("attend_bare", _attend_bare),
    ("attend_backward", _attend_backward),
    ("attend_bare_backward", _attend_bare_backward),
):
    for _device in ("CPU", "CUDA"):  # CUDA serves ROCm too
        _LIBRARY.impl(_name, _implementation, _device)  # type: ignore[no-untyped-call]


# Shapes. They may be symbols: nothing here compares them.


def _fake_attend(*arguments: Any) -> tuple[Tensor, ...]:
    *fields, keep = arguments
    call = Call(*fields)
    out, lse = _empty(call.q, call.v)
    branches = facts(call.program).separate
    parts = out.new_empty((branches, *out.shape) if branches and keep else 0)
    return out, lse, lse.new_empty((3, *lse.shape) if keep else 0), parts


def _fake_attend_bare(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _fake_attend(q, k, v, (), *rest)


def _fake_attend_turning(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _empty(q, v)


def _empty(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty((*q.shape[:3], v.shape[3])), q.new_empty(q.shape[:3], dtype=torch.float32)


def _fake_attend_backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    *fields, _, _, _, _, _, _, wanted = arguments
    call = Call(*fields)
    dq, dk, dv = (t.new_empty(t.shape) for t in (call.q, call.k, call.v))
    dsink = dq.new_empty(0 if call.sink is None else call.sink.shape, dtype=torch.float32)
    dinputs = [
        t.new_empty(t.shape, dtype=torch.float32) if want else dq.new_empty(0)
        for t, want in zip(call.inputs, wanted, strict=True)
    ]
    return dq, dk, dv, dsink, dinputs


def _fake_attend_bare_backward(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _fake_attend_backward(q, k, v, (), *rest, ())[:4]


for _name, _fake in (
    ("attend", _fake_attend),
    ("attend_bare", _fake_attend_bare),
    ("attend_turning", _fake_attend_turning),
    ("attend_backward", _fake_attend_backward),
    ("attend_bare_backward", _fake_attend_bare_backward),
):
    torch.library.register_fake(f"attnspec::{_name}", _fake, lib=_LIBRARY)


# Gradients


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep what :func:`gradients` reads, of the fields of a call, ``keep`` and the results."""
    *fields, ctx.keep = inputs
    call = Call(*fields)
    ctx.save_for_backward(call.q, call.k, call.v, call.order, call.sink, *output, *call.inputs)
    ctx.scale, ctx.program = call.scale, call.encoded
    ctx.wanted = [t.requires_grad for t in call.inputs]
    ctx.sinks = call.sink is not None and call.sink.requires_grad
    ctx.set_materialize_grads(False)


def _save_bare(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, *rest = inputs
    save(ctx, (q, k, v, (), *rest), output)


def gradients(
    ctx: Any,
    dout: Tensor | None,
    dlse: Tensor | None,
    *_: None,
    forward: Callable[[Call, bool], Result] = attended,
    backward: Callable[..., tuple[Any, ...]] = attended_backward,
) -> tuple[Any, ...]:
    """The gradients of what ``attend`` is given, by these operators for a call and for its backward pass."""
    q, k, v, order, sink, out, lse, norm, parts, *inputs = ctx.saved_tensors
    if dout is None and dlse is None:
        return None, None, None, [None] * len(inputs), None, None, None, None, None
    if dout is None:
        dout = torch.zeros_like(out)
    call = Call(q, k, v, inputs, order, sink, ctx.scale, ctx.program)
    result = Result(out, lse, norm, parts)
    if not ctx.keep:  # a graph that was traced without gradients
        result = forward(call, True)
    dq, dk, dv, dsink, dinputs = backward(call, result, dout, dlse, ctx.wanted)
    wanted = [d if want else None for d, want in zip(dinputs, ctx.wanted, strict=True)]
    return dq, dk, dv, wanted, None, dsink if ctx.sinks else None, None, None, None


class _AtOnce(torch.autograd.Function):
    """``attend`` past the dispatcher."""

    @staticmethod
    def forward(ctx: Any, keep: bool, rest: Any, q: Tensor, k: Tensor, v: Tensor, *more: Any) -> tuple[Tensor, ...]:
        order, sink, *inputs = more
        found = _run(Call(q, k, v, inputs, order, sink, *rest), True, "cpu")
        kept = [t if t.is_floating_point() else t.clone() for t in inputs]  # the caller may write over his integers
        ctx.save_for_backward(q, k, v, order, sink, *found, *kept)
        ctx.scale, ctx.program = rest
        ctx.wanted = [t.requires_grad for t in inputs]
        ctx.sinks = sink is not None and sink.requires_grad
        ctx.keep = True
        ctx.set_materialize_grads(False)
        if not keep:
            return found.out, found.lse
        kept = [t for t in (found.norm, found.parts) if t is not EMPTY]
        ctx.mark_non_differentiable(*kept)
        return found.out, found.lse, *kept

    @staticmethod
    def backward(ctx: Any, *given: Any) -> tuple[Any, ...]:
        dout, dlse, *_ = given
        dq, dk, dv, dinputs, _, dsink, *_ = gradients(ctx, dout, dlse)
        return None, None, dq, dk, dv, None, dsink, *dinputs


# What Function.apply does before is for tensors that transforms have wrapped: there are none.
_apply_at_once = super(torch.autograd.Function, _AtOnce).apply


def _gradients_bare(ctx: Any, *given: Any) -> tuple[Any, ...]:
    dq, dk, dv, _, *rest = gradients(ctx, *given)
    return dq, dk, dv, *rest


def _refuse_turning(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
    raise NotImplementedError(
        "attnspec::attend_turning has no gradients: attend is called where they are wanted. A graph that was traced "
        "without them (by make_fx, say) must be traced with inputs that ask for them"
    )


for _name in ("attend_backward", "attend_bare_backward"):
    torch.library.register_autograd(f"attnspec::{_name}", refuse, lib=_LIBRARY)
torch.library.register_autograd("attnspec::attend_turning", _refuse_turning, lib=_LIBRARY)
torch.library.register_autograd("attnspec::attend", gradients, setup_context=save, lib=_LIBRARY)
torch.library.register_autograd("attnspec::attend_bare", _gradients_bare, setup_context=_save_bare, lib=_LIBRARY)

flops.announce()
