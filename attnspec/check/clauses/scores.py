"""Lines that change the score: ``score``, ``sink``, ``scale``, ``normalize`` and ``rotate``."""

from __future__ import annotations

import math

from attnspec.check.expressions import options
from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.options import Option
from attnspec.check.expressions.patterns import uses
from attnspec.check.expressions.scope import Bound, Scope
from attnspec.errors.clauses import bad_option, may_not_read, misplaced, not_finite, score_name_taken
from attnspec.errors.source import Span
from attnspec.language import tree as t
from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.parts import Rotation

_THETA = Option("real", 10000.0, 0, above=True)
_DIMENSIONS = {
    "dims": Option("int", 0, 0, even=True),  # 0: all
    "layout": Option("half|pairs", "half"),
}
ROTATIONS = {
    "rope": {"theta": _THETA, **_DIMENSIONS},
    "xpos": {"theta": _THETA, "scale_base": Option("real", 512.0, 0, above=True), **_DIMENSIONS},
    "yarn": {
        "theta": _THETA,
        "factor": Option("real", None, 1),
        "original": Option("int", None, 1),
        "beta_fast": Option("real", 32.0, 0, above=True),
        "beta_slow": Option("real", 1.0, 0, above=True),
        "ramp": Option("index|rotations", "index"),
        "truncate": Option("bool", True),
        "temperature": Option("real", None, 0, above=True, optional=True),  # 0.1 * log(factor) + 1
        **_DIMENSIONS,
    },
}
"""The rotations and their options (RoPE: Su et al., 2021; xPos: Sun et al., 2022; YaRN: Peng et al., 2023)."""


def score(el: Elaborator, node: t.Score, scope: Scope, before: r.RealExpr, taken: Span | None) -> r.RealExpr:
    """The score after a line, given the score before it; ``taken`` is where the attention defines a name ``s``."""
    value = _real(el, node.value, _with_score(el, node.value, scope, before, taken))
    el.bound(value, node.span)
    if names := sorted(contents.free(value) & e.SLOTS):
        help = "a pair may stand in several pairs of slots, and has one score"
        el.wrong(may_not_read(node.value.span, "a score", names, help))
    return value


def sink(el: Elaborator, node: t.Sink, scope: Scope, taken: Span | None) -> r.RealExpr:
    """The logit of a sink: of the head, the batch entry, the row (not beside axes) and float inputs only."""
    value = _real(el, node.value, _with_score(el, node.value, scope, r.Score(), taken))
    el.bound(value, node.span)
    parts = list(contents.walk(value))
    floats = {part.name.partition(".")[0] for part in parts if isinstance(part, r.RealRead)}
    names = set(contents.names(value)) - {*e.CONSTANTS, "b", "?"} - floats
    if not el.has_axes:
        names -= {"q", "n", "n_q"}
    if any(isinstance(part, r.Score) for part in parts):
        names.add("s")
    if names:
        help = "a sink takes its share whatever the key: it is one number for each row of a head and batch entry"
        el.wrong(may_not_read(node.value.span, "a sink", sorted(names), help))
    return value


def _real(el: Elaborator, tree: t.Expr, scope: Scope) -> r.RealExpr:
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
        use = next((name for name in uses(tree) if name.name == "s"), None)
        if use is not None:
            el.wrong(score_name_taken(use.span, taken))
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


def rotate(el: Elaborator, node: t.Rotate, scope: Scope) -> Rotation | None:
    """A rotation with all its options; None after a mistake."""
    call, q, k = node.value, e.Var("q"), e.Var("k")
    positions: tuple[e.IntExpr, e.IntExpr] = (q, k)
    if isinstance(call, t.At):
        positions = (_position(el, call.q, scope, "k", "queries"), _position(el, call.k, scope, "q", "keys"))
        call = call.pattern
    if not isinstance(call, t.Call):
        el.wrong(bad_option(call.span, "rotate", "a rotation with its options, as in `rope(theta = 10000)`"))
        return None
    settings = options.read(el, call, ROTATIONS, "rotation", scope)
    if settings is None:
        return None
    kind = call.callee.name
    if kind == "yarn":
        factor = settings["factor"]
        assert isinstance(factor, (int, float))
        settings.setdefault("temperature", 0.1 * math.log(factor) + 1.0)
    settled: list[tuple[str, float | int | str]] = []
    for key in sorted(settings):
        value = settings[key]
        assert not isinstance(value, tuple)
        settled.append((key, float(value) if ROTATIONS[kind][key].kind == "real" else value))
    return Rotation(kind, tuple(settled), *positions)


def _position(el: Elaborator, tree: t.Expr, scope: Scope, other: str, whose: str) -> e.IntExpr:
    """The position by which queries or keys turn: it may not read the other's."""
    position = el.integer(tree, scope)
    el.bound(position, tree.span)
    names = sorted(contents.free(position) & {other, *e.SLOTS})
    if names:
        el.wrong(may_not_read(tree.span, f"the rotation of {whose}", names, "each side turns by itself"))
    return position
