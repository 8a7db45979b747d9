"""The operators inside the transforms of torch.func: vmap, grad, vjp, jacrev and what is made of them.

A mapped dimension is joined with the batch and cut off again, where batch entries know nothing of each other (see
:mod:`attnspec.spec.split`): one call computes all. Where that would change what is computed, a call is made for each
entry of the mapped dimension: if the pattern reads ``b`` or ``batch`` other than to find the entry's part of an input,
if what is mapped has no dimension of the batch, or in backward if its gradient is wanted.

>>> import attnspec
>>> attend = attnspec.compile("causal")
>>> x = torch.randn(5, 1, 2, 10, 8)
>>> loss = lambda q, k, v: attend(q, k, v).sum()
>>> torch.vmap(torch.func.grad(loss))(x, x, x).shape  # gradients of each sample
torch.Size([5, 1, 2, 10, 8])

Source: "Extending torch.func with autograd.Function", PyTorch's notes. (An operator of torch.library has no gradients
in torch.func by ``register_autograd``.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from attnspec.codegen.expressions.reads import names
from attnspec.runtime import operators as operator
from attnspec.runtime.core.program import decode, facts, spec
from attnspec.runtime.core.request import Call, Result
from attnspec.runtime.core.visible import transforming
from attnspec.runtime.prepare.operator import made_names
from attnspec.spec.split import apart, own_dims

Dims = Sequence[int | None]
"""A dimension of each tensor, None where it has none."""


def attend(call: Call, keep: bool) -> Result:
    """A call by its operator, inside transforms or outside. ``keep`` says that gradients may be wanted."""
    if torch.compiler.is_compiling() or not transforming():
        return Result(*operator.attend(*call, keep))
    return Result(*_Attend.apply(*_flat(call)))  # type: ignore[no-untyped-call]


def _flat(call: Call) -> tuple[Any, ...]:
    """What a call is made of, its tensors last: functions of autograd take no lists."""
    return (call.m, call.scale, call.encoded), call.q, call.k, call.v, call.order, call.sink, *call.inputs


def _call(rest: tuple[int, float, str], q: Tensor, k: Tensor, v: Tensor, *tensors: Any) -> Call:
    order, sink, *inputs = tensors
    return Call(q, k, v, inputs, order, sink, *rest)


class _Attend(torch.autograd.Function):
    """``attend`` of a call, as :func:`_flat` has it."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(operator.attend(*_call(*arguments), True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        operator.save(ctx, (*_call(*inputs), True), output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        dq, dk, dv, dinputs, _, dsink, *_ = operator.gradients(ctx, *gradients, backward=_backward)
        return None, dq, dk, dv, None, dsink, *dinputs

    @staticmethod
    def vmap(info: Any, in_dims: Any, rest: Any, *tensors: Any) -> Any:
        return _mapped_attend(lambda *t: _Attend.apply(rest, *t), info, in_dims[1:], tensors, rest[-1], True)  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        _refuse_tangents()


def _backward(*arguments: Any) -> tuple[Any, ...]:
    """``attend_backward``, inside transforms."""
    *fields, out, lse, norm, parts, dout, dlse, wanted = arguments
    rest, *tensors = _flat(Call(*fields))
    given = out, lse, norm, parts, dout, dlse
    dq, dk, dv, dsink, *dinputs = _AttendBackward.apply((*rest, wanted), *given, *tensors)  # type: ignore[no-untyped-call]
    return dq, dk, dv, dsink, dinputs


class _AttendBackward(torch.autograd.Function):
    """``attend_backward``: forward's results and their gradients, then the tensors of the call."""

    @staticmethod
    def forward(rest: Any, *tensors: Any) -> tuple[Tensor, ...]:
        *rest, wanted = rest
        call = _call(tuple(rest), *tensors[6:])
        *gradients, dinputs = operator.attend_backward(*call, *tensors[:6], wanted)
        return *gradients, *dinputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> NoReturn:
        operator.refuse(ctx)

    @staticmethod
    def vmap(info: Any, in_dims: Any, rest: Any, *tensors: Any) -> Any:
        return _mapped_backward(lambda *t: _AttendBackward.apply(rest, *t), info, in_dims[1:], tensors, *rest[-2:])  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        _refuse_tangents()


def _refuse_tangents() -> NoReturn:
    raise NotImplementedError(
        "attnspec: kernels have no forward-mode derivatives (torch.func.jvp, jacfwd, hessian, torch.autograd.forward_ad);"
        ' target="dense" has them'
    )


# Rules for a mapped dimension


def _mapped(
    run: Callable[..., Sequence[Tensor]], size: int, at: Dims, tensors: Sequence[Tensor | None], own: Dims, whole: Dims | None
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """A function of tensors for every entry of a mapped dimension, which is at ``at`` in each: results, and where it is.

    ``own`` is the dimension of the batch in each tensor, ``whole`` in each result; None where entries differ otherwise.
    """
    if whole is not None and not any(a is not None and d is None for a, d in zip(at, own, strict=True)):
        joined = run(*(_join(t, a, d, size) for t, a, d in zip(tensors, at, own, strict=True)))
        cut = (t if d is None else t.unflatten(d, (size, t.shape[d] // size)) for t, d in zip(joined, whole, strict=True))
        return tuple(cut), tuple(whole)
    each = [
        run(*(t if t is None or a is None else t.select(a, i) for t, a in zip(tensors, at, strict=True)))
        for i in range(size)
    ]
    return tuple(torch.stack(results) for results in zip(*each, strict=True)), (0,) * len(each[0])


def _join(t: Tensor | None, at: int | None, batch: int | None, size: int) -> Tensor | None:
    """A tensor whose mapped dimension is part of the batch (and what is the same for all is repeated)."""
    if t is None or batch is None:
        return t
    t = t.expand(size, *t.shape) if at is None else t.movedim(at, 0)
    return t.movedim(0, batch).flatten(batch, batch + 1)


@functools.lru_cache(maxsize=256)
def _inputs(program: str) -> tuple[bool, tuple[int | None, ...]]:
    """Whether batch entries know nothing of each other, and the dimension of the batch in each input of the kernel."""
    checked = spec(decode(program))
    dims = own_dims(checked, "b")
    return apart(checked, "b"), tuple(_own(name, dims) for name in names(checked))


def _own(name: str, dims: dict[str, int | None]) -> int | None:
    """The dimension of the batch in an input, or in what is derived from one."""
    return 0 if name.startswith("order") else dims.get(name.partition(".")[0])


def _mapped_attend(run: Any, info: Any, at: Dims, tensors: Sequence[Any], program: str, keep: bool) -> Any:
    free, inputs = _inputs(program)
    whole = (0, 0, 1 if keep else None, 1 if keep and facts(decode(program)).separate else None)
    return _mapped(run, info.batch_size, at, tensors, (0,) * 5 + inputs, whole if free else None)


def _mapped_backward(
    run: Any, info: Any, at: Dims, tensors: Sequence[Any], program: str, wanted: Sequence[bool]
) -> Any:
    free, inputs = _inputs(program)
    free = free and not any(want and d is None for want, d in zip(wanted, inputs, strict=True))
    parts = 1 if facts(decode(program)).separate else None
    sink = None if tensors[10] is None else 0
    whole = (0, 0, 0, sink, *(d if want else None for want, d in zip(wanted, inputs, strict=True)))
    own = (0, 0, 1, parts, 0, 0, *(0,) * 5, *inputs)
    return _mapped(run, info.batch_size, at, tensors, own, whole if free else None)


def _vmap_attend(info: Any, in_dims: Any, *arguments: Any) -> Any:
    *fields, keep = arguments
    (_, *at), (rest, *tensors) = _flat(Call(*in_dims[:-1])), _flat(Call(*fields))
    return _mapped_attend(lambda *t: operator.attend(*_call(rest, *t), keep), info, at, tensors, rest[-1], keep)


def _vmap_backward(info: Any, in_dims: Any, *arguments: Any) -> Any:
    *fields, _, _, _, _, _, _, wanted = arguments
    (_, *at), (rest, *tensors) = _flat(Call(*in_dims[:-7])), _flat(Call(*fields))

    def run(*t: Any) -> tuple[Tensor, ...]:
        *gradients, dinputs = operator.attend_backward(*_call(rest, *t[6:]), *t[:6], wanted)
        return *gradients, *dinputs

    given = arguments[-7:-1]
    found, where = _mapped_backward(run, info, (*in_dims[-7:-1], *at), (*given, *tensors), rest[-1], wanted)
    return (*found[:4], list(found[4:])), (*where[:4], list(where[4:]))


def _vmap_ready(
    info: Any,
    in_dims: Any,
    q: Tensor,
    given: Sequence[Tensor],
    inputs: Sequence[str],
    sizes: Sequence[int],
    wide: bool,
    program: str,
) -> Any:
    checked = spec(decode(program))
    dims = own_dims(checked, "b")
    *others, batch, m = sizes
    made = made_names(checked)
    whole = tuple(_own(name, dims) for name in made) if apart(checked, "b", inputs) else None

    def run(q: Tensor, *given: Tensor) -> Any:
        entries = q.shape[0]
        return torch.ops.attnspec.ready.default(q, list(given), inputs, [*others, entries, m], wide, program)

    own = (0, *(dims.get(name) for name in inputs))
    found, where = _mapped(run, info.batch_size, (in_dims[0], *in_dims[1]), (q, *given), own, whole)
    return list(found), list(where)


for _name, _rule in (("attend", _vmap_attend), ("attend_backward", _vmap_backward), ("ready", _vmap_ready)):
    torch.library.register_vmap(f"attnspec::{_name}", _rule, lib=operator.LIBRARY)
