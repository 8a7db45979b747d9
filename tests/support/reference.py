"""What a spec means, worked out from its tree for one pair at a time: slow, obvious, and sharing no code with check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from attnspec.check.expressions.patterns import prelude
from attnspec.errors.source import Source
from attnspec.language import tree as t
from attnspec.language.parse import parse

Env = Mapping[str, Any]


class Outside(Exception):
    """A read outside a list: the comparison around it is false."""


def allows(text: str, params: Env, q: int, k: int, **sizes: int) -> bool:
    """Whether the one attention of a text lets q see k; ``sizes`` are h, b, n, n_q, heads, kv_heads and batch."""
    file = _file(text)
    (attention,) = file.attentions
    env: dict[str, Any] = {p.name.name: p for p in prelude().patterns.values()}
    env |= {p.name.name: p for p in file.patterns}
    env |= {"q": q, "k": k, **sizes}
    for parameter in attention.parameters:
        name = parameter.name.name
        env[name] = params[name] if name in params else value(parameter.default, env)
    attend: list[bool] = []
    within: list[bool] = []
    _clauses(attention.clauses, env, attend, within)
    return (any(attend) or not attend) and all(within)


@lru_cache(16)
def _file(text: str) -> t.File:
    return parse(Source("reference", text))


def _clauses(clauses: tuple[t.Clause, ...], env: dict[str, Any], attend: list[bool], within: list[bool]) -> None:
    for clause in clauses:
        match clause:
            case t.Attend(_, pred):
                attend.append(value(pred, env))
            case t.Within(_, pred):
                within.append(value(pred, env))
            case t.Let(_, name, None, body):
                env[name.name] = _later(body, dict(env))
            case t.Let(_, name, parameters, body):
                env[name.name] = _function([p.name.name for p in parameters], body, dict(env))
            case t.Heads(_, _, domain, _, inner):
                if env["h"] not in _domain(domain, env):  # nothing inside is asked: divisors may be zero there
                    attend.append(False)
                    continue
                own_attend: list[bool] = []
                own_within: list[bool] = []
                _clauses(inner, dict(env), own_attend, own_within)
                attend.append((any(own_attend) or not own_attend) and all(own_within))


def _later(body: t.Expr, env: Env) -> Callable[[Env], Any]:
    """A thing with a value at any positions."""
    return lambda at: value(body, {**env, "q": at["q"], "k": at["k"]})


def _function(names: list[str], body: t.Expr, env: Env) -> Callable[[Env, list[Any]], Any]:
    def call(at: Env, args: list[Any]) -> Any:
        return value(body, {**env, **dict(zip(names, args, strict=True)), "q": at["q"], "k": at["k"]})

    call.takes_arguments = True  # type: ignore[attr-defined]
    return call


def _domain(domain: t.Domain, env: Env) -> Any:
    if isinstance(domain, t.Range):
        return range(value(domain.low, env), value(domain.high, env))
    return value(domain, env)


def _resolve(name: str, env: Env) -> Any:
    found = env[name]
    if found is Outside:
        raise Outside
    if isinstance(found, t.Pattern):
        return _pattern(found, (), env)
    if callable(found) and not hasattr(found, "takes_arguments"):
        return found(env)
    return found


def _pattern(pattern: t.Pattern, args: tuple[t.Argument, ...], env: Env) -> bool:
    home = {n: v for n, v in env.items() if isinstance(v, t.Pattern) or n in _SIZES}
    given = {p.name.name: a.value for p, a in zip(pattern.parameters, args, strict=False) if a.keyword is None}
    given |= {a.keyword.name: a.value for a in args if a.keyword is not None}
    own: dict[str, Any] = dict(home)
    for parameter in pattern.parameters:
        name = parameter.name.name
        tree, scope = (given[name], env) if name in given else (parameter.default, dict(own))
        assert tree is not None
        try:
            fixed = value(tree, scope)
            own[name] = _later(tree, dict(scope)) if isinstance(fixed, bool) else fixed
        except (Outside, ZeroDivisionError):  # a pattern that is never used may divide by nothing
            own[name] = _later(tree, dict(scope))
    return bool(value(pattern.body, own))


_SIZES = {"q", "k", "h", "b", "n", "n_q", "heads", "kv_heads", "batch"}
_OPS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def value(node: t.Expr | None, env: Env) -> Any:
    """The value of an expression: a Python int, bool or tuple."""
    match node:
        case t.Number(span):
            return int(span.text)
        case t.Truth(_, truth):
            return truth
        case t.Name(_, name):
            return _resolve(name, env)
        case t.ListOf(_, items):
            return tuple(value(x, env) for x in items)
        case t.Bracket(_, inner):
            return value(inner, env)
        case t.Bars(_, inner):
            return abs(value(inner, env))
        case t.Negative(_, inner):
            return -value(inner, env)
        case t.Arithmetic(_, first, rest):
            result = value(first, env)
            for op, x in rest:
                result = _OPS[op](result, value(x, env))
            return result
        case t.Power(_, base, exponent):
            return value(base, env) ** value(exponent, env)
        case t.Compare(_, first, rest):
            return _chain([first, *(x for _, x in rest)], [op for op, _ in rest], env)
        case t.Member(_, item, domain, negated):
            try:
                found = value(item, env) in _domain(domain, env)
            except Outside:
                found = False
            return found != negated
        case t.Not(_, inner):
            return not value(inner, env)
        case t.And(_, args):
            return all(value(x, env) for x in args)
        case t.Or(_, args):
            return any(value(x, env) for x in args)
        case t.If(_, cond, then, other):
            return value(then if value(cond, env) else other, env)
        case t.Bind(_, word, var, domain, body):
            try:
                over = _domain(domain, env)
            except Outside:
                over = ()
            fold: Any = {"any": any, "all": all, "sum": sum}[word]
            return fold([value(body, {**env, var.name: v}) for v in over])
        case t.Call(_, callee, args):
            return _call(callee.name, args, env)
        case t.Item(_, base, index):
            items, at = value(base, env), value(index, env)
            if not 0 <= at < len(items):
                raise Outside
            return items[at]
        case t.At(_, pattern, q, k):
            return value(pattern, {**env, "q": _or_outside(q, env), "k": _or_outside(k, env)})
    raise TypeError(node)


def _chain(places: list[t.Expr], ops: list[str], env: Env) -> bool:
    values: list[Any] = []
    for place in places:
        try:
            values.append(value(place, env))
        except Outside:
            values.append(Outside)
    return all(
        a is not Outside and b is not Outside and _OPS[op](a, b)
        for a, b, op in zip(values, values[1:], ops, strict=False)
    )


def _call(name: str, args: tuple[t.Argument, ...], env: Env) -> Any:
    if name in ("min", "max", "clamp", "len"):
        given = [value(a.value, env) for a in args]
        if name == "clamp":
            return min(max(given[0], given[1]), given[2])
        return {"min": min, "max": max, "len": len}[name](*([given] if name != "len" else given))
    found = env[name]
    if isinstance(found, t.Pattern):
        return _pattern(found, args, env)
    return found(env, [_or_outside(a.value, env) for a in args])


def _or_outside(node: t.Expr, env: Env) -> Any:
    """A value that is passed on: reading it is what goes outside, if anything does."""
    try:
        return value(node, env)
    except Outside:
        return Outside
