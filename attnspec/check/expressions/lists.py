"""Lists and ranges: literals, entries, lengths, membership, and what ``any``, ``all`` and ``sum`` run over."""

from __future__ import annotations

from collections.abc import Sequence

from attnspec.check.expressions import inputs
from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.scope import (
    HOLE,
    HOLE_PRED,
    UNKNOWN,
    InputRef,
    ListValue,
    RealList,
    Scope,
    Value,
    holds_reals,
    integers,
    reals,
    what,
)
from attnspec.errors.source import Span
from attnspec.errors.values import (
    MAX_COMBINATIONS,
    MAX_RANGE,
    index_outside,
    mixed_list,
    not_known,
    ragged_list,
    range_too_large,
    ranges_too_large,
    wrong_type,
)
from attnspec.language import tree as t
from attnspec.spec import contents, exact, make
from attnspec.spec import expr as e
from attnspec.spec import real as r

_FEW = 16  # `x in list` is written as comparisons up to this many


def literal(el: Elaborator, node: t.ListOf | t.TupleOf, scope: Scope) -> Value:
    """``[a, b, c]``."""
    items: list[e.Nested | r.Reals] = []
    unknown = False
    for place in node.items:
        entry = _entry(el, place, scope)
        if entry is None:
            unknown = True
        else:
            items.append(entry)
    if unknown:
        return UNKNOWN
    first: r.Reals = items[0] if items else ()
    if first == ():  # which fits beside any other list, so the next one says what the others must be
        first = next((x for x in items if isinstance(x, tuple) and x), ())
    for place, item_ in zip(node.items, items, strict=True):
        if not compatible(item_, first):
            return el.wrong(mixed_list(place.span, kind(first), kind(item_)))
    if not holds_reals(tuple(items)):
        return ListValue(integers(tuple(items)))
    if not rectangular(tuple(items)):
        return el.wrong(ragged_list(node.span))
    return RealList(reals(tuple(items)))


def _entry(el: Elaborator, place: t.Expr, scope: Scope) -> e.Nested | r.Reals | None:
    """An entry of a list that is written out; None if it is not known, or none."""
    value = el.expr(place, scope)
    match value:
        case ListValue(items, ()) | RealList(items, _, ()):
            return items
        case e.IntExpr():
            if "?" in contents.free(value):
                return None
            try:
                return exact.integer(value, {})
            except exact.Unknown:
                el.wrong(not_known(place.span, "an entry of a list", contents.names(value)))
        case r.RealExpr():
            if "?" in contents.free(value):
                return None
            number = make.constant(value)
            if number is not None:
                return number
            el.wrong(not_known(place.span, "an entry of a list", contents.names(value)))
        case _ if value is not UNKNOWN:
            el.wrong(wrong_type(place.span, "a number or a list", what(value)))
    return None


def kind(value: r.Reals) -> str:
    """The type of a constant, for messages.

    >>> kind((1, 2)), kind(((1,), (2, 3))), kind((0.5, 1))
    ('a list of integers', 'a list of lists of integers', 'a list of real numbers')
    """
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a real number"
    if not value:
        return "an empty list"
    first = next((v for v in value if v != ()), value[0])  # an empty list fits beside any other
    if not isinstance(first, tuple):
        return "a list of real numbers" if holds_reals(value) else "a list of integers"
    return "a list of lists" + kind(first).removeprefix("a list").removeprefix("an empty list")


def compatible(a: r.Reals, b: r.Reals) -> bool:
    """Whether two constants may stand in one list: of one kind, but for integers among reals and empty lists."""
    if isinstance(a, tuple) and isinstance(b, tuple) and not (a and b):
        return True
    return kind(with_reals(a)) == kind(with_reals(b))


def with_reals(value: r.Reals) -> r.Reals:
    """A constant with reals in the place of integers, to compare kinds."""
    if isinstance(value, tuple):
        return tuple(map(with_reals, value))
    return value if isinstance(value, bool) else float(bool(value))


def rectangular(value: r.Reals) -> bool:
    """Whether lists inside a list are of one length, on each level, and none is empty."""
    if not isinstance(value, tuple):
        return True
    return bool(value) and all(map(rectangular, value)) and len({r.shape_of(item) for item in value}) == 1


def item(el: Elaborator, node: t.Item, scope: Scope) -> Value:
    """``list[index]``, ``input[index, ...]``."""
    base = inputs.value_or_input(el, node.base, scope)
    if isinstance(base, InputRef):
        return inputs.item(el, base, node, scope)
    index = el.integer(node.index, scope)
    for more in node.more:
        el.integer(more, scope)
    if base is UNKNOWN:
        return UNKNOWN
    if not isinstance(base, ListValue | RealList):
        return el.wrong(wrong_type(node.base.span, "a list or an input", what(base)))
    if node.more:
        help = "an entry of a list of lists is written `xs[i][j]`"
        return el.wrong(wrong_type(node.more[0].span, "one index", "several", help))
    longest = base.longest if isinstance(base, ListValue) else base.shape[0]
    cases = el.constant_cases(index, node.index.span)
    bad = next((case for case in cases if not 0 <= case[0] < longest), None)
    if bad is not None:
        return el.wrong(index_outside(node.index.span, bad[0], longest, bad[1]))
    if isinstance(base, RealList):
        return _real_item(base, index)
    if isinstance(index, e.Int) and not base.indices:
        entry = base.items[index.value]
        return e.Int(entry) if isinstance(entry, int) else ListValue(entry)
    el.spend(len(base.items) // 16, node.span)
    indices = (*base.indices, index)
    return e.Index(base.items, indices) if base.flat else ListValue(base.items, indices)


def _real_item(base: RealList, index: e.IntExpr) -> Value:
    indices = (*base.indices, index)
    if len(base.shape) > 1:
        return RealList(base.items, base.name, indices)
    if not base.name and all(isinstance(i, e.Int) for i in indices):
        return r.Real(exact.real_entry(base.items, indices))
    return r.Item(base.name, base.items, indices)


def length(el: Elaborator, node: t.Expr, scope: Scope) -> Value:
    """``len(list)``."""
    value = el.expr(node, scope)
    if value is UNKNOWN:
        return HOLE
    if isinstance(value, RealList):
        return e.Int(value.shape[0])
    if not isinstance(value, ListValue):
        return el.wrong(wrong_type(node.span, "a list", what(value)))
    return _length(value)


def _length(value: ListValue) -> e.IntExpr:
    lengths = _lengths(value.items, len(value.indices))
    return e.Int(lengths) if isinstance(lengths, int) else e.Index(lengths, value.indices)


def _lengths(items: e.Nested, depth: int) -> e.Nested:
    assert isinstance(items, tuple)
    return len(items) if depth == 0 else tuple(_lengths(x, depth - 1) for x in items)


def member(el: Elaborator, node: t.Member, scope: Scope) -> Value:
    """``x in low..high`` and ``x in list``."""
    x = el.integer(node.item, scope)
    pred: e.Pred
    if isinstance(node.domain, t.Range):
        low, high = el.integer(node.domain.low, scope), el.integer(node.domain.high, scope)
        el.spend(contents.measure(x)[0], node.item.span)
        pred = make.conjunction([make.compare("<=", low, x), make.compare("<", x, high)])
    elif (ref := _input_behind(el, node.domain, scope)) is not None:
        among = inputs.among(el, ref, x, node.domain, scope)
        if not isinstance(among, e.Pred):
            return HOLE_PRED
        pred = among
    else:
        values = el.expr(node.domain, scope)
        if values is UNKNOWN:
            return HOLE_PRED
        if not isinstance(values, ListValue) or not values.flat:
            got = "a list of lists" if isinstance(values, ListValue) else what(values)
            return el.wrong(wrong_type(node.domain.span, "a range or a list of integers", got))
        if any(contents.varies(index) for index in values.indices):
            entries = [e.Index(values.items, (*values.indices, e.Int(j))) for j in range(values.longest)]
            for entry in entries:
                el.spend(contents.measure(x)[0] + contents.measure(entry)[0], node.span)
            pred = make.disjunction([make.compare("==", x, entry) for entry in entries])
        elif values.indices or len(values.items) > _FEW:
            with el.binding(t.Name(node.span, "v"), None, scope) as (name, _):
                pred = e.Any(name, e.Values(values.items, values.indices), make.compare("==", x, e.Var(name)))
        else:
            el.spend(contents.measure(x)[0] * len(values.items), node.item.span)
            pred = make.disjunction([make.compare("==", x, e.Int(v)) for v in values.items if isinstance(v, int)])
    return make.negation(pred) if node.negated else pred


def _input_behind(el: Elaborator, node: t.Expr, scope: Scope) -> InputRef | None:
    """The input in ``x in top[b, h]`` or ``x in top``."""
    while isinstance(node, t.Bracket):
        node = node.inner
    base = node.base if isinstance(node, t.Item) else node
    if isinstance(base, t.Name):
        value = inputs.value_or_input(el, base, scope) if base.name in scope.names else None
        return value if isinstance(value, InputRef) else None
    return None


def domain(el: Elaborator, node: t.Domain, scope: Scope) -> e.Domain | ListValue | None:
    """What a bound name runs over: a core domain, a list of lists, or None if it is not known."""
    if isinstance(node, t.Range):
        low, high = el.integer(node.low, scope), el.integer(node.high, scope)
        for end, place in ((low, node.low), (high, node.high)):
            if names := contents.varies(end):
                el.wrong(not_known(place.span, "the ends of a range", sorted(names)))
                return None
        over = e.Range(low, high)
        if "?" in contents.free(over):
            return None
        for env in el.cases(over, node.span):
            size = exact.integer(high, env) - exact.integer(low, env)
            if size > MAX_RANGE:
                el.wrong(range_too_large(node.span, size))
                return None
        return over
    value = el.expr(node, scope)
    if value is UNKNOWN:
        return None
    if not isinstance(value, ListValue):
        el.wrong(wrong_type(node.span, "a range or a list", what(value), help="a range is written `0..n`"))
        return None
    return e.Values(value.items, value.indices) if value.flat else value


def bind(el: Elaborator, node: t.Bind, scope: Scope) -> Value:
    """``any``, ``all`` and ``sum``."""
    over = domain(el, node.domain, scope)
    if isinstance(over, ListValue):
        return _unroll(el, node, over, scope)
    if isinstance(over, e.Values) and contents.varies(over):
        return _moving(el, node, over, scope)
    with el.binding(node.var, over, scope) as (name, inner):
        _combinations(el, node.span)
        body = el.integer(node.body, inner) if node.word == "sum" else el.pred(node.body, inner)
    if over is None:
        return HOLE if node.word == "sum" else HOLE_PRED
    values = over_values(over)
    if isinstance(body, e.IntExpr):
        return e.Int(0) if values is not None and len(values) == 0 else e.Sum(name, over, body)
    assert isinstance(body, e.Pred)
    if values is not None and len(values) == 0:
        return e.Bool(node.word == "all")
    if isinstance(body, e.Bool) and body.value == (node.word == "all"):
        return body  # even when there are no values
    if values is not None and name not in contents.free(body):
        return body
    return e.Any(name, over, body) if node.word == "any" else e.All(name, over, body)


def over_values(over: e.Domain) -> Sequence[int] | None:
    """The values of a domain, if they are known."""
    if isinstance(over, e.Range):
        if isinstance(over.low, e.Int) and isinstance(over.high, e.Int):
            return range(over.low.value, max(over.low.value, over.high.value))
        return None
    return None if over.indices else tuple(v for v in over.items if isinstance(v, int))


def _unroll(el: Elaborator, node: t.Bind, over: ListValue, scope: Scope) -> Value:
    """Run over the lists in a list: there is no variable for a list in the core, so each gets its own copy."""
    if over.indices:
        return el.wrong(not_known(node.domain.span, "which lists to run over", contents.names(over.indices[0])))
    scopes = [scope.bind({node.var.name: ListValue(x)}) for x in over.items if isinstance(x, tuple)]
    if node.word == "sum":
        return make.add([el.integer(node.body, inner) for inner in scopes])
    parts = [el.pred(node.body, inner) for inner in scopes]
    return make.disjunction(parts) if node.word == "any" else make.conjunction(parts)


def _moving(el: Elaborator, node: t.Bind, over: e.Values, scope: Scope) -> Value:
    """Run over a list that depends on the position: over its places, as far as the list at hand reaches."""
    values = ListValue(over.items, over.indices)
    places = e.Range(e.Int(0), e.Int(values.longest))
    with el.binding(node.var, places, scope) as (name, inner):
        place = e.Var(name)
        inside = make.compare("<", place, _length(values))
        entry = el.bound(e.Index(over.items, (*over.indices, place)), node.span)
        inner = inner.bind({node.var.name: entry})
        if node.word == "sum":
            return e.Sum(name, places, make.choose(inside, el.integer(node.body, inner), e.Int(0)))
        body = el.pred(node.body, inner)
    if node.word == "any":
        return e.Any(name, places, make.conjunction([inside, body]))
    return e.All(name, places, make.disjunction([make.negation(inside), body]))


def _combinations(el: Elaborator, span: Span) -> None:
    """Refuse ranges inside each other that have too many combinations together."""
    total = 1
    for _, over in el.binders:
        values = over_values(over) if over is not None else None
        total *= 1 if values is None else max(1, len(values))
    if total > MAX_COMBINATIONS:
        el.wrong(ranges_too_large(span, total))
