"""A call whose keys lie in pages as one operator: what lengths and tables hold is looked at when it runs.

It has no gradients, so that inputs need not go round it: all that a call does stands in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attnspec.codegen.expressions.reads import names as names_of
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.direct import direct
from attnspec.runtime.core.pages import Pages, by_length, pages_of, shapes_at, sizes_at
from attnspec.runtime.core.program import decode, facts, spec
from attnspec.runtime.core.request import Call, check_lists
from attnspec.runtime.prepare.inputs import prepare
from attnspec.runtime.prepare.operator import define
from attnspec.runtime.sink import sink
from attnspec.runtime.targets import target_of
from attnspec.spec import contents
from attnspec.spec.spec import Spec


def attended(
    tensors: Sequence[Tensor], names: Sequence[str], scale: float | None, program: str
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp, without gradients, by the operator or past the dispatcher.

    ``tensors`` are q, k, v, the table, the lengths, and the inputs in the order of ``names``.
    """
    tensors = [t.detach() if t.requires_grad else t for t in tensors]
    return (_attend_paged if direct(*tensors) else attend_paged)(tensors, names, scale, program)


def _attend_paged(
    tensors: Sequence[Tensor], names: Sequence[str], scale: float | None, program: str
) -> tuple[Tensor, Tensor]:
    q, k, v, table, lengths, *given = tensors
    decoded = decode(program)
    known, (batch, heads, n_q, dim), kv_heads = facts(decoded), q.shape, k.shape[1]
    pages = pages_of(known.name, k, table, lengths)
    if known.lists:
        check_lists(decoded, heads, kv_heads, batch)
    inputs, logits = [], None
    if not known.bare:
        pattern = spec(decoded)
        whole = Sizes(pages.longest, n_q, heads, kv_heads, batch, known.align == "end")
        found = prepare(
            pattern, sizes_at(pattern, whole, pages.longest), dict(zip(names, given, strict=True)), device=q.device
        )
        inputs = [found[name] for name in names_of(pattern)]
        logits = _sink(pattern, whole, pages, found, q.device)
        scale = pattern.scale if scale is None else scale
    scale = 1.0 / math.sqrt(dim) if scale is None else scale
    call = Call(q, k, v, inputs, None, logits, scale, program, pages=pages)
    return target_of(decoded.target, q.device.type).forward(call, False)[:2]


def _sink(
    pattern: Spec, sizes: Sizes, pages: Pages, found: Mapping[str, Tensor], device: torch.device
) -> Tensor | None:
    """The sink of each head, or of each row: where it depends on lengths, of each entry by its own."""
    if pattern.sink is None:
        return None
    sized = {declared.name for declared in pattern.inputs if by_length(declared)}
    if not contents.varies(pattern.sink) & {"n", "m", "q", *sized}:
        return sink(pattern, sizes, found, device)
    own = []
    for b, length in enumerate(pages.lengths):
        here = sizes_at(pattern, sizes, length)
        shapes = shapes_at(pattern, here, found)
        cut = {name: found[name][tuple(map(slice, shape))] for name, shape in shapes.items()}
        logits = sink(pattern, here, {**found, **cut}, device)
        assert logits is not None
        own.append(logits[b])
    return torch.stack(own) if own else sink(pattern, sizes, found, device)


def _fake(tensors: Sequence[Tensor], names: Sequence[str], scale: float | None, program: str) -> tuple[Tensor, Tensor]:
    q, _, v, *_ = tensors
    return q.new_empty((*q.shape[:3], v.shape[3])), q.new_empty(q.shape[:3], dtype=torch.float32)


define(
    "attend_paged",
    "(Tensor[] tensors, str[] names, float? scale, str program) -> (Tensor, Tensor)",
    _attend_paged,
    _fake,
)
attend_paged = torch.ops.attnspec.attend_paged.default
