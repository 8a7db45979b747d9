"""What the corners of a tile tell of all its pairs: intervals of integer expressions, and what follows for predicates.

A divisor that comes with the call (``q // chunk == k // chunk``) has no affine form, but ``q // chunk`` never decreases
with q. So the first and last query and key of a tile bound both sides, and a comparison may be impossible, or certain,
in a whole tile; and queries from here to there leave keys from where to where. Where the runs of a sorted input begin
and end never decreases either: ``first(doc, q)`` lies between that of the first and that of the last query.

>>> chunk = e.Read("chunk", ())
>>> same = e.Cmp("==", e.FloorDiv(e.Var("q"), chunk), e.FloorDiv(e.Var("k"), chunk))
>>> print(possible(same, POSITIONS))
q_first // max(chunk, 1) <= k_last // max(chunk, 1) and k_first // max(chunk, 1) <= q_last // max(chunk, 1)
>>> print(certain(same, POSITIONS))
q_first // max(chunk, 1) == k_last // max(chunk, 1) and k_first // max(chunk, 1) == q_last // max(chunk, 1)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from attnspec.spec import contents, make
from attnspec.spec import expr as e

Bounds = tuple[e.IntExpr, e.IntExpr]
Sides = Mapping[str, Bounds]
"""The corners of each variable that a tile has a range of."""

_Q, _K = ((e.Var(f"{side}_first"), e.Var(f"{side}_last")) for side in "qk")
CORNERS = ("q_first", "q_last", "k_first", "k_last")
"""The first and last query and key of a tile: positions, or places in a computed order."""
POSITIONS: Sides = {"q": _Q, "k": _K}
SLOTS: Sides = {"q_slot": _Q, "k_slot": _K}

_MOVES = e.POSITIONS | e.SLOTS
_ZERO, _ONE = e.Int(0), e.Int(1)
_LAST = e.Add((e.Var("n"), e.Int(-1)))
_FAR = 1 << 60
"""Beyond all positions, whatever it is divided by: up to _MOST_OVER."""
_MOST_OVER = 1 << 16


@dataclass(frozen=True)
class Limit:
    """Between which places of the other side pairs lie that a comparison allows; None where that has no end.

    The ends are expressions in the corners of one side, and of up to 64 bits.
    """

    low: e.IntExpr | None
    high: e.IntExpr | None

    @property
    def plain(self) -> bool:
        """Whether the ends hold no choices and no lists."""
        nodes = (node for end in (self.low, self.high) if end is not None for node in contents.walk(end))
        return not any(isinstance(node, (e.If, e.Index, e.Sum)) for node in nodes)


def bounds(node: e.IntExpr, sides: Sides) -> Bounds | None:
    """The least and largest value of an integer in a tile, or something beyond; None where that is not known."""
    if not contents.free(node) & _MOVES:
        return node, node
    match node:
        case e.Var(name):
            return sides.get(name)
        case e.Read(name, indices) if is_edge(node) and not contents.free(e.Add(indices[:-1])) & _MOVES:
            inner = bounds(indices[-1], sides)
            if inner is None:
                return None
            start, end = (e.Read(name, (*indices[:-1], _inside(place))) for place in inner)
            return start, end
        case e.Add(terms):
            parts = [bounds(term, sides) for term in terms]
            known = [part for part in parts if part is not None]
            if len(known) < len(parts):
                return None
            return make.add([low for low, _ in known]), make.add([high for _, high in known])
        case e.Mul(left, right):
            return _product(left, right, sides)
        case e.FloorDiv(left, by) | e.Mod(left, by) if not contents.free(by) & _MOVES:
            inner = bounds(left, sides)
            if inner is None:
                return None
            by = _positive(by)
            first, last = (e.FloorDiv(end, by) for end in inner)
            if isinstance(node, e.FloorDiv):
                return first, last
            wraps = e.Min((_ONE, _minus(last, first)))  # 1 where the remainder begins anew inside the tile
            rest = e.Mod(inner[0], by), e.Mod(inner[1], by)
            most = e.Max((rest[1], e.Mul(wraps, _minus(by, _ONE))))
            return e.Mul(rest[0], _minus(_ONE, wraps)), most
        case e.Min(args) | e.Max(args):
            parts = [bounds(arg, sides) for arg in args]
            known = [part for part in parts if part is not None]
            if len(known) < len(parts):
                return None
            return type(node)(tuple(low for low, _ in known)), type(node)(tuple(high for _, high in known))
        case e.Abs(arg):
            inner = bounds(arg, sides)
            if inner is None:
                return None
            low, high = inner
            return e.Max((_ZERO, low, make.negative(high))), e.Max((high, make.negative(low)))
    return None


def is_edge(node: e.Node) -> bool:
    """Whether a node reads where a run of a sorted input begins or ends; the input must have ``n`` entries in a row."""
    return isinstance(node, e.Read) and node.name.endswith((".first", ".last"))


def _inside(place: e.IntExpr) -> e.IntExpr:
    """The nearest of the places 0 to n - 1: a comparison that reads another is false."""
    return e.Max((e.Min((place, _LAST)), _ZERO))


def _product(left: e.IntExpr, right: e.IntExpr, sides: Sides) -> Bounds | None:
    """Of something that is the same for all pairs with something that is not."""
    same, other = (right, left) if contents.free(left) & _MOVES else (left, right)
    inner = bounds(other, sides)
    if contents.free(same) & _MOVES or inner is None:
        return None
    low, high = (e.Mul(same, end) for end in inner)
    if isinstance(same, e.Int):
        return (low, high) if same.value >= 0 else (high, low)
    return e.Min((low, high)), e.Max((low, high))


def possible(pred: e.Pred, sides: Sides) -> e.Pred:
    """What holds of the corners of every tile with a pair for which a predicate holds."""
    return _told(pred, sides, False)


def certain(pred: e.Pred, sides: Sides) -> e.Pred:
    """Corners of which this holds are those of a tile that has nothing but pairs for which the predicate holds."""
    return _told(pred, sides, True)


def _told(pred: e.Pred, sides: Sides, sure: bool) -> e.Pred:
    """What corners tell of a predicate: that it is possible, or sure."""
    match pred:
        case e.Bool():
            return pred
        case e.Cmp("==", e.Mod(left, by), value) if not sure and not contents.free(e.Add((by, value))) & _MOVES:
            # A multiple lies in an interval, or none does: sharper than bounds of the remainder.
            moved = _compare("==", e.Mod(_minus(left, value), by), _ZERO, sides, False)
            return make.conjunction([_compare("==", e.Mod(left, by), value, sides, False), moved])
        case e.Cmp(op, left, right):
            found = _compare(op, left, right, sides, sure)
            return make.conjunction([found, *_reads_inside(pred, sides)]) if sure else found
        case e.And(args):
            return make.conjunction([_told(arg, sides, sure) for arg in args])
        case e.Or(args):
            return make.disjunction([_told(arg, sides, sure) for arg in args])
        case e.Not(arg):
            return make.negation(_told(arg, sides, not sure))
        case e.Iff(left, right):
            both, neither = ((left, right), (e.Not(left), e.Not(right)))
            return make.disjunction(
                [make.conjunction([_told(x, sides, sure) for x in pair]) for pair in (both, neither)]
            )
        case e.Any(var, domain, body) | e.All(var, domain, body):
            inner = _told(body, sides, sure)
            return inner if isinstance(inner, e.Bool) else type(pred)(var, domain, inner)
    return e.Bool(not sure)


def _reads_inside(pred: e.Pred, sides: Sides) -> Iterator[e.Pred]:
    """That no pair of a tile reads beside an input: there a comparison is false."""
    places = (
        bounds(node.indices[-1], sides) for node in contents.walk(pred) if isinstance(node, e.Read) if is_edge(node)
    )
    for low, high in dict.fromkeys(place for place in places if place is not None):
        yield make.compare(">=", low, _ZERO)
        yield make.compare("<=", high, _LAST)


def tells(atom: e.Pred, sides: Sides) -> bool:
    """Whether corners tell of a comparison."""
    return isinstance(atom, e.Cmp) and None not in (bounds(atom.left, sides), bounds(atom.right, sides))


def _compare(op: str, left: e.IntExpr, right: e.IntExpr, sides: Sides, sure: bool) -> e.Pred:
    """A comparison that is possible, or sure, in a tile."""
    a, b = bounds(left, sides), bounds(right, sides)
    if a is None or b is None:
        return e.Bool(not sure)
    if op in ("<", "<="):
        return make.compare(op, a[1], b[0]) if sure else make.compare(op, a[0], b[1])
    if op in (">", ">="):
        return make.compare(op, a[0], b[1]) if sure else make.compare(op, a[1], b[0])
    if op == "==":
        return make.conjunction([make.compare("==" if sure else "<=", x, y) for x, y in ((a[0], b[1]), (b[0], a[1]))])
    ends = ((a[1], b[0]), (b[1], a[0]))  # different everywhere: one lies below the other
    return make.disjunction([make.compare("<" if sure else "!=", x, y) for x, y in ends])


def limit(atom: e.Pred, side: str, sides: Sides) -> Limit | None:
    """Where the places ``side`` (one of the variables of ``sides``) lie for which a comparison can hold."""
    if not isinstance(atom, e.Cmp) or atom.op == "!=":
        return None
    terms = [*_terms(atom.left), *map(make.negative, _terms(atom.right))]
    own = [term for term in terms if side in contents.free(term)]
    rest = [bounds(term, sides) for term in terms if side not in contents.free(term)]
    known = [part for part in rest if part is not None]
    if len(own) != 1 or len(known) < len(rest) or contents.free(own[0]) & _MOVES != {side}:
        return None
    # own + rest `op` 0, so that own lies between the opposites of what rest can be.
    low, high = (make.negative(make.add([part[end] for part in known])) for end in (1, 0))
    ends = {
        "==": Limit(low, high),
        "<=": Limit(None, high),
        "<": Limit(None, _minus(high, _ONE)),
        ">=": Limit(low, None),
        ">": Limit(make.add([low, _ONE]), None),
    }
    return _solved(own[0], ends[atom.op], 1)


def _solved(node: e.IntExpr, value: Limit, over: int) -> Limit | None:
    """Where a variable lies, given where an expression of it lies; ``over`` is what ends have been divided by."""
    low, high = value.low, value.high
    match node:
        case e.Var():
            return value
        case e.Add(terms):
            own = [term for term in terms if contents.free(term) & _MOVES]
            rest = make.add([term for term in terms if not contents.free(term) & _MOVES])
            if len(own) != 1:
                return None
            return _solved(own[0], Limit(*(end and _minus(end, rest) for end in (low, high))), over)
        case e.Mul(e.Int(by), inner) | e.Mul(inner, e.Int(by)) if by:
            if by < 0:
                low, high = (end and make.negative(end) for end in (high, low))
            over *= abs(by)
            if over > _MOST_OVER:
                return None
            if low is not None and abs(by) > 1:
                low = make.negative(make.divide(make.negative(low), e.Int(abs(by))))
            if high is not None and abs(by) > 1:
                high = make.divide(high, e.Int(abs(by)))
            return _solved(inner, Limit(low, high), over)
        case e.FloorDiv(inner, by) if not contents.free(by) & _MOVES:
            by = _positive(by)
            low = low and _times(low, by)
            high = high and make.add([_times(high, by), _minus(by, _ONE)])
            return _solved(inner, Limit(low, high), over)
    return None


def _positive(by: e.IntExpr) -> e.IntExpr:
    """A divisor; what kernels take for one that should not be there."""
    return by if isinstance(by, e.Int) else e.Max((by, _ONE))


def _times(end: e.IntExpr, by: e.IntExpr) -> e.IntExpr:
    """A product that stops at 2**60, far beyond all positions."""
    most = make.divide(e.Int(_FAR), by)
    return make.multiply(make.maximum((make.minimum((end, most)), make.negative(most))), by)


def _terms(node: e.IntExpr) -> tuple[e.IntExpr, ...]:
    return node.terms if isinstance(node, e.Add) else (node,)


def _minus(one: e.IntExpr, other: e.IntExpr) -> e.IntExpr:
    return make.add([one, make.negative(other)])
