"""The formula that a trace computes: one rule for each operation.

>>> from attnspec.runtime.flex.trace import MASK, trace
>>> near = trace(lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx < 4), MASK)
>>> print(formula(near, Tables({})))
q >= k and q - k < 4
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnspec.runtime.flex.bits import Packed, Unlike, plain
from attnspec.runtime.flex.facts import NotNegative
from attnspec.runtime.flex.narrow import check_width
from attnspec.runtime.flex.operations import ENTRYWISE, literal, rounded
from attnspec.runtime.flex.tables import Tables
from attnspec.runtime.flex.trace import Place, Ref, Step, Trace, refused
from attnspec.runtime.flex.values import (
    Ends,
    Node,
    Value,
    axis,
    bound_name,
    broadcast,
    ends,
    from_either_end,
    number,
    predicate,
    real,
    substituted,
)
from attnspec.spec import contents, make, rewrite
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.exact import TooLarge

_NO_STOP = (
    "gradients are kept from a score or from a tensor that requires grad, which the language has no word for: read a "
    "tensor that is detached as a whole, as in `bias.detach()[h]`"
)
_PARTS = ("rounding_mode",)
"""Keywords that are words and not numbers."""


def formula(trace: Trace, tables: Tables) -> Node:
    """What a function returns. Its tensors become entries of ``tables``. Raises CallError, with the user's line."""
    tables.facts.values |= trace.values
    first: list[Value] = [Value(r.Score() if name == "s" else e.Var(name)) for name in trace.arguments]
    machine = _Machine(trace, tables, first)
    for step in trace.steps:
        machine.values.append(machine.step(step))
    result = trace.result
    if isinstance(result, bool):
        return e.Bool(result)
    if not isinstance(result, (Ref, Tensor)):
        raise refused(trace.place, f"the function returns {type(result).__name__}, and a tensor is wanted")
    value = machine.operand(result, trace.place)
    last = trace.steps[-1].place if trace.steps else trace.place
    if any(size != 1 for size in value.shape):
        raise refused(trace.place, f"the function returns {list(value.shape)} numbers for a pair, and one is wanted")
    rank = len(value.shape)
    node = _without(value, list(range(rank)), {axis(d, rank).name: e.Int(0) for d in range(rank)}).node
    try:
        return plain(node) if isinstance(node, Packed) else node
    except Unlike as err:
        raise refused(last, str(err)) from None


class _Machine:
    """The values of the steps so far."""

    def __init__(self, trace: Trace, tables: Tables, values: list[Value]) -> None:
        self.trace, self.tables, self.values = trace, tables, values

    def operand(self, arg: Ref | Tensor, place: Place) -> Value:
        """An argument of a step."""
        if isinstance(arg, Ref):
            return self.values[arg.number]
        made = self.trace.made.get(id(arg))
        own = made is None and any(arg is t for t in self.trace.kept)
        if not own and id(made.source if made else arg) not in self.tables.names:
            self.tables.facts.values = True  # nobody knows where it is from
        return Value(self.tables.read(arg, self.trace.made, place), tuple(arg.shape))

    def step(self, step: Step) -> Value:
        """What a step computes."""
        try:
            check_width(step, self.bounds(step), not self.tables.reals)
            if step.name in ENTRYWISE:
                value = self.entrywise(step, ENTRYWISE[step.name])
            elif step.name in _RULES:
                value = _RULES[step.name](self, step)
            else:
                raise Unlike("this operation has no counterpart in the language")
        except Unlike as err:
            raise refused(step.place, f"`{step.op}`: {err}") from None
        except make.NotFinite:
            raise refused(step.place, f"`{step.op}`: a constant in it is infinite or undefined") from None
        except TooLarge:
            raise refused(step.place, f"`{step.op}`: a constant in it is larger than 2 ** 62") from None
        if step.dtype == torch.bool and not isinstance(value.node, e.Pred):  # of truths and numbers
            value = Value(predicate(value.node), value.shape)
        if step.constant and any(self.tables.learns(part) for part in contents.walk(value.node)):
            raise refused(step.place, _NO_STOP)
        if not self.tables.reals and any(isinstance(part, r.Order) for part in contents.walk(value.node)):
            raise refused(
                step.place, f"`{step.op}` compares reals, and a mask compares whole numbers: multiply out, or use `//`"
            )
        return value

    def bounds(self, step: Step) -> Ends:
        """Bounds of the first thing that a step takes, where they follow from the formula."""
        known = self.values[step.args[0].number].node if step.args and isinstance(step.args[0], Ref) else None
        return ends(known) if isinstance(known, e.IntExpr) else (None, None)

    def entrywise(self, step: Step, rule: Callable[..., Node]) -> Value:
        """An operation on entries: its operands are broadcast."""
        args = [self.value(arg, step.place) for arg in step.args]
        more = {key: arg if key in _PARTS else self.value(arg, step.place) for key, arg in step.kwargs.items()}
        values = [x for x in (*args, *more.values()) if isinstance(x, Value)]
        shape = broadcast([x.shape for x in values])
        spread = [x.spread(shape) if isinstance(x, Value) else x for x in args]
        named = {key: x.spread(shape) if isinstance(x, Value) else x for key, x in more.items()}
        if "alpha" in named:
            named["alpha"] = step.kwargs["alpha"]
        return Value(rule(*spread, **named), shape)

    def value(self, arg: Any, place: Place) -> Value | None:
        """An argument that is a tensor or a number."""
        if arg is None:
            return None
        return self.operand(arg, place) if isinstance(arg, (Ref, Tensor)) else Value(literal(arg))


def _first(m: _Machine, step: Step) -> Value:
    return m.operand(step.args[0], step.place)


def _argument(step: Step, place: int, name: str, default: Any) -> Any:
    return step.args[place] if len(step.args) > place else step.kwargs.get(name, default)


def _cast(m: _Machine, step: Step) -> Value:
    x, (node, dtype) = _first(m, step), (_first(m, step).node, step.dtype)
    if dtype == torch.bool:
        return Value(predicate(node), x.shape)
    if dtype.is_floating_point:
        return Value(real(node), x.shape)
    return Value(rounded(node, "trunc") if isinstance(node, r.RealExpr) else number(node), x.shape)


def _index(m: _Machine, step: Step) -> Value:
    x, indices = _first(m, step), list(step.args[1])
    rank = len(x.shape)
    at: dict[int, Value] = {d: m.operand(i, step.place) for d, i in enumerate(indices) if i is not None}
    if any(isinstance(i.node, e.Pred) for i in at.values()):
        raise Unlike("an index of booleans has as many entries as are true; write torch.where")
    shape = broadcast([i.shape for i in at.values()])
    dims = sorted(at)
    adjacent = dims == list(range(dims[0], dims[-1] + 1))
    if shape and not adjacent:
        raise Unlike("indices that are tensors stand apart from each other")
    kept = [d for d in range(rank) if d not in at]
    before = [d for d in kept if d < dims[0]]
    result = (*[x.shape[d] for d in before], *shape, *[x.shape[d] for d in kept if d > dims[0]])
    after = len(result) - len(before) - len(shape)
    places: dict[str, e.IntExpr] = {}
    for d in kept:
        new = before.index(d) if d in before else len(result) - (len(kept) - kept.index(d))
        places[axis(d, rank).name] = axis(new, len(result))
    for d, i in at.items():
        inner = Value(i.spread(shape), shape)
        moved = inner.at(
            {axis(j, len(shape)).name: e.Var(f".{len(shape) - 1 - j + after}") for j in range(len(shape))}, ()
        )
        places[axis(d, rank).name] = m.tables.choose(x, d, _wrapped(moved.node, x.shape[d], m), result, step.place)
    return x.at(places, result)


def _wrapped(index: Node, size: int, m: _Machine) -> e.IntExpr:
    """An index as PyTorch means it: negative ones count from the end."""
    if not isinstance(index, e.IntExpr):
        raise Unlike("an index is an integer")
    index = plain(index)
    if isinstance(index, e.Int):
        return e.Int(index.value % size)
    if m.tables.ask(NotNegative(index)):
        return index
    return from_either_end(index, size)


def _select(m: _Machine, step: Step) -> Value:
    x, index = _first(m, step), step.args[2]
    dim = step.args[1] % len(x.shape)
    return _without(x, [dim], {axis(dim, len(x.shape)).name: e.Int(index % x.shape[dim])})


def _without(x: Value, gone: list[int], places: dict[str, e.IntExpr]) -> Value:
    rank, kept = len(x.shape), [d for d in range(len(x.shape)) if d not in gone]
    for new, d in enumerate(kept):
        places[axis(d, rank).name] = axis(new, len(kept))
    return x.at(places, tuple(x.shape[d] for d in kept))


def _slice(m: _Machine, step: Step) -> Value:
    x = _first(m, step)
    dim, start, by = _argument(step, 1, "dim", 0), _argument(step, 2, "start", None), _argument(step, 4, "step", 1)
    rank = len(x.shape)
    size, place = x.shape[dim], axis(dim % rank, rank)
    begin = min(max((start or 0) + (size if (start or 0) < 0 else 0), 0), size)
    moved = make.add([make.multiply(place, e.Int(by)), e.Int(begin)])
    return x.at({place.name: moved}, step.shape)


def _unsqueeze(m: _Machine, step: Step) -> Value:
    x = _first(m, step)
    dim = step.args[1] % (len(x.shape) + 1)
    order: list[int | None] = list(range(len(x.shape)))
    return x.dims([*order[:dim], None, *order[dim:]])


def _squeeze(m: _Machine, step: Step) -> Value:
    x = _first(m, step)
    rank, dims = len(x.shape), step.args[1] if len(step.args) > 1 else list(range(len(x.shape)))
    gone = [d % rank for d in ([dims] if isinstance(dims, int) else dims) if rank and x.shape[d % rank] == 1]
    return _without(x, gone, {axis(d, rank).name: e.Int(0) for d in gone})


def _expand(m: _Machine, step: Step) -> Value:
    return Value(_first(m, step).spread(step.shape), step.shape)


def _permute(m: _Machine, step: Step) -> Value:
    x = _first(m, step)
    rank = len(x.shape)
    if step.name == "permute":
        order = [d % rank for d in step.args[1]]
    else:
        order = list(range(rank))
        a, b = (0, 1) if step.name == "t" else step.args[1:3]
        if rank > 1:
            order[a], order[b] = order[b], order[a]
    return x.dims(order)


def _view(m: _Machine, step: Step) -> Value:
    x = _first(m, step)
    old, new = [s for s in x.shape if s != 1], [s for s in step.shape if s != 1]
    if old != new:
        raise Unlike("the shape of what depends on positions is changed")
    flat = _without(
        x, ones := [d for d, s in enumerate(x.shape) if s == 1], {axis(d, len(x.shape)).name: e.Int(0) for d in ones}
    )
    kept = iter(range(len(new)))
    return flat.dims([None if s == 1 else next(kept) for s in step.shape])


def _constant(value: int) -> Callable[[_Machine, Step], Value]:
    def constant(m: _Machine, step: Step) -> Value:
        return _filled(step, value)

    return constant


def _full(m: _Machine, step: Step) -> Value:
    """``new_full(size, value)``, ``full_like(value)``."""
    return _filled(step, step.args[2] if step.name == "new_full" else step.args[1])


def _filled(step: Step, value: Any) -> Value:
    if step.dtype == torch.bool:
        return Value(e.Bool(bool(value)), step.shape)
    return Value(literal(float(value) if step.dtype.is_floating_point else int(value)), step.shape)


def _reduced(m: _Machine, step: Step) -> Value:
    """``any``, ``all`` and ``sum`` over dimensions."""
    x = _first(m, step)
    rank = len(x.shape)
    dims = _argument(step, 1, "dim", None)
    over = list(range(rank)) if dims in (None, []) else [d % rank for d in ([dims] if isinstance(dims, int) else dims)]
    for d in over:
        x = Value(_joined(m, step.name, x.node, axis(d, rank), x.shape[d]), (*x.shape[:d], 1, *x.shape[d + 1 :]))
    return x if _argument(step, 2, "keepdim", False) else _without(x, over, {})


def _joined(m: _Machine, name: str, node: Node, place: e.Var, size: int) -> Node:
    if name == "sum":
        if isinstance(number(node), r.RealExpr):
            raise Unlike("reals are not summed over positions")
        body: Node = number(node)
    else:
        body = predicate(node)
    if place.name not in contents.free(body):
        return make.multiply(e.Int(size), body) if isinstance(body, e.IntExpr) else body
    if any(isinstance(part, e.Cmp) and contents.free(part) == {place.name} for part in contents.walk(body)):
        parts = [substituted(body, {place: e.Int(i)}) for i in range(size)]  # put together by `stack` or `cat`
        if name == "sum":
            return make.add([number(part) for part in parts])  # type: ignore[misc]
        return (make.disjunction if name == "any" else make.conjunction)(map(predicate, parts))
    if name == "any" and (found := _member(m, body, place, size)) is not None:
        return found
    bound = bound_name(body, frozenset())
    domain = e.Range(e.Int(0), e.Int(size))
    body = rewrite.replace(body, {place: e.Var(bound)})
    if name == "sum":
        assert isinstance(body, e.IntExpr)
        return e.Sum(bound, domain, body)
    assert isinstance(body, e.Pred)
    return e.Any(bound, domain, body) if name == "any" else e.All(bound, domain, body)


def _member(m: _Machine, body: Node, place: e.Var, size: int) -> e.Pred | None:
    """``x in table[...]``, where that is what is asked: of whole rows."""
    if not (isinstance(body, e.Cmp) and body.op == "=="):
        return None
    for row, item in ((body.left, body.right), (body.right, body.left)):
        if place.name in contents.free(item):
            continue
        match row:
            case e.Read(name, (*rest, last)) if last == place and not any(place.name in contents.free(i) for i in rest):
                low, _ = ends(item)
                whole = m.tables.found[name].tensor.shape[-1] == size
                if whole and low is not None and low >= 0:  # (negative numbers are members of no table)
                    return e.Among(item, name, tuple(rest))
            case e.Index(items, (last,)) if last == place and len(items) == size:
                parts = [e.Cmp("==", item, e.Int(x)) for x in items if isinstance(x, int)]
                return make.disjunction(dict.fromkeys(parts))
    return None


def _stack(m: _Machine, step: Step) -> Value:
    """``stack`` along a new dimension, and ``cat`` along one there is."""
    parts = [m.operand(x, step.place) for x in step.args[0]]
    dim, rank = _argument(step, 1, "dim", 0) % len(step.shape), len(step.shape)
    place, begin = axis(dim, rank), 0
    found: Node | None = None
    for part in parts:
        if step.name == "stack":
            order: list[int | None] = list(range(rank - 1))
            part = part.dims([*order[:dim], None, *order[dim:]])
        else:
            part = part.at({place.name: make.add([place, e.Int(-begin)])}, part.shape)
        end = begin + part.shape[dim]
        spread = part.spread((*step.shape[:dim], part.shape[dim], *step.shape[dim + 1 :]))
        if part.shape[dim] == 1:
            spread = substituted(spread, {place: e.Int(begin)})
        here = make.compare("==" if step.name == "stack" else ">=", place, e.Int(begin))
        found = spread if found is None else ENTRYWISE["where"](here, spread, found)
        begin = end
    assert found is not None
    return Value(found, step.shape)


def _isin(m: _Machine, step: Step) -> Value:
    """``torch.isin(x, among)``."""
    x, among = (m.value(arg, step.place) for arg in step.args[:2])
    assert x is not None
    assert among is not None
    if len(among.shape) > 1 or x.shape:
        raise Unlike("it takes one number, and a list of numbers of one dimension")
    same = ENTRYWISE["eq"](x.node, among.node)
    found = _joined(m, "any", same, axis(0, 1), among.shape[0]) if among.shape else same
    inverted = _argument(step, 3, "invert", False)
    return Value(make.negation(predicate(found)) if inverted else found)


_RULES: dict[str, Callable[[_Machine, Step], Value]] = {
    "_to_copy": _cast,
    "index": _index,
    "select": _select,
    "slice": _slice,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "expand": _expand,
    "permute": _permute,
    "transpose": _permute,
    "t": _permute,
    "view": _view,
    "_unsafe_view": _view,
    "reshape": _view,
    "new_ones": _constant(1),
    "new_zeros": _constant(0),
    "ones_like": _constant(1),
    "zeros_like": _constant(0),
    "new_full": _full,
    "full_like": _full,
    "stack": _stack,
    "cat": _stack,
    "isin": _isin,
    "any": _reduced,
    "all": _reduced,
    "sum": _reduced,
}
