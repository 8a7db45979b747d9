"""Lines that change the score, ``score``, ``sink``, ``scale`` and ``normalize``, and the ``share`` of a branch."""

from __future__ import annotations

from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.patterns import parts
from attnspec.check.expressions.scope import Bound, Scope
from attnspec.errors.clauses import may_not_read, misplaced, name_taken, not_finite
from attnspec.errors.source import Span
from attnspec.language import tree as t
from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec import real as r


def score(el: Elaborator, node: t.Score, scope: Scope, before: r.RealExpr, taken: Span | None) -> r.RealExpr:
    """The score after a line, given the score before it; ``taken`` is where the attention defines a name ``s``."""
    value = real(el, node.value, _with_score(el, node.value, scope, before, taken))
    el.bound(value, node.span)
    if names := sorted(contents.free(value) & e.SLOTS):
        help = "a pair may stand in several pairs of slots, and has one score"
        el.wrong(may_not_read(node.value.span, "a score", names, help))
    return value


def sink(el: Elaborator, node: t.Sink, scope: Scope, taken: Span | None) -> r.RealExpr:
    """The logit of a sink: of the head, the batch entry, the row (not beside axes) and float inputs only."""
    value = real(el, node.value, _with_score(el, node.value, scope, r.Score(), taken))
    el.bound(value, node.span)
    help = "a sink takes its share whatever the key: it is one number for each row of a head and batch entry"
    _of_rows(el, value, node.value.span, "a sink", help)
    return value


def share(el: Elaborator, tree: t.Expr, scope: Scope) -> r.RealExpr:
    """The share of a branch: of what a sink may read."""
    value = real(el, tree, scope)
    el.bound(value, tree.span)
    help = "it is one number for each row of a head and batch entry, whatever the key"
    _of_rows(el, value, tree.span, "a share", help)
    return value


def _of_rows(el: Elaborator, value: r.RealExpr, span: Span, what: str, help: str) -> None:
    """Say so where what is one number for each row reads more."""
    parts = list(contents.walk(value))
    floats = {part.name.partition(".")[0] for part in parts if isinstance(part, r.RealRead)}
    names = set(contents.names(value)) - {*e.CONSTANTS, "b", "?"} - floats
    if not el.has_axes:
        names -= {"q", "n", "n_q"}
    if any(isinstance(part, r.Score) for part in parts):
        names.add("s")
    if names:
        if any(isinstance(part, e.Read | e.Flag | e.Among) for part in parts):
            help = f"of the inputs {what} reads those of reals: declare it `float`"
        el.wrong(may_not_read(span, what, sorted(names), help))


def real(el: Elaborator, tree: t.Expr, scope: Scope) -> r.RealExpr:
    """A real, in whose conditions reals may be compared."""
    el.orders_reals = True
    try:
        value = make.real(el.number(tree, scope))
        make.require_finite(value)
    except make.NotFinite:
        el.wrong(not_finite(tree.span))
    else:
        return value
    finally:
        el.orders_reals = False
    return r.Real(0.0)


def _with_score(el: Elaborator, tree: t.Expr, scope: Scope, value: r.RealExpr, taken: Span | None) -> Scope:
    """The scope of a line in which ``s`` is the score."""
    if "s" in scope.names:
        use = next((name for name in parts(tree, t.Name) if name.name == "s"), None)
        if use is not None:
            el.wrong(name_taken(use.span, "s", "the score", taken))
    return scope.bind({"s": Bound(value, *contents.measure(value))})


def scale(el: Elaborator, node: t.Scale, scope: Scope) -> float | None:
    """The factor of the dot product."""
    factor = el.number(node.value, scope)
    try:
        value = make.constant(factor)
    except make.NotFinite:
        el.wrong(not_finite(node.value.span))
        return None
    names = contents.names(factor)
    if value is None and "?" not in names:
        el.wrong(may_not_read(node.value.span, "the scale", names, "it is one number, known at compile time"))
    return value


def normalize(el: Elaborator, node: t.Normalize, before: frozenset[str]) -> frozenset[str]:
    """Which of q and k are scaled to unit length, after one more line."""
    name = node.what.name
    if name not in e.POSITIONS:
        title = f"there is no `normalize {name}`"
        el.wrong(misplaced(node.what.span, title, "expected `q` or `k`"))
    elif name in before:
        el.wrong(misplaced(node.span, f"`{name}` is normalized twice", "once is enough", "remove this line"))
    return before | {name}
