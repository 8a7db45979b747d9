"""The same pattern for PyTorch's FlexAttention, to compare with: its mask function, built from the checked pattern."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch

from attnspec import expr as e
from attnspec.bind import bind
from attnspec.evaluate import domain_values
from attnspec.rewrite import cases
from attnspec.sizes import Sizes
from attnspec.spec import Spec

Function = Callable[[Any, Any, Any, Any], Any]  # of b, h, q, k: integer tensors


def mask_function(spec: Spec, sizes: Sizes) -> Function:
    """The pattern as a FlexAttention ``mask_mod`` over (batch, head, query row, key), for calls of these sizes."""
    known = {
        "n": sizes.n,
        "n_q": sizes.n_q,
        "heads": sizes.heads,
        "kv_heads": sizes.kv_heads,
        "batch": sizes.batch,
    }
    inner, first = _pred(bind(spec.pred, known)), sizes.first
    if first == 0:
        return inner
    return lambda b, h, q, k: inner(b, h, q + first, k)


def _pred(pred: e.Pred) -> Function:
    match pred:
        case e.Bool(value):
            return lambda b, h, q, k: (q >= 0) | (q < 0) if value else (q < 0) & (q >= 0)
        case e.And(args):
            return _all([_pred(a) for a in args], operator.and_)
        case e.Or(args):
            return _all([_pred(a) for a in args], operator.or_)
        case e.Not(arg):
            inner = _pred(arg)
            return lambda b, h, q, k: ~inner(b, h, q, k)
        case e.Iff(left, right):
            one, two = _pred(left), _pred(right)
            # torch 2.13 cannot compile == between booleans here
            return lambda b, h, q, k: ~(one(b, h, q, k) ^ two(b, h, q, k))
        case e.Any(var, domain, body):
            return _pred(e.Or(tuple(bind(body, {var: v}) for v in domain_values(domain, {}))))
        case e.All(var, domain, body):
            return _pred(e.And(tuple(bind(body, {var: v}) for v in domain_values(domain, {}))))
        case e.Cmp():
            split = [
                _all([*(_pred(c) for c in conditions), _compare(cmp)], operator.and_) for conditions, cmp in cases(pred)
            ]
            return _all(split, operator.or_)
    raise TypeError(f"not a predicate: {type(pred).__name__}")


def _all(parts: list[Function], join: Callable[[Any, Any], Any]) -> Function:
    if len(parts) == 1:
        return parts[0]
    return lambda b, h, q, k: reduce(join, [part(b, h, q, k) for part in parts])


def _compare(cmp: e.Cmp) -> Function:
    op, left, right = e.COMPARE[cmp.op], _term(cmp.left), _term(cmp.right)
    return lambda b, h, q, k: op(left(b, h, q, k), right(b, h, q, k))


def _term(node: e.IntExpr) -> Function:
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
            parts = [_term(t) for t in terms]
            return lambda b, h, q, k: reduce(operator.add, [part(b, h, q, k) for part in parts])
        case e.Mul(left, right) | e.FloorDiv(left, right) | e.Mod(left, right) | e.Pow(left, right):
            kinds = {e.Mul: operator.mul, e.FloorDiv: operator.floordiv, e.Mod: operator.mod, e.Pow: operator.pow}
            op, one, two = kinds[type(node)], _term(left), _term(right)
            return lambda b, h, q, k: op(one(b, h, q, k), two(b, h, q, k))
        case e.Min(args) | e.Max(args):
            parts, choose = [_term(a) for a in args], torch.minimum if isinstance(node, e.Min) else torch.maximum
            return lambda b, h, q, k: reduce(choose, [q * 0 + part(b, h, q, k) for part in parts])
        case e.Abs(arg):
            inner = _term(arg)
            return lambda b, h, q, k: torch.abs(inner(b, h, q, k))
        case e.Sum(var, domain, body):
            return _term(e.Add(tuple(bind(body, {var: v}) for v in domain_values(domain, {}))))
    raise TypeError(f"not an integer expression without choices: {type(node).__name__}")
