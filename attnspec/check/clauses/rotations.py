"""``rotate`` lines: their options, the formulas among them, and the positions by which vectors turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attnspec.check.clauses.scores import real
from attnspec.check.expressions import options
from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.options import Option
from attnspec.check.expressions.patterns import parts
from attnspec.check.expressions.scope import Bound, Scope
from attnspec.errors.clauses import bad_option, may_not_read, name_taken, same_dimensions
from attnspec.errors.source import Span
from attnspec.language import tree as t
from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec import real as r
from attnspec.spec.parts import Rotation
from attnspec.spec.parts import Setting as Settled

_SHARED = {
    "dims": Option("int", 0, 0, even=True),  # 0: all from `start` on
    "layout": Option("half|pairs", "half"),
    "start": Option("int", None, 0, optional=True),
    "attention_factor": Option("real", None, 0, above=True, optional=True, formula=True),
}
_THETA = Option("real", 10000.0, 0, above=True, formula=True)
ROTATIONS = {
    "rope": {"theta": _THETA, **_SHARED, "frequencies": Option("frequencies", optional=True, formula=True)},
    "xpos": {"theta": _THETA, "scale_base": Option("real", 512.0, 0, above=True), **_SHARED},
    "yarn": {
        "theta": _THETA,
        "factor": Option("real", None, 1, formula=True),
        "original": Option("int", None, 1),
        "beta_fast": Option("real", 32.0, 0, above=True),
        "beta_slow": Option("real", 1.0, 0, above=True),
        "ramp": Option("index|rotations", "index"),
        "truncate": Option("bool", True),
        **_SHARED,  # attention_factor: 0.1 * log(factor) + 1
    },
}
"""The rotations and their options (RoPE: Su et al., 2021; xPos: Sun et al., 2022; YaRN: Peng et al., 2023)."""

NAMES: Mapping[str, r.RealExpr | e.IntExpr] = {
    "pair": e.Var("pair"),
    "pairs": e.Var("pairs"),
    "frequency": r.Frequency(),
}
"""What a rotate line has names for."""


def rotate(el: Elaborator, node: t.Rotate, scope: Scope, seen: Mapping[str, Span]) -> Rotation | None:
    """A rotation with its options; None after a mistake. ``seen`` are the names that the attention defines."""
    q: e.IntExpr | r.RealExpr = e.Var("q")
    k: e.IntExpr | r.RealExpr = e.Var("k")
    call, inner = node.value, scope.bind({name: Bound(value, 1, 1) for name, value in NAMES.items()})
    if isinstance(call, t.At):
        _check_names(el, (call.q, call.k), scope, seen)
        q = _position(el, call.q, inner, "k", "queries")
        k = _position(el, call.k, inner, "q", "keys")
        call = call.pattern
    if not isinstance(call, t.Call):
        el.wrong(bad_option(call.span, "rotate", "a rotation with its options, as in `rope(theta = 10000)`"))
        return None
    kind = call.callee.name
    _check_names(el, _formulas(call), scope, seen)
    settings = options.read(el, call, ROTATIONS, "rotation", inner)
    if settings is None:
        return None
    for key, value in settings.items():
        _check_reads(el, call, key, value)
    if kind == "yarn":
        settings.setdefault("attention_factor", _yarn_factor(settings["factor"]))
    settled: list[tuple[str, Settled]] = []
    for key in sorted(settings):
        value = settings[key]
        whole = isinstance(value, int) and ROTATIONS[kind][key].kind == "real"
        settled.append((key, float(value) if whole else value))  # type: ignore[arg-type]
    return Rotation(kind, tuple(settled), q, k)


def disjoint(el: Elaborator, lines: Iterable[tuple[Rotation, Span]]) -> None:
    """Say so where two lines turn the same dimensions of a head."""
    before: list[tuple[Rotation, Span]] = []
    for rotation, span in lines:
        clash = next((place for other, place in before if _overlap(rotation, other)), None)
        if clash is not None:
            el.wrong(same_dimensions(span, clash))
        before.append((rotation, span))


def _overlap(one: Rotation, other: Rotation) -> bool:
    first, second = sorted((one, other), key=lambda rotation: rotation.start)
    return not first.dims or first.start + first.dims > second.start


def _position(el: Elaborator, tree: t.Expr, scope: Scope, other: str, whose: str) -> e.IntExpr | r.RealExpr:
    """The position by which queries or keys turn: it may not read the other's."""
    position = real(el, tree, scope)
    el.bound(position, tree.span)
    names = sorted(contents.free(position) & {other, *e.SLOTS})
    if names:
        el.wrong(may_not_read(tree.span, f"the rotation of {whose}", names, "each side turns by itself"))
    elif _reads_frequency(position):
        help = "a factor on it is a factor on the position: `frequencies = ...` is the place for both"
        el.wrong(may_not_read(tree.span, "a position", ["frequency"], help))
    return position.arg if isinstance(position, r.Cast) else r.valued(position)


def _check_reads(el: Elaborator, call: t.Call, key: str, value: options.Setting) -> None:
    """Refuse what the formula of an option may not read."""
    if not isinstance(value, r.RealExpr):
        return
    names = set(contents.free(value)) & {*e.POSITIONS, *e.SLOTS}
    help = "positions stand after `at`: rotate rope(...) at (q', k')"
    if key != "frequencies":
        more = {"pair"} & contents.free(value) | ({"frequency"} if _reads_frequency(value) else set())
        names |= more
        help = "what differs by pair of dimensions is said by `frequencies = ...`" if more else help
    if names:
        place = next((a.value.span for a in call.args if a.keyword and a.keyword.name == key), call.span)
        el.wrong(may_not_read(place, f"`{key}`", sorted(names), help))


def _reads_frequency(value: e.Node) -> bool:
    return any(isinstance(part, r.Frequency) for part in contents.walk(value))


def _yarn_factor(factor: options.Setting) -> float | r.RealExpr:
    """``0.1 * log(factor) + 1``."""
    known = factor if isinstance(factor, r.RealExpr) else r.Real(float(factor))  # type: ignore[arg-type]
    total = make.total([make.product(r.Real(0.1), make.apply("log", known)), r.Real(1.0)])
    return total.value if isinstance(total, r.Real) else make.real(total)


def _formulas(call: t.Call) -> list[t.Expr]:
    """The values of the options that may be formulas."""
    table = ROTATIONS.get(call.callee.name, {})
    found = []
    for arg, key in zip(call.args, [*table, *[""] * len(call.args)], strict=False):
        option = table.get(arg.keyword.name if arg.keyword else key)
        if option is not None and option.formula:
            found.append(arg.value)
    return found


def _check_names(el: Elaborator, trees: Iterable[t.Expr], scope: Scope, seen: Mapping[str, Span]) -> None:
    """Say so where a name of rotate lines is also one of the attention's, and it is not clear which is meant."""
    what = {"pair": "the number of a pair", "pairs": "the number of pairs", "frequency": "the frequency of RoPE"}
    for use in (name for tree in trees for name in parts(tree, t.Name)):
        if use.name in NAMES and use.name in scope.names:
            el.wrong(name_taken(use.span, use.name, what[use.name], seen.get(use.name)))
