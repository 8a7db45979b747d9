"""Tree expressions to core expressions: names are resolved, patterns written out, constants folded.

Here are the rules for operators and names; those for calls, lists and fields have files of their own.
"""

from __future__ import annotations

from attnspec.check.expressions import calls, lists
from attnspec.check.expressions.collect import Report
from attnspec.check.expressions.elaborator import Elaborator, Rules
from attnspec.check.expressions.fields import field
from attnspec.check.expressions.scope import HOLE_PRED, UNKNOWN, InputRef, Scope, Unknown, Value, what
from attnspec.errors.source import Span
from attnspec.errors.values import (
    divisor_not_constant,
    divisor_not_positive,
    mixed_comparison,
    negative_exponent,
    order_of_predicates,
    power_not_constant,
    wrong_type,
)
from attnspec.language import tree as t
from attnspec.language import words
from attnspec.spec import contents, exact, make
from attnspec.spec import expr as e
from attnspec.spec.real import RealExpr

_OF_A_CALL = e.POSITIONS | e.SLOTS | {"n", "n_q", "m"}
"""What a divisor may not depend on; inputs it may read, if they have one value for a head of a batch entry."""


def _number(el: Elaborator, node: t.Number, scope: Scope) -> Value:
    digits = node.span.text.replace("_", "").lstrip("0")
    if len(digits) > 19:  # int() of very many digits is slow, and refused by Python
        raise exact.TooLarge
    return e.Int(exact.limited(int(digits or "0")))


def _name(el: Elaborator, node: t.Name, scope: Scope) -> Value:
    if node.name in e.POSITIONS:
        return el.force(scope.q if node.name == "q" else scope.k, scope, node.span)
    if node.name in words.VARIABLES:
        return e.Var(el.length if node.name == "n" else node.name)
    return calls.apply_bare(el, node, el.lookup(node, scope), scope)


def _negative(el: Elaborator, node: t.Negative, scope: Scope) -> Value:
    return make.negative(el.number(node.inner, scope))


def _bars(el: Elaborator, node: t.Bars, scope: Scope) -> Value:
    return make.apply("abs", el.number(node.inner, scope))


def _arithmetic(el: Elaborator, node: t.Arithmetic, scope: Scope) -> Value:
    first = el.number(node.first, scope)
    if node.rest[0][0] in ("+", "-"):
        rest = [(op, el.number(x, scope)) for op, x in node.rest]
        return make.total([first, *(x if op == "+" else make.negative(x) for op, x in rest)])
    result = first
    for op, operand in node.rest:
        x = el.number(operand, scope)
        if isinstance(result, e.IntExpr) and isinstance(x, e.IntExpr) and op != "/":
            whole = _whole(el, op, result, x, operand.span)
            if whole is None:
                return UNKNOWN
            result = whole
        elif op in ("*", "/"):
            result = make.product(result, x) if op == "*" else make.quotient(result, x)
        else:
            place = operand.span if isinstance(x, RealExpr) else node.first.span
            help = "a quotient of real numbers is written `/`" if op == "//" else ""
            return el.wrong(wrong_type(place, "an integer", "a real number", help))
    return result


def _whole(el: Elaborator, op: str, a: e.IntExpr, x: e.IntExpr, place: Span) -> e.IntExpr | None:
    """A product, quotient or remainder of integers; None after a mistake."""
    if op == "*":
        return make.multiply(a, x)
    if names := contents.varies(x) if not contents.reads(x) else contents.free(x) & _OF_A_CALL:
        el.wrong(divisor_not_constant(place, sorted(names)))
        return None
    bad = next((case for case in el.constant_cases(x, place) if case[0] <= 0), None)
    if bad is not None:
        el.wrong(divisor_not_positive(place, *bad))
        return None
    return make.divide(a, x) if op == "//" else make.modulo(a, x)


def _power(el: Elaborator, node: t.Power, scope: Scope) -> Value:
    base, exponent = el.number(node.base, scope), el.number(node.exponent, scope)
    if isinstance(base, RealExpr) or isinstance(exponent, RealExpr):
        el.spend(make.MAX_FACTORS * contents.measure(base)[0], node.span)
        return make.real_power(base, exponent)
    for part, where in ((base, node.base), (exponent, node.exponent)):
        if names := contents.varies(part):
            return el.wrong(power_not_constant(where.span, sorted(names)))
    bad = next((case for case in el.constant_cases(exponent, node.exponent.span) if case[0] < 0), None)
    if bad is not None:
        return el.wrong(negative_exponent(node.exponent.span, *bad))
    result = make.power(base, exponent)
    for _ in el.constant_cases(result, node.span):
        pass  # each value is computed once, so that one that is too large shows now
    return result


def _compare(el: Elaborator, node: t.Compare, scope: Scope) -> Value:
    places = [node.first, *(x for _, x in node.rest)]
    values = [el.expr(x, scope) for x in places]
    if UNKNOWN in values:
        return HOLE_PRED
    for place, value in zip(places, values, strict=True):
        if isinstance(value, InputRef) or (isinstance(value, RealExpr) and not el.orders_reals):
            el.integer(place, scope)  # says what is wrong with it
            return HOLE_PRED
    parts: list[e.Pred] = []
    for i, (op, _) in enumerate(node.rest):
        a, b = values[i], values[i + 1]
        if i:  # the middle of a chain is written twice
            el.spend(contents.measure(a)[0] if isinstance(a, e.Node) else 0, places[i].span)
        if isinstance(a, e.IntExpr) and isinstance(b, e.IntExpr):
            parts.append(make.compare(op, a, b))
        elif isinstance(a, (e.IntExpr, RealExpr)) and isinstance(b, (e.IntExpr, RealExpr)):
            parts.append(make.order(op, a, b))
        elif isinstance(a, e.Pred) and isinstance(b, e.Pred):
            if op not in ("==", "!="):
                return el.wrong(order_of_predicates(places[i].span, op))
            same = make.equivalence(a, b)
            parts.append(same if op == "==" else make.negation(same))
        elif what(a) == what(b):
            return el.wrong(wrong_type(places[i].span, "an integer", what(a)))
        else:
            return el.wrong(mixed_comparison(places[i].span, what(a), places[i + 1].span, what(b)))
    return make.conjunction(parts)


def _not(el: Elaborator, node: t.Not, scope: Scope) -> Value:
    return make.negation(el.pred(node.inner, scope))


def _and(el: Elaborator, node: t.And, scope: Scope) -> Value:
    return make.conjunction([el.pred(x, scope) for x in node.args])


def _or(el: Elaborator, node: t.Or, scope: Scope) -> Value:
    return make.disjunction([el.pred(x, scope) for x in node.args])


def _if(el: Elaborator, node: t.If, scope: Scope) -> Value:
    cond = el.pred(node.cond, scope)
    then, other = el.expr(node.then, scope), el.expr(node.other, scope)
    if UNKNOWN in (then, other):
        return UNKNOWN
    if isinstance(then, (e.IntExpr, RealExpr)) and isinstance(other, (e.IntExpr, RealExpr)):
        return make.choose(cond, then, other)
    if what(then) != what(other):
        return el.wrong(
            wrong_type(node.other.span, f"{what(then)}, as after `then`", what(other), help="bracket the `if`")
        )
    if isinstance(cond, e.Bool):
        return then if cond.value else other
    if isinstance(then, e.Pred) and isinstance(other, e.Pred):
        el.spend(contents.measure(cond)[0], node.cond.span)  # the condition is written twice
        return make.choose_pred(cond, then, other)
    return el.wrong(wrong_type(node.then.span, "an integer or a predicate", what(then)))


def _at(el: Elaborator, node: t.At, scope: Scope) -> Value:
    q, k = el.integer(node.q, scope), el.integer(node.k, scope)
    moved = scope.moved(el.bound(q, node.q.span), el.bound(k, node.k.span))
    value = el.expr(node.pattern, moved)
    if isinstance(value, (e.Pred, Unknown)):
        return value
    help = "`at` applies to what stands directly before it: bracket the predicate"
    return el.wrong(wrong_type(node.pattern.span, "a predicate", what(value), help))


RULES: Rules = {
    t.Number: _number,
    t.Decimal: lambda el, node, scope: make.literal(node.span.text),
    t.Truth: lambda el, node, scope: e.Bool(node.value),
    t.Name: _name,
    t.ListOf: lists.literal,
    t.TupleOf: lists.literal,
    t.Bracket: lambda el, node, scope: el.expr(node.inner, scope),
    t.Bars: _bars,
    t.Negative: _negative,
    t.Arithmetic: _arithmetic,
    t.Power: _power,
    t.Compare: _compare,
    t.Member: lists.member,
    t.Not: _not,
    t.And: _and,
    t.Or: _or,
    t.If: _if,
    t.Bind: lists.bind,
    t.Call: calls.call,
    t.Item: lists.item,
    t.Field: field,
    t.At: _at,
}


def elaborator(report: Report, shallow: bool = False) -> Elaborator:
    """An elaborator that knows all rules."""
    return Elaborator(report, RULES, shallow)
