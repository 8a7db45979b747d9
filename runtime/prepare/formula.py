"""What the formulas of rotations come to at a call: of sizes, positions, pairs of dimensions and inputs.

>>> from attnspec.spec.expr import Int, Var
>>> from attnspec.spec.real import Cast, Quotient
>>> value(Quotient(Cast(Var("k")), Cast(Int(4))), Sizes(3, 3), {}, {"k": range(3)}).flatten()
tensor([0.0000, 0.2500, 0.5000], dtype=torch.float64)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.core.visible import visible
from attnspec.runtime.expressions.functions import exact_function
from attnspec.runtime.expressions.real import Outside, real
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.bind import BadDivisor, OutsideList, bind
from attnspec.spec.evaluate import table, value_of
from attnspec.spec.real import Choose, Item, RealExpr, RealRead

_AXES = {"b": 0, "h": 1, "q": 2, "k": 2, "pair": 3}
"""The dimension of a result along which each variable runs."""


def value(
    node: e.IntExpr | RealExpr,
    sizes: Sizes,
    inputs: Mapping[str, Tensor],
    over: Mapping[str, range | NDArray[np.int64]],
    *,
    frequency: Tensor | None = None,
    device: torch.device | None = None,
    whole: bool = False,
    eager: bool = True,
) -> Tensor:
    """The value of an expression: (batch, heads, rows, pairs) or what broadcasts to it, int64 or float64.

    ``over`` says over which numbers ``q`` or ``k`` and ``pair`` run (ranges, or arrays that broadcast like results),
    ``frequency`` what that word stands for. Float inputs are read as they are given, differentiably. A read outside a
    list or an input is 0; with ``whole`` it is a CallError where the expression has no choice but to read it. What is
    read at ``pair`` alone has one entry for each pair, else it is a CallError too. Without ``eager`` it is all torch
    operations, which do not wait for a ``device``.
    """
    pairs = len(over.get("pair", ()))
    known = {name: size for name, size in sizes.parameters(0, 0).items() if name not in ("b", "h")}
    try:
        node = bind(node, {**known, "pairs": pairs})
    except (BadDivisor, OutsideList) as error:
        raise CallError(f"rotate: `{node}` has no value in this call: {error.args}") from None
    _check_pairs(node, pairs, inputs)
    held = sizes.held
    ranges: dict[str, range | NDArray[np.int64]] = {
        "b": range(held.b_start, held.b_start + held.batch),
        "h": range(held.h_start, held.h_start + held.heads),
    }
    ranges |= over
    used = {name: _along(axis, ranges[name]) for name, axis in _AXES.items() if name in contents.free(node)}
    reads = [inputs[name] for name in _names(node)]
    if not eager or (reads and not visible(*reads)):
        at = {"q": torch.zeros((), dtype=torch.int64, device=device)}
        at |= {name: torch.as_tensor(x, device=device) for name, x in used.items()}
        at["s"] = torch.zeros((), dtype=torch.float64, device=device) if frequency is None else frequency
        found = exact_function(node, sizes, inputs, pairs)(at)
    else:
        floats = {name: t for name, t in inputs.items() if t.is_floating_point() and name in _names(node)}
        tables = {table(name): inputs[name].numpy(force=True) for name in _names(node) if name not in floats}
        if isinstance(node, RealExpr):
            try:
                found = real(node, {**used, **tables}, floats, frequency, torch.float64, device, strict=whole)
            except Outside:
                raise CallError(f"rotate: `{node}` reads outside an input for some of {pairs} pairs") from None
        else:
            number, ok = value_of(node, {**used, **tables})
            found = torch.from_numpy(np.asarray(np.where(ok, number, 0), dtype=np.int64))
    return found.reshape((1,) * (4 - found.dim()) + found.shape)


def _along(axis: int, numbers: range | NDArray[np.int64]) -> Any:
    if not isinstance(numbers, range):
        return numbers
    return np.arange(numbers.start, numbers.stop).reshape([-1 if d == axis else 1 for d in range(4)])


def _names(node: e.Node) -> set[str]:
    """The inputs that an expression reads, and what is derived from them."""
    kinds = (e.Read, e.Flag, e.Among, RealRead)
    return {part.name for part in contents.walk(node) if isinstance(part, kinds)}


def _check_pairs(node: e.Node, pairs: int, inputs: Mapping[str, Tensor]) -> None:
    """Refuse what is read at ``pair`` alone and does not have one entry for each pair."""
    work: list[e.Node] = [node]
    while work:
        part = work.pop()
        if isinstance(part, (e.If, Choose)):  # which may be there to stay inside
            continue
        sizes: tuple[int, ...] = ()
        if isinstance(part, (e.Index, Item)):
            sizes, what = (len(part.items),), f"the list `{part}`"
        elif isinstance(part, (e.Read, RealRead)):
            sizes, what = tuple(inputs[part.name].shape), f"`{part}`"
        for index, size in zip(getattr(part, "indices", ()), sizes, strict=False):
            if index == e.Var("pair") and size != pairs:
                raise CallError(f"rotate: {what} has {size} entries, but {pairs} pairs of dimensions are turned")
        work.extend(part.children())
