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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from attnspec.codegen.expressions.reads import names
from attnspec.runtime import operators as operator
from attnspec.runtime.core.program import decode, facts, spec
from attnspec.runtime.core.request import Call, Result
from attnspec.runtime.core.visible import transforming
from attnspec.runtime.prepare.operator import made_names, ready_operator, refuse
from attnspec.runtime.sink import sink_operator
from attnspec.spec.split import apart, own_dims

Dims = Sequence[int | None]
"""A dimension of each tensor, None where it has none."""
_SINK = 10
"""Its place among the tensors of a backward pass."""


def attend(call: Call, keep: bool) -> Result:
    """A call by its operator, inside transforms or outside. ``keep`` says that gradients may be wanted."""
    if torch.compiler.is_compiling() or not transforming() or _functionalizing():
        return operator.attended(call, keep)
    return Result(*_Attend.apply(*_flat(call)))  # type: ignore[no-untyped-call]


def _functionalizing() -> bool:
    """Whether the innermost transform is ``functionalize``, which has rules for operators only."""
    functorch = torch._C._functorch
    return functorch.peek_interpreter_stack().key() == functorch.TransformType.Functionalize


def _flat(call: Call) -> tuple[Any, ...]:
    """What a call is made of: numbers, then tensors (functions of autograd take no lists)."""
    return (call.scale, call.encoded), call.q, call.k, call.v, call.order, call.sink, *call.inputs


def _call(rest: tuple[float, str], q: Tensor, k: Tensor, v: Tensor, *tensors: Any) -> Call:
    order, sink, *inputs = tensors
    return Call(q, k, v, inputs, order, sink, *rest)


class _Attend(torch.autograd.Function):
    """``attend`` of a call as :func:`_flat` has it."""

    @staticmethod
    def forward(rest: Any, *tensors: Any) -> tuple[Tensor, ...]:
        return tuple(operator.attended(_call(rest, *tensors), True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        operator.save(ctx, (*_call(*inputs), True), output)

    @staticmethod
    def backward(ctx: Any, *given: Any) -> tuple[Any, ...]:
        dq, dk, dv, dinputs, _, dsink, *_ = operator.gradients(ctx, *given, forward=attend, backward=_backward)
        return None, dq, dk, dv, None, dsink, *dinputs

    @staticmethod
    def vmap(info: Any, in_dims: Any, rest: Any, *tensors: Any) -> Any:
        return _map_attend(functools.partial(_Attend.apply, rest), info.batch_size, in_dims[1:], tensors, rest, True)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        _refuse_tangents()


def _backward(call: Call, result: Result, dout: Tensor, dlse: Tensor | None, wanted: Sequence[bool]) -> Any:
    """``attend_backward`` inside transforms."""
    numbers, *tensors = _flat(call)
    dq, dk, dv, dsink, *dinputs = _AttendBackward.apply(  # type: ignore[no-untyped-call]
        (numbers, tuple(wanted)), *result, dout, dlse, *tensors
    )
    return dq, dk, dv, dsink, dinputs


class _AttendBackward(torch.autograd.Function):
    """``attend_backward``: of forward's results, their gradients, and the tensors of the call."""

    @staticmethod
    def forward(rest: Any, *tensors: Any) -> tuple[Tensor, ...]:
        return _attend_backward(rest, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass  # nothing is kept: there are no second derivatives

    @staticmethod
    def backward(ctx: Any, *given: Any) -> tuple[Any, ...]:
        return refuse(ctx, *given)

    @staticmethod
    def vmap(info: Any, in_dims: Any, rest: Any, *tensors: Any) -> Any:
        return _map_backward(
            functools.partial(_AttendBackward.apply, rest), info.batch_size, in_dims[1:], tensors, rest
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        _refuse_tangents()


def _attend_backward(rest: Any, out: Tensor, lse: Tensor, norm: Tensor, parts: Tensor, *more: Any) -> tuple[Any, ...]:
    (numbers, wanted), (dout, dlse, *tensors) = rest, more
    result = Result(out, lse, norm, parts)
    *found, dinputs = operator.attended_backward(_call(numbers, *tensors), result, dout, dlse, wanted)
    return *found, *dinputs


def _refuse_tangents() -> NoReturn:
    raise NotImplementedError(
        "attnspec: kernels have no forward-mode derivatives (torch.func.jvp, jacfwd, hessian; "
        'torch.autograd.forward_ad); target="dense" has them'
    )


# Rules for a mapped dimension


def _mapped(
    run: Callable[..., Sequence[Tensor]],
    size: int,
    at: Dims,
    tensors: Sequence[Tensor | None],
    own: Dims,
    whole: Dims | None,
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """A function of tensors for every entry of a mapped dimension, at ``at`` in each: results, and where it is in them.

    ``own`` is the dimension of the batch in each tensor, ``whole`` in each result; None where entries differ otherwise.
    """
    if whole is not None and not any(a is not None and d is None for a, d in zip(at, own, strict=True)):
        joined = run(*(_join(t, a, d, size) for t, a, d in zip(tensors, at, own, strict=True)))
        return tuple(_cut(t, d, size) for t, d in zip(joined, whole, strict=True)), tuple(whole)
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


def _cut(t: Tensor, batch: int | None, size: int) -> Tensor:
    """A result with the mapped dimension before that of the batch, where it is joined with it."""
    return t if batch is None else t.view(*t.shape[:batch], size, t.shape[batch] // size, *t.shape[batch + 1 :])


@functools.lru_cache(maxsize=256)
def _inputs(program: str) -> tuple[bool, tuple[int | None, ...]]:
    """Whether batch entries know nothing of each other, and the dimension of the batch in each input of the kernel."""
    checked = spec(decode(program))
    dims = own_dims(checked, "b")
    return apart(checked, "b"), tuple(_own(name, dims) for name in names(checked))


def _own(name: str, dims: dict[str, int | None]) -> int | None:
    """The dimension of the batch in an input, or in what is derived from one."""
    return 0 if name.startswith("order") else dims.get(name.partition(".")[0])


def _map_attend(
    run: Callable[..., Any], size: int, at: Dims, tensors: Sequence[Any], numbers: tuple[float, str], keep: bool
) -> Any:
    free, inputs = _inputs(numbers[-1])
    whole = (0, 0, 1 if keep else None, 1 if keep and facts(decode(numbers[-1])).separate else None)
    return _mapped(run, size, at, tensors, (*(0,) * 5, *inputs), whole if free else None)


def _map_backward(run: Callable[..., Any], size: int, at: Dims, tensors: Sequence[Any], rest: Any) -> Any:
    numbers, wanted = rest
    free, inputs = _inputs(numbers[-1])
    free = free and not any(want and d is None for want, d in zip(wanted, inputs, strict=True))
    parts = 1 if facts(decode(numbers[-1])).separate else None
    sink = None if tensors[_SINK] is None else 0
    whole = (0, 0, 0, sink, *(d if want else None for want, d in zip(wanted, inputs, strict=True)))
    own = (0, 0, 1, parts, 0, 0, *(0,) * 5, *inputs)
    return _mapped(run, size, at, tensors, own, whole if free else None)


def _rule_attend(info: Any, in_dims: Any, *arguments: Any) -> Any:
    (*fields, keep), (_, *at) = arguments, _flat(Call(*in_dims[:-1]))
    numbers, *tensors = _flat(Call(*fields))

    def run(*tensors: Any) -> Result:
        return operator.attended(_call(numbers, *tensors), keep)

    return _map_attend(run, info.batch_size, at, tensors, numbers, keep)


def _rule_backward(info: Any, in_dims: Any, *arguments: Any) -> Any:
    (_, *at), (numbers, *tensors) = _flat(Call(*in_dims[:-7])), _flat(Call(*arguments[:-7]))
    *given, wanted = arguments[-7:]
    rest, at, tensors = (numbers, tuple(wanted)), [*in_dims[-7:-1], *at], [*given, *tensors]
    run = functools.partial(_attend_backward, rest)
    found, where = _map_backward(run, info.batch_size, at, tensors, rest)
    return (*found[:4], list(found[4:])), (*where[:4], list(where[4:]))


def _rule_bare(info: Any, in_dims: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Any:
    return _rule_attend(info, (*in_dims[:3], (), *in_dims[3:]), q, k, v, (), *rest)


def _rule_bare_backward(info: Any, in_dims: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Any:
    found, where = _rule_backward(info, (*in_dims[:3], (), *in_dims[3:], ()), q, k, v, (), *rest, ())
    return found[:4], where[:4]


def _rule_ready(
    info: Any, in_dims: Any, tensors: Sequence[Tensor], inputs: Sequence[str], program: str, wide: bool
) -> Any:
    checked, at, (q, k, *given) = spec(decode(program)), list(in_dims[0]), tensors
    # Of vectors only the shape is looked at, but for an order those of the queries.
    q, at[0] = (q, at[0]) if checked.order is not None or at[0] is None else (q.select(at[0], 0), None)
    k, at[1] = (k, at[1]) if at[1] is None else (k.select(at[1], 0), None)
    q = q if checked.order is not None else q[..., :0]

    def run(*tensors: Tensor) -> Any:
        return ready_operator(tensors, inputs, program, wide)

    if not any(a is not None for a in at):
        found = run(q, k, *given)
        return found, [None] * len(found)
    dims, made = own_dims(checked, "b"), made_names(checked)
    whole = tuple(_own(name, dims) for name in made) if made and apart(checked, "b", inputs) else None
    own = (0, 0, *map(dims.get, inputs))
    found, where = _mapped(run, info.batch_size, at, (q, k[..., :0], *given), own, whole)
    return list(found), list(where)


def _rule_angles(info: Any, in_dims: Any, tensors: Sequence[Tensor], inputs: Sequence[str], program: str) -> Any:
    return _mapped_around(torch.ops.attnspec.angles.default, info, in_dims, tensors, inputs, program)


def _rule_sink(info: Any, in_dims: Any, tensors: Sequence[Tensor], inputs: Sequence[str], program: str) -> Any:
    def run(*arguments: Any) -> list[Tensor]:
        return [sink_operator(*arguments)]

    (found,), (where,) = _mapped_around(run, info, in_dims, tensors, inputs, program)
    return found, where


def _mapped_around(
    made: Callable[..., list[Tensor]],
    info: Any,
    in_dims: Any,
    tensors: Sequence[Tensor],
    inputs: Sequence[str],
    program: str,
) -> Any:
    """What is made of inputs, for each entry by itself: of vectors only the shapes are looked at."""
    (of_q, of_k, *of_given), (q, k, *given) = in_dims[0], tensors
    q, k = (t if a is None else t.select(a, 0) for t, a in ((q, of_q), (k, of_k)))
    at, whole = [None, None, *of_given], [q, k, *given]

    def run(*tensors: Tensor) -> list[Tensor]:
        return made(list(tensors), inputs, program)

    if not any(a is not None for a in at):
        found = run(*whole)
        return found, [None] * len(found)
    each, where = _mapped(run, info.batch_size, at, whole, at, None)
    return list(each), list(where)


_RULES: Mapping[str, Callable[..., Any]] = {
    "attend": _rule_attend,
    "attend_bare": _rule_bare,
    "attend_backward": _rule_backward,
    "attend_bare_backward": _rule_bare_backward,
    "ready": _rule_ready,
    "angles": _rule_angles,
    "sink": _rule_sink,
}
_LIBRARY = torch.library.Library("attnspec", "FRAGMENT")  # type: ignore[no-untyped-call]
for _name, _rule in _RULES.items():
    torch.library.register_vmap(f"attnspec::{_name}", _rule, lib=_LIBRARY)
