"""Parts as custom operators, for torch.compile and torch.export: inputs, rotations and kernels all within them.

All tensors of a call go in one list, q, k, v and then inputs, for a list without tensors cannot always be passed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.core.request import Result
from attnspec.runtime.parts.work import Work
from attnspec.runtime.prepare.operator import in_places

_GIVEN = "Tensor[] tensors, str[] names, float? scale, str program, SymInt[] where"
_OF_RESULT = "Tensor out, Tensor lse, Tensor norm, Tensor dout, Tensor? dlse"
_LIBRARY = torch.library.Library("attnspec", "FRAGMENT")  # type: ignore[no-untyped-call]

Given = tuple[Sequence[Tensor], Sequence[str], float | None, str, Sequence[int]]
"""The arguments of ``_GIVEN``."""


def _part(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *given, keep = arguments
    return Work.of(*given).forward(keep)[:3]


def _part_into(*arguments: Any) -> None:
    *given, out, lse = arguments
    Work.of(*given).forward(False, (out, lse))


def part_at_once(*given: Any) -> Result:
    """A part without gradients past the dispatcher.

    It is for tensors that :func:`attnspec.runtime.core.direct.direct` lets pass, as is :func:`part_into_at_once`.
    """
    return Work.of(*given).forward(False)


def part_into_at_once(*arguments: Any) -> None:
    """A part that is added in place; what is written to is marked as changed, as operators do."""
    _part_into(*arguments)
    torch.autograd.graph.increment_version(arguments[-2:])


def _part_backward(*arguments: Any) -> list[Tensor]:
    """Gradients of q, k, v and of the float inputs that are wanted, in one list."""
    *given, out, lse, norm, dout, dlse, wanted = arguments
    dq, dk, dv, dinputs = Work.of(*given).backward(Result(out, lse, norm, norm), dout, dlse, wanted)
    return [dq, dk, dv, *dinputs]


def _part_backward_into(*arguments: Any) -> None:
    *given, out, lse, norm, dout, dlse, wanted, into = arguments
    found = Work.of(*given).backward(Result(out, lse, norm, norm), dout, dlse, wanted, into[:3])
    for to, d in zip(into[3:], found[3], strict=True):
        to.add_(d)


def _fake_part(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    (q, _, v, *_), *_, keep = arguments
    out = q.new_empty((*q.shape[:3], v.shape[3]), dtype=torch.float32)
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    return out, lse, lse.new_empty((3, *lse.shape) if keep else 0)


def _fake_part_backward(*arguments: Any) -> list[Tensor]:
    tensors, names, *_, wanted = arguments
    by_name = dict(zip(names, tensors[3:], strict=True))
    of = [*tensors[:3], *(by_name[name] for name in wanted)]
    return [t.new_empty(t.shape, dtype=torch.float32) for t in of]


def _nothing(*arguments: Any) -> None:
    """What operators that write to what they are given return."""


for _name, _schema, _implementation, _fake in (
    ("part", f"({_GIVEN}, bool keep) -> (Tensor, Tensor, Tensor)", _part, _fake_part),
    ("part_into", f"({_GIVEN}, Tensor(a!) out, Tensor(b!) lse) -> ()", _part_into, _nothing),
    ("part_backward", f"({_GIVEN}, {_OF_RESULT}, str[] wanted) -> Tensor[]", _part_backward, _fake_part_backward),
    (
        "part_backward_into",
        f"({_GIVEN}, {_OF_RESULT}, str[] wanted, Tensor(a!)[] into) -> ()",
        _part_backward_into,
        _nothing,
    ),
):
    _LIBRARY.define(f"{_name}{_schema}", tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    for _device in ("CPU", "CUDA"):  # CUDA serves ROCm too
        _LIBRARY.impl(_name, _implementation, _device)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"attnspec::{_name}", _fake, lib=_LIBRARY)

part = torch.ops.attnspec.part.default
part_into = torch.ops.attnspec.part_into.default
part_backward = torch.ops.attnspec.part_backward.default
part_backward_into = torch.ops.attnspec.part_backward_into.default


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, ctx.names, ctx.scale, ctx.program, ctx.where, _ = inputs
    ctx.save_for_backward(*output, *tensors)
    ctx.wanted = [name for name, t in zip(ctx.names, tensors[3:], strict=True) if t.requires_grad]
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dout: Tensor | None, dlse: Tensor | None, _: None) -> tuple[Any, ...]:
    out, lse, norm, *tensors = ctx.saved_tensors
    found: list[Tensor | None] = [None] * len(tensors)
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "attnspec has no second derivatives (create_graph=True): there is no backward of the backward kernel"
        )
    if dout is not None or dlse is not None:
        given: Given = (tensors, ctx.names, ctx.scale, ctx.program, ctx.where)
        dout = torch.zeros_like(out) if dout is None else dout
        made = part_backward(*given, out, lse, norm, dout, dlse, ctx.wanted)
        found = in_places(made, ctx.names, ctx.wanted)
    return found, None if ctx.names else [], None, None, None, None  # an empty list may be one of tensors


torch.library.register_autograd("attnspec::part", _gradients, setup_context=_save, lib=_LIBRARY)
