"""Lines about weights beyond softmax: ``linear``, ``divide``, ``decay`` and ``delta``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from attnspec.check.clauses.scores import real
from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.patterns import parts
from attnspec.check.expressions.scope import Bound, Scope
from attnspec.errors.clauses import may_not_read, name_taken, not_finite, weights_mistake
from attnspec.errors.names import defined_twice
from attnspec.errors.source import Span
from attnspec.language import tree as t
from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec import feature as f
from attnspec.spec import real as r
from attnspec.spec.folded import folded
from attnspec.spec.weights import MASS, STEP, Weights, WeightSum

NAMES: Mapping[str, Mapping[str, tuple[r.RealExpr | e.IntExpr, str]]] = {
    "linear": {"x": (f.Vector(), "the vector"), "c": (f.CHANNEL, "the number of an entry")},
    "divide": {"total": (WeightSum(), "the sum of the weights"), "mass": (MASS, "the sum of the query's features")},
    "decay": {"t": (STEP, "the position of a step"), "c": (f.CHANNEL, "the number of a feature")},
    "delta": {},
}
"""What each kind of line has names for, beside those of all lines."""

Line = t.Linear | t.Divide | t.Decay | t.Delta


@dataclass
class Lines:
    """The lines of a body so far, and where they stand."""

    features: dict[str, r.RealExpr] = field(default_factory=dict)
    divide: r.RealExpr | None = None
    each: bool = False
    decays: list[r.RealExpr] = field(default_factory=list)
    delta: r.RealExpr | None = None
    first: dict[str, Span] = field(default_factory=dict)

    def add(self, el: Elaborator, node: Line, scope: Scope, seen: Mapping[str, Span]) -> None:
        """One more line; ``seen`` are the names that the attention defines."""
        match node:
            case t.Linear(_, side, value):
                self._linear(el, node, side, feature(el, value, scope, seen))
            case t.Divide(_, each, value):
                self._once(el, "divide", node.span)
                self.divide, self.each = _line(el, "divide", value, scope, seen), each
                if each and MASS in contents.walk(self.divide):
                    help = "each feature has a divisor of its own; `total` is the sum of that feature's weights"
                    el.wrong(may_not_read(value.span, "`divide each`", ["mass"], help))
            case t.Decay(_, value):
                self.first.setdefault("decay", node.span)
                step = _line(el, "decay", value, scope, seen)
                if f.bounds(step)[0] > 0:
                    help = "it is the logarithm of a factor of at most 1: write a minus before it"
                    el.wrong(weights_mistake(value.span, "a decay is at most 0", "this is above 0", help=help))
                self.decays.append(step)
            case t.Delta(_, value):
                self._once(el, "delta", node.span)
                self.delta = _line(el, "delta", value, scope, seen)

    def _once(self, el: Elaborator, word: str, span: Span) -> None:
        if word in self.first:
            el.wrong(defined_twice(span, f"`{word}`", self.first[word]))
        self.first.setdefault(word, span)

    def _linear(self, el: Elaborator, node: t.Linear, side: t.Name | None, value: r.RealExpr) -> None:
        for name in ("q", "k") if side is None else (side.name,):
            if name in self.features:
                el.wrong(defined_twice(node.span, f"`linear {name}:`", self.first[f"linear {name}:"]))
            self.features[name] = value
            self.first.setdefault(f"linear {name}:", node.span)
        self.first.setdefault("linear", node.span)

    @property
    def weights(self) -> Weights:
        """What they come to."""
        decay = make.real(make.total(self.decays)) if self.decays else None
        spans = tuple(self.first.items())
        q, k = self.features.get("q"), self.features.get("k")
        return Weights(q, k, self.divide, self.each, decay, self.delta, spans)


def on_top(el: Elaborator, common: Lines, own: Lines) -> Lines:
    """The lines of a branch on top of those that hold for all branches: decays add up, others stand once."""
    for word in own.first.keys() & common.first.keys() - {"decay", "linear"}:
        el.wrong(defined_twice(own.first[word], f"`{word}`", common.first[word]))
    return Lines(
        {**common.features, **own.features},
        common.divide if own.divide is None else own.divide,
        own.each or common.each,
        [*common.decays, *own.decays],
        common.delta if own.delta is None else own.delta,
        {**common.first, **own.first},
    )


def feature(el: Elaborator, tree: t.Expr, scope: Scope, seen: Mapping[str, Span]) -> r.RealExpr:
    """What one side is mapped to."""
    inner = tree
    while isinstance(inner, t.Bracket):
        inner = inner.inner
    if isinstance(inner, t.ListOf):
        entries = tuple(_line(el, "linear", part, scope, seen) for part in inner.items)
        if not entries:
            el.wrong(weights_mistake(tree.span, "a list of features is not empty", "nothing in it"))
        value: r.RealExpr = f.Joined(entries)
    else:
        entries = (_line(el, "linear", tree, scope, seen),)
        (value,) = entries
    for entry in entries:
        inside = entry.children() if isinstance(entry, f.Favor) else (entry,)
        if any(isinstance(part, f.Favor) for root in inside for part in contents.walk(root)):
            help = "it stands alone, or in a list: `linear favor(x)`, `linear [favor(x, stable = none), x]`"
            el.wrong(weights_mistake(tree.span, "`favor` is not a part of an expression", "used in one", help=help))
        if isinstance(entry, f.Favor) and f.is_constant(entry.arg):
            el.wrong(weights_mistake(tree.span, "`favor` maps vectors", "reads no `x`", help="as in `linear favor(x)`"))
        if len(entries) > 1 and isinstance(entry, f.Favor) and entry.kernel == "softmax" and entry.stable != "none":
            help = "it lessens its own features by a factor of each row, and not the others: write `stable = none`"
            el.wrong(weights_mistake(tree.span, f"`stable = {entry.stable}` stands alone", "beside others", help=help))
        choices = (part for part in contents.walk(entry) if isinstance(part, r.Choose))
        if any(isinstance(part, f.Whole) for choice in choices for part in contents.walk(choice)):
            title = "a function of the whole vector does not stand inside `if`, `min`, `max` or `clamp`"
            el.wrong(weights_mistake(tree.span, title, "what is chosen is chosen entry by entry"))
    return value


def _line(el: Elaborator, word: str, tree: t.Expr, scope: Scope, seen: Mapping[str, Span]) -> r.RealExpr:
    """The value of a line, which reads what that kind of line may."""
    names = NAMES[word]
    for use in parts(tree, t.Name):
        if use.name in names and use.name in scope.names:
            el.wrong(name_taken(use.span, use.name, names[use.name][1], seen.get(use.name)))
    el.maps_vectors = word == "linear"
    try:
        value = real(el, tree, scope.bind({name: Bound(node, 1, 1) for name, (node, _) in names.items()}))
    finally:
        el.maps_vectors = False
    el.bound(value, tree.span)
    allowed: Collection[str] = {"k"} if word == "delta" else ()
    found = sorted(contents.free(value) & {*e.POSITIONS, *e.SLOTS} - set(allowed))
    if found:
        help = {
            "linear": "features are of one vector; it may read `x`, `h`, `b`, `c` and inputs",
            "divide": "it may read `total`, `mass`, `h`, `b` and inputs",
            "decay": "a step is at a position `t`: write `gate[b, h, t]`",
            "delta": "the correction is that of a key: it may read `k`, `h`, `b` and inputs",
        }[word]
        el.wrong(may_not_read(tree.span, f"`{word}`", found, help))
    try:
        return folded(value)
    except make.NotFinite:
        el.wrong(not_finite(tree.span))
        return r.Real(0.0)
