"""The same pattern for PyTorch's FlexAttention, to compare with: its mask and score functions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from attnspec.relation.sizes import Sizes
from attnspec.runtime.expressions.real import FUNCTIONS
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.bind import bind
from attnspec.spec.evaluate import domain_values
from attnspec.spec.rewrite import cases
from attnspec.spec.spec import Spec

Function = Callable[[Any, Any, Any, Any], Any]  # of b, h, q, k: integer tensors
Score = Callable[[Any, Any, Any, Any, Any], Any]  # of the score, b, h, q, k
Bound = tuple[int, int]


def why_not(spec: Spec) -> str | None:
    """Why FlexAttention cannot compute a pattern in one call; None if it can."""
    if spec.order is not None:
        return "cannot express a computed order"
    if spec.mixture:
        return "cannot express a mixture"
    if spec.sink is not None:
        return "cannot express a sink"
    return None


def mask_function(spec: Spec, sizes: Sizes, tables: Mapping[str, Tensor] | None = None) -> Function:
    """The pattern as a FlexAttention ``mask_mod`` over (batch, head, query row, key), for calls of these sizes.

    ``tables`` are the inputs as :func:`attnspec.runtime.prepare.inputs.prepare` makes them; they are captured.
    """
    inner, first = _pred(bind(spec.pred, _known(sizes)), _Calls(sizes, tables or {})), sizes.first
    if first == 0:
        return inner
    return lambda b, h, q, k: inner(b, h, q + first, k)


def score_function(spec: Spec, sizes: Sizes, tables: Mapping[str, Tensor]) -> Score | None:
    """The score lines as a FlexAttention ``score_mod``; None if there are none."""
    if spec.score == r.Score():
        return None
    inner, first = _real(bind(spec.score, _known(sizes)), _Calls(sizes, tables)), sizes.first
    return lambda s, b, h, q, k: inner(s, b, h, q + first if first else q, k)


def index_function(expr: e.IntExpr, sizes: Sizes, tables: Mapping[str, Tensor]) -> Function:
    """An integer expression over tensors of (batch, head, query position, key); 0 where it has no value."""
    inner = _cast(bind(expr, _known(sizes)), _Calls(sizes, tables))
    return lambda b, h, q, k: q * 0 + inner(None, b, h, q, k)


def _known(sizes: Sizes) -> dict[str, int]:
    return {name: value for name, value in sizes.parameters(0, 0).items() if name not in ("h", "b")}


@dataclass(frozen=True, eq=False)
class _Calls:
    """The sizes of the calls, and the tables that functions capture."""

    sizes: Sizes
    tables: Mapping[str, Tensor]
    members: dict[str, Tensor] = field(default_factory=dict)

    def table(self, name: str) -> Tensor:
        """A table; booleans are kept as such."""
        found = self.tables[name]
        return found.bool() if found.dtype == torch.uint8 else found

    def member(self, name: str) -> Tensor:
        """For a table of lists, which values are in each list, as flags that are made before anything runs."""
        if name not in self.members:
            lists = self.tables[name].long()
            most = int(lists.max()) + 1 if lists.numel() else 0
            flags = torch.zeros((*lists.shape[:-1], max(1, most) + 1), dtype=torch.bool, device=lists.device)
            flags.scatter_(-1, torch.where(lists < 0, max(1, most), lists), True)
            self.members[name] = flags[..., :-1].contiguous()
        return self.members[name]

    def range(self, node: e.Node) -> Bound | None:
        """The smallest and largest value of an index in such a call, where they are easy to see."""
        s = self.sizes
        match node:
            case e.Int(value):
                return value, value
            case e.Var(name):
                low = {"q": s.first}.get(name, 0)
                count = {"q": s.n_q, "k": s.n, "h": s.heads, "b": s.batch}.get(name)
                return None if count is None else (low, low + count - 1)
            case e.Add(terms):
                parts = [self.range(t) for t in terms]
                known = [p for p in parts if p is not None]
                return (sum(p[0] for p in known), sum(p[1] for p in known)) if len(known) == len(parts) else None
            case e.FloorDiv(left, e.Int(by)):
                inner = self.range(left)
                return None if inner is None else (inner[0] // by, inner[1] // by)
            case e.Mul(e.Int(by), other) | e.Mul(other, e.Int(by)):
                inner = self.range(other)
                return None if inner is None else (min(x * by for x in inner), max(x * by for x in inner))
            case e.Mod(_, e.Int(by)):
                return 0, by - 1
        return None

    def read(self, table: Tensor, indices: tuple[e.IntExpr, ...]) -> tuple[Function, Function | None]:
        """An entry of a table, and where its indices are inside (None: they always are)."""
        places: list[Function] = []
        guards: list[Function] = []
        for index, size in zip(indices, table.shape, strict=True):
            at, known = _term(index, self), self.range(index)
            guards += _guards(index, self)
            if known is not None and known[0] >= 0 and known[1] < size:
                places.append(at)
                continue
            guards.append(_inside(at, size))
            places.append(_clamped(at, size))
        entry = _entry(table, places)
        return entry, _all(guards, operator.and_) if guards else None


def _entry(table: Tensor, places: list[Function]) -> Function:
    if not places:
        return lambda b, h, q, k: table
    return lambda b, h, q, k: table[tuple(torch.as_tensor(at(b, h, q, k), device=q.device) for at in places)]


def _inside(at: Function, size: int) -> Function:
    return lambda b, h, q, k: (q * 0 + at(b, h, q, k) >= 0) & (q * 0 + at(b, h, q, k) < size)


def _clamped(at: Function, size: int) -> Function:
    return lambda b, h, q, k: torch.clamp(q * 0 + at(b, h, q, k), 0, max(0, size - 1))


def _guards(node: e.Node, calls: _Calls) -> list[Function]:
    """Where all reads of inputs in a term are inside their inputs."""
    if isinstance(node, e.Read):
        _, guard = calls.read(calls.table(node.name), node.indices)
        return [] if guard is None else [guard]
    return [guard for child in node.children() for guard in _guards(child, calls)]


def _pred(pred: e.Pred, calls: _Calls) -> Function:
    match pred:
        case e.Bool(value):
            return lambda b, h, q, k: (q >= 0) | (q < 0) if value else (q < 0) & (q >= 0)
        case e.And(args):
            return _all([_pred(a, calls) for a in args], operator.and_)
        case e.Or(args):
            return _all([_pred(a, calls) for a in args], operator.or_)
        case e.Not(arg):
            inner = _pred(arg, calls)
            return lambda b, h, q, k: ~inner(b, h, q, k)
        case e.Iff(left, right):
            one, two = _pred(left, calls), _pred(right, calls)
            # torch 2.13 cannot compile == between booleans here
            return lambda b, h, q, k: ~(one(b, h, q, k) ^ two(b, h, q, k))
        case e.Any(var, domain, body):
            return _pred(e.Or(tuple(bind(body, {var: v}) for v in domain_values(domain, {}))), calls)
        case e.All(var, domain, body):
            return _pred(e.And(tuple(bind(body, {var: v}) for v in domain_values(domain, {}))), calls)
        case e.Flag(name, indices):
            entry, guard = calls.read(calls.table(name), indices)
            return entry if guard is None else _all([guard, entry], operator.and_)
        case e.Among(item, name, indices):
            entry, guard = calls.read(calls.member(name), (*indices, item))
            return entry if guard is None else _all([guard, entry], operator.and_)
        case e.Cmp():
            split = [
                _all(
                    [*(_pred(c, calls) for c in conditions), *_guards(cmp, calls), _compare(cmp, calls)], operator.and_
                )
                for conditions, cmp in cases(pred)
            ]
            return _all(split, operator.or_)
    raise TypeError(f"not a predicate: {type(pred).__name__}")


def _real(node: r.RealExpr, calls: _Calls) -> Score:
    match node:
        case r.Real(value):
            return lambda s, b, h, q, k: value
        case r.Score():
            return lambda s, b, h, q, k: s
        case r.Cast(arg):
            return _cast(arg, calls)
        case r.RealRead(name, indices):
            entry, guard = calls.read(calls.tables[name], indices)
            if guard is None:
                return lambda s, b, h, q, k: entry(b, h, q, k)
            return lambda s, b, h, q, k: torch.where(guard(b, h, q, k), entry(b, h, q, k), 0.0)
        case r.Total(terms):
            parts = [_real(t, calls) for t in terms]
            return lambda s, b, h, q, k: reduce(operator.add, [part(s, b, h, q, k) for part in parts])
        case r.Product(left, right) | r.Quotient(left, right):
            op = operator.mul if isinstance(node, r.Product) else operator.truediv
            one, two = _real(left, calls), _real(right, calls)
            return lambda s, b, h, q, k: op(one(s, b, h, q, k), two(s, b, h, q, k))
        case r.Apply(function, arg):
            inner, of = _real(arg, calls), FUNCTIONS[function]
            return lambda s, b, h, q, k: of(s * 0 + inner(s, b, h, q, k))
        case r.Choose(cond, then, other):
            where, yes, no = _pred(cond, calls), _real(then, calls), _real(other, calls)
            return lambda s, b, h, q, k: torch.where(
                where(b, h, q, k), s * 0 + yes(s, b, h, q, k), s * 0 + no(s, b, h, q, k)
            )
    raise TypeError(f"not a real expression: {type(node).__name__}")


def _cast(arg: e.IntExpr, calls: _Calls) -> Score:
    """An integer as a real; 0 where it reads outside a list or an input."""
    split = list(cases(e.Cmp("==", arg, e.Int(0))))
    sides = [(conditions, _guards(cmp.left, calls), _term(cmp.left, calls)) for conditions, cmp in split]
    if len(sides) == 1 and not sides[0][0] and not sides[0][1]:
        only = sides[0][2]
        return lambda s, b, h, q, k: only(b, h, q, k)
    known = [
        (_all([*(_pred(c, calls) for c in conditions), *guards], operator.and_), term)
        for conditions, guards, term in sides
    ]

    def chosen(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        result = q * 0
        for where, term in known:
            result = torch.where(where(b, h, q, k), q * 0 + term(b, h, q, k), result)
        return result

    return chosen


def _all(parts: list[Function], join: Callable[[Any, Any], Any]) -> Function:
    if len(parts) == 1:
        return parts[0]
    return lambda b, h, q, k: reduce(join, [part(b, h, q, k) for part in parts])


def _compare(cmp: e.Cmp, calls: _Calls) -> Function:
    op, left, right = e.COMPARE[cmp.op], _term(cmp.left, calls), _term(cmp.right, calls)
    return lambda b, h, q, k: op(left(b, h, q, k), right(b, h, q, k))


def _term(node: e.IntExpr, calls: _Calls) -> Function:
    match node:
        case e.Int(value):
            return lambda b, h, q, k: value
        case e.Var("b"):
            return lambda b, h, q, k: b
        case e.Var("h"):
            return lambda b, h, q, k: h
        case e.Var("q"):
            return lambda b, h, q, k: q
        case e.Var("k"):
            return lambda b, h, q, k: k
        case e.Add(terms):
            parts = [_term(t, calls) for t in terms]
            return lambda b, h, q, k: reduce(operator.add, [part(b, h, q, k) for part in parts])
        case e.Mul(left, right) | e.FloorDiv(left, right) | e.Mod(left, right) | e.Pow(left, right):
            kinds = {e.Mul: operator.mul, e.FloorDiv: operator.floordiv, e.Mod: operator.mod, e.Pow: operator.pow}
            op, one, two = kinds[type(node)], _term(left, calls), _term(right, calls)
            return lambda b, h, q, k: op(one(b, h, q, k), two(b, h, q, k))
        case e.Min(args) | e.Max(args):
            parts, choose = [_term(a, calls) for a in args], torch.minimum if isinstance(node, e.Min) else torch.maximum
            return lambda b, h, q, k: reduce(choose, [q * 0 + part(b, h, q, k) for part in parts])
        case e.Abs(arg):
            inner = _term(arg, calls)
            return lambda b, h, q, k: torch.abs(inner(b, h, q, k))
        case e.Read(name, indices):
            entry, _ = calls.read(calls.table(name), indices)
            return entry
        case e.Sum(var, domain, body):
            return _term(e.Add(tuple(bind(body, {var: v}) for v in domain_values(domain, {}))), calls)
    raise TypeError(f"not an integer expression without choices: {type(node).__name__}")
