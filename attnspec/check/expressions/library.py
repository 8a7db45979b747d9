"""The functions that every spec may call.

>>> steps(32, 128, True)
(8, (12, 16, 23, 32, 46, 64, 91))
"""

from __future__ import annotations

import math
from collections.abc import Callable

from attnspec.check.expressions import inputs, options
from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.lists import length
from attnspec.check.expressions.options import Option
from attnspec.check.expressions.scope import HOLE, UNKNOWN, InputRef, Scope, Value, what
from attnspec.errors.clauses import bad_option, weights_mistake
from attnspec.errors.names import wrong_arguments
from attnspec.errors.values import not_known, wrong_type
from attnspec.language import tree as t
from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec import feature as f
from attnspec.spec import real as r

_MAX_BUCKETS = 1024
_MAX_DISTANCE = 2**31


def call(el: Elaborator, node: t.Call, scope: Scope) -> Value:
    """The value of a library function."""
    name = node.callee.name
    if name == "favor":
        return favor(el, node, scope)
    rule, takes = LIBRARY[name]
    any_number = name in ("min", "max")
    keyword = next((a.keyword for a in node.args if a.keyword is not None), None)
    if keyword is not None:
        title = f"the arguments of `{name}` have no names"
        return el.wrong(wrong_arguments(keyword.span, title, "remove this"))
    if not node.args if any_number else len(node.args) != len(takes):
        wanted = "one argument or more" if any_number else _COUNTS[len(takes)]
        title = f"`{name}` takes {wanted}: {name}({', '.join(takes)})"
        return el.wrong(wrong_arguments(node.span, title, f"{len(node.args) or 'none'} given"))
    return rule(el, node, scope)


_COUNTS = ("no arguments", "one argument", "two arguments", "three arguments", "four arguments")


def _extreme(el: Elaborator, node: t.Call, scope: Scope) -> Value:
    values = tuple(el.number(arg.value, scope) for arg in node.args)
    if HOLE in values:
        return HOLE
    real = any(isinstance(value, r.RealExpr) for value in values)
    if real:  # each is written once for each that it is compared with, and once as the result
        el.spend(len(values) * sum(contents.measure(value)[0] for value in values), node.span)
    if node.callee.name == "min":
        return make.extreme("<=", values)
    if node.callee.name == "max":
        return make.extreme(">=", values)
    x, low, high = values
    return make.extreme("<=", (make.extreme(">=", (x, low)), high))


def _run(el: Elaborator, node: t.Call, scope: Scope) -> Value:
    of, at = (arg.value for arg in node.args)
    ref = inputs.value_or_input(el, of, scope)
    index = el.integer(at, scope)
    if ref is UNKNOWN:
        return UNKNOWN
    if not isinstance(ref, InputRef):
        return el.wrong(wrong_type(of.span, "the name of an input", what(ref)))
    return inputs.run(el, node.callee.name, ref, (index, at.span), node.span)


def _of_real(el: Elaborator, node: t.Call, scope: Scope) -> Value:
    return make.apply(node.callee.name, el.number(node.args[0].value, scope))


def _guarded(el: Elaborator, node: t.Call, scope: Scope) -> Value:
    x, eps = (el.number(arg.value, scope) for arg in node.args)
    if HOLE in (x, eps):
        return HOLE
    el.spend(3 * contents.measure(x)[0] + 2 * contents.measure(eps)[0], node.span)
    small = make.order("<=", make.apply("abs", x), eps)
    return make.total([x, make.choose(small, make.product(r.Real(2.0), eps), r.Real(0.0))])


def _of_vector(el: Elaborator, node: t.Call, scope: Scope) -> Value:
    if not el.maps_vectors:
        return _outside_linear(el, node)
    x = el.number(node.args[0].value, scope)
    return HOLE if x == HOLE else f.Whole(node.callee.name, make.real(x))


def _outside_linear(el: Elaborator, node: t.Call) -> Value:
    name = node.callee.name
    help = f"as in `linear {name}(x)`"
    return el.wrong(weights_mistake(node.span, f"`{name}` maps whole vectors", "not in a `linear` line", help=help))


FAVOR = {
    "features": Option("int", None, 1, optional=True),  # int(d ln d)
    "seed": Option("int", 0, 0),
    "kernel": Option("softmax|relu", "softmax"),
    "eps": Option("real", 1e-4, 0),
    "scaling": Option("norm|sqrt", "norm"),
    "stable": Option("all|running|none", "all"),
    "through_max": Option("bool", False),
}
"""The options of ``favor`` (Choromanski et al., 2021)."""


def favor(el: Elaborator, node: t.Call, scope: Scope) -> Value:
    """``favor(x, features = 256)``."""
    if not el.maps_vectors:
        return _outside_linear(el, node)
    if not node.args or node.args[0].keyword is not None:
        return el.wrong(wrong_arguments(node.span, "`favor` takes what it maps first", "write `favor(x, ...)`"))
    first, rest = node.args[0], t.Call(node.span, node.callee, node.args[1:])
    x = el.number(first.value, scope)
    found = options.read(el, rest, {"favor": FAVOR}, "map of vectors", scope)
    if found is None or x == HOLE:
        return HOLE
    count = found.get("features")
    words = {name: str(found[name]) for name in ("kernel", "scaling", "stable")}
    numbers = {"features": count if count is None else int(count), "seed": int(found["seed"])}  # type: ignore[arg-type]
    eps, through = float(found["eps"]), bool(found["through_max"])  # type: ignore[arg-type]
    return f.Favor(make.real(x), **numbers, **words, eps=eps, through_max=through)  # type: ignore[arg-type]


def _softcap(el: Elaborator, node: t.Call, scope: Scope) -> Value:
    x, cap = (el.number(arg.value, scope) for arg in node.args)
    known = make.constant(cap)
    if known is not None and known <= 0:
        return el.wrong(bad_option(node.args[1].span, "cap", "positive"))
    el.spend(contents.measure(cap)[0], node.span)
    return make.product(cap, make.apply("tanh", make.quotient(x, cap)))


def _alibi_slope(el: Elaborator, node: t.Call, scope: Scope) -> Value:
    head, heads = (el.integer(arg.value, scope) for arg in node.args)
    if heads not in (e.Var("heads"), HOLE):
        return el.wrong(wrong_arguments(node.args[1].span, "the slopes are those of all heads", "write `heads`"))
    return r.RealRead("alibi.slope", (head,))


def _t5_bucket(el: Elaborator, node: t.Call, scope: Scope) -> Value:
    distance = el.integer(node.args[0].value, scope)
    trees = [arg.value for arg in node.args[1:]]
    buckets, furthest = (el.constant(tree, scope, "an argument of `t5_bucket`") for tree in trees[:2])
    both = el.pred(trees[2], scope)
    if buckets is None or furthest is None or distance == HOLE:
        return HOLE
    if not isinstance(both, e.Bool):
        if "?" not in contents.free(both):
            return el.wrong(not_known(trees[2].span, "an argument of `t5_bucket`", contents.names(both)))
        return HOLE
    half = buckets // 2 if both.value else buckets
    if not 4 <= buckets <= _MAX_BUCKETS or buckets % (4 if both.value else 2):
        wanted = f"a multiple of {4 if both.value else 2} from 4 to {_MAX_BUCKETS:,}"
        return el.wrong(bad_option(trees[0].span, "buckets", wanted))
    if not half // 2 < furthest <= _MAX_DISTANCE:
        return el.wrong(bad_option(trees[1].span, "max_distance", f"above {half // 2} and up to 2 ** 31"))
    exact, further = steps(buckets, furthest, both.value)
    past = make.absolute(distance) if both.value else make.maximum((make.negative(distance), e.Int(0)))
    el.spend(3 * contents.measure(distance)[0] + len(further), node.span)
    parts = [make.minimum((past, e.Int(exact)))]
    if further:
        with el.binding(t.Name(node.span, "d"), None, scope) as (name, _):
            step = make.choose(make.compare(">=", past, e.Var(name)), e.Int(1), e.Int(0))
            parts.append(e.Sum(name, e.Values(further), step))
    if both.value:
        parts.append(make.choose(make.compare(">", distance, e.Int(0)), e.Int(half), e.Int(0)))
    return make.add(parts)


def steps(buckets: int, furthest: int, both: bool) -> tuple[int, tuple[int, ...]]:
    """Up to which distance T5's buckets hold one distance each, and the distances at which each further one begins.

    The published code computes the logarithm of the distance in single precision; so does this, that the same distance
    falls into the same bucket (Raffel et al., 2020).
    """
    import numpy as np

    half = buckets // 2 if both else buckets
    exact = half // 2
    scale = np.float32(math.log(furthest / exact))

    def bucket(distance: int) -> int:
        place = np.log(np.float32(distance) / np.float32(exact)) / scale * np.float32(half - exact)
        return min(exact + int(place), half - 1)

    begins = []
    low = exact
    for wanted in range(exact + 1, half):
        high = max(low, 2 * furthest)
        while low < high:  # the first distance in the bucket or beyond
            middle = (low + high) // 2
            low, high = (low, middle) if bucket(middle) >= wanted else (middle + 1, high)
        begins.append(low)
    return exact, tuple(begins)


Rule = Callable[[Elaborator, t.Call, Scope], Value]

LIBRARY: dict[str, tuple[Rule, tuple[str, ...]]] = {
    "min": (_extreme, ("a", "b")),
    "max": (_extreme, ("a", "b")),
    "clamp": (_extreme, ("x", "low", "high")),
    "len": (lambda el, node, scope: length(el, node.args[0].value, scope), ("list",)),
    "first": (_run, ("input", "x")),
    "last": (_run, ("input", "x")),
    **dict.fromkeys(sorted(r.FUNCTIONS), (_of_real, ("x",))),
    **dict.fromkeys(sorted(f.WHOLE), (_of_vector, ("x",))),
    "favor": (favor, ("x",)),
    "guarded": (_guarded, ("x", "eps")),
    "softcap": (_softcap, ("x", "cap")),
    "alibi_slope": (_alibi_slope, ("h", "heads")),
    "t5_bucket": (_t5_bucket, ("distance", "buckets", "max_distance", "both_sides")),
}
"""Each function with its rule and the names of its arguments; `min` and `max` take any number of them."""
