"""A predicate as a condition in isl's syntax, over ``x`` (query position), ``y`` (key position) and parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from math import lcm

from attnspec.relation.presburger import TooHard
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.evaluate import domain_values
from attnspec.spec.rewrite import replace
from attnspec.spec.unroll import ManyCases, cases, unrolled, with_value

_MAX_CASES = 4096


class NotAffine(Exception):
    """A node that has no affine form, and why."""

    def __init__(self, node: e.Node, why: str) -> None:
        super().__init__(node, why)
        self.node, self.why = node, why


class _Product(NotAffine):
    """A product of two values that are not constant: it has a meaning, but no affine form."""

    def __init__(self, node: e.Node) -> None:
        super().__init__(node, "a product of two values that are not constant")


@dataclass(frozen=True)
class Condition:
    """A condition in isl's syntax, and the parts of the predicate that it leaves open, each once."""

    text: str
    unknown: tuple[e.Pred, ...]


def head_constants(node: e.Node) -> frozenset[str]:
    """Which of h, heads, kv_heads, batch stand where a number is needed: factor, divisor, exponent, index, range."""
    found: set[str] = set()
    moving = e.POSITIONS | e.SIZES | e.SLOTS | e.CONSTANTS

    def constant(side: e.Node) -> bool:
        return contents.free(side) & moving <= e.CONSTANTS and not _reads(side)

    def visit(item: e.Node) -> None:
        places: tuple[e.Node, ...] = ()
        match item:
            case e.Mul(left, right) if contents.free(left) and contents.free(right):
                places = tuple(side for side in (left, right) if constant(side))
            case e.FloorDiv(_, right) | e.Mod(_, right) if not _reads(right):
                places = (right,)
            case e.Pow(base, exponent):
                places = (base, exponent)
            case e.Index(_, indices):
                places = tuple(i for i in indices if constant(i))
            case e.Any(_, domain, _) | e.All(_, domain, _) | e.Sum(_, domain, _):
                places = (domain,)
        for place in places:
            found.update(contents.free(place) & e.CONSTANTS)
        for child in item.children():
            visit(child)

    visit(node)
    return frozenset(found)


def condition(
    pred: e.Pred,
    unknown: bool = True,
    scalars: Mapping[e.Read, str] | None = None,
    slots: bool = False,
    hard: Collection[e.Pred] = (),
) -> Condition:
    """The condition. Raises NotAffine where there is none, TooHard where it distinguishes too many cases.

    What cannot be decided from symbols (an input, a product of two positions) counts as ``unknown`` where it stands
    positively, as the opposite under a negation: with True the condition holds wherever the predicate may, with False
    only where it must. ``scalars`` are the reads that are parameters; with ``slots`` the pairs are places in a computed
    order, and positions are among what cannot be decided. ``hard`` are parts that are left open with them.
    """
    translation = _Translation(scalars or {}, slots, hard)
    try:
        text = translation.pred(pred, unknown)
    except ManyCases:
        raise TooHard("too many conditional values in one comparison") from None
    return Condition(text, tuple(translation.unknown))


def _reads(node: e.Node, scalars: Mapping[e.Read, str] | None = None) -> bool:
    """Whether a node reads an input, other than those that are parameters."""
    if isinstance(node, e.Read) and node in (scalars or {}):
        return False
    if isinstance(node, (e.FloorDiv, e.Mod)) and _reads(node.right):
        return True  # a parameter of the sets cannot divide
    return isinstance(node, (e.Read, e.Flag, e.Among)) or any(_reads(c, scalars) for c in node.children())


class _Translation:
    """One translation: hands out names for existential variables and bounds the case distinctions."""

    def __init__(self, scalars: Mapping[e.Read, str], slots: bool, hard: Collection[e.Pred]) -> None:
        self.unknown: dict[e.Pred, None] = {}
        self._hard = hard
        self._scalars = scalars
        self._names = {"q_slot": "x", "k_slot": "y"} if slots else {"q": "x", "k": "y"}
        self._hidden = e.POSITIONS if slots else e.SLOTS
        self._fresh = count()
        self._written: dict[e.Node, e.Node] = {}
        self._cases = 0

    def pred(self, pred: e.Pred, most: bool) -> str:
        """A condition that holds wherever the predicate may (``most``), or only where it must."""
        if pred in self._hard:
            return self._open(pred, most)
        match pred:
            case e.Bool(value):
                return "true" if value else "false"
            case e.And(args):
                return self._join("and", (self.pred(a, most) for a in self._share_segments(args)), "true")
            case e.Or(args):
                return self._join("or", (self.pred(a, most) for a in args), "false")
            case e.Not(arg):
                return f"not ({self.pred(arg, not most)})"
            case e.Iff(left, right):
                (a, b), (c, d) = ((self.pred(left, side), self.pred(right, side)) for side in (most, not most))
                return f"((({a}) and ({b})) or (not ({c}) and not ({d})))"
            case e.Any(var, domain, body):
                return self._some(var, domain, body, pred, most)
            case e.All(var, domain, body):
                return f"not ({self._some(var, domain, e.Not(body), pred, not most)})"
            case e.Cmp():
                return self._join("or", (self._case(c, cmp, pred, most) for c, cmp in cases(pred)), "false")
            case e.Flag() | e.Among():
                return self._open(pred, most)
        raise TypeError(f"not a predicate: {type(pred).__name__}")

    def _open(self, pred: e.Pred, most: bool) -> str:
        """What cannot be decided."""
        self.unknown[replace(pred, self._written)] = None
        return "true" if most else "false"

    def _join(self, word: str, parts: Iterator[str], empty: str) -> str:
        texts = []
        for part in parts:
            self._cases += word == "or"
            if self._cases > _MAX_CASES:
                raise TooHard(f"a distinction of more than {_MAX_CASES:,} cases")
            texts.append(f"({part})")
        return f" {word} ".join(texts) or empty

    def _case(self, conditions: tuple[e.Pred, ...], cmp: e.Cmp, whole: e.Cmp, most: bool) -> str:
        return " and ".join([*(f"({self.pred(c, most)})" for c in conditions), self._compare(cmp, whole, most)])

    def _compare(self, cmp: e.Cmp, whole: e.Cmp, most: bool) -> str:
        if _reads(cmp, self._scalars) or contents.free(cmp) & self._hidden:
            return self._open(whole, most)
        try:
            return f"{self.term(cmp.left)} {'=' if cmp.op == '==' else cmp.op} {self.term(cmp.right)}"
        except _Product as product:
            if contents.free(product.node) & {v.name for v in self._written if isinstance(v, e.Var)}:
                raise  # a factor is a bound name: its values may be taken one by one
            return self._open(whole, most)

    def _some(self, var: str, domain: e.Domain, body: e.Pred, whole: e.Pred, most: bool) -> str:
        if contents.free(domain):
            raise NotAffine(whole, "a choice from a range that is not constant")
        if isinstance(domain, e.Range):
            fresh = e.Var(f"v{next(self._fresh)}")
            low, high = (self.term(end) for end in (domain.low, domain.high))
            before, unknown = self._cases, dict(self.unknown)
            self._written[fresh] = replace(e.Var(var), self._written)
            try:
                inner = self.pred(replace(body, {e.Var(var): fresh}), most)
                return f"exists {fresh.name} : {low} <= {fresh.name} < {high} and ({inner})"
            except NotAffine:  # the name stands where only a number is affine: take its values one by one
                self._cases, self.unknown = before, unknown
            finally:
                del self._written[fresh]
        return self._join("or", (self.pred(with_value(body, var, v), most) for v in domain_values(domain, {})), "false")

    def _share_segments(self, args: tuple[e.Pred, ...]) -> tuple[e.Pred, ...]:
        """Where ``q // c == k // c`` holds, write ``q // c`` for ``k // c`` beside it.

        Remainders within a segment then need one division and not two, which keeps the sets and their periods small.
        """
        row, key = self._names
        flat = tuple(_flatten(args))
        for fact in flat:
            match fact:
                case e.Cmp("==", e.FloorDiv(a, e.Int(c)), e.FloorDiv(b, e.Int(d))) if c == d:
                    if key in contents.free(a) and row in contents.free(b):
                        a, b = b, a
                    if key not in contents.free(b) or key in contents.free(a) or _reads(fact):
                        continue
                    base = e.FloorDiv(a, e.Int(c))
                    rest = e.Add((b, e.Mul(e.Int(-c), base)))
                    table: dict[e.Node, e.Node] = {e.FloorDiv(b, e.Int(c)): base, e.Mod(b, e.Int(c)): rest}
                    return tuple(f if f is fact else replace(f, table) for f in flat)
        return flat

    def term(self, node: e.IntExpr) -> str:
        match node:
            case e.Int(value):
                return str(value)
            case e.Var(name):
                return self._names.get(name, name)
            case e.Read() if node in self._scalars:
                return self._scalars[node]
            case e.Add(terms):
                return "(" + " + ".join(self.term(t) for t in terms) + ")"
            case e.Mul(left, right):
                if not isinstance(left, e.Int) and not isinstance(right, e.Int):
                    raise _Product(node)
                return f"({self.term(left)} * {self.term(right)})"
            case e.FloorDiv(left, right):
                return f"floor({self.term(left)} / {self._divisor(node, right)})"
            case e.Mod(left, right):
                return f"({self.term(_reduced(left, right))} mod {self._divisor(node, right)})"
            case e.Min(args):
                return f"min({', '.join(map(self.term, args))})" if len(args) > 1 else self.term(args[0])
            case e.Max(args):
                return f"max({', '.join(map(self.term, args))})" if len(args) > 1 else self.term(args[0])
            case e.Abs(arg):
                inner = self.term(arg)
                return f"max({inner}, -{inner})"
            case e.Sum(_, domain, _):
                if contents.free(domain):
                    raise NotAffine(node, "a sum over a range that is not constant")
                return self.term(unrolled(node))
            case e.Pow():
                raise NotAffine(node, "a power that is too large, or not constant")
        raise NotAffine(node, "not affine")

    def _divisor(self, node: e.IntExpr, right: e.IntExpr) -> int:
        if not isinstance(right, e.Int) or right.value <= 0:
            raise NotAffine(node, "a division by something that is not a positive constant")
        return right.value


_MANY_DIVISIONS = 8


def hardest(pred: e.Pred) -> tuple[e.Pred, ...]:
    """The parts of a predicate, none inside another, that divide often: those that a solver may find too hard."""
    if not isinstance(pred, (e.And, e.Or, e.Not, e.Iff)):
        return (pred,) if _divisions(pred) > _MANY_DIVISIONS else ()
    return tuple(part for child in pred.children() if isinstance(child, e.Pred) for part in hardest(child))


def _divisions(node: e.Node) -> int:
    """How many divisions a node has, those of all values that a bound name takes."""
    found = sum(map(_divisions, node.children())) + isinstance(node, (e.FloorDiv, e.Mod))
    if isinstance(node, (e.Any, e.All, e.Sum)) and found and not contents.free(node.domain):
        found *= len(domain_values(node.domain, {}))
    return found


def common_divisor(pred: e.Node) -> int:
    """The least common multiple of all divisors of a predicate, those that a bound name stands for included."""
    found = 1

    def visit(node: e.Node, bound: dict[str, tuple[int, ...]]) -> None:
        nonlocal found
        if isinstance(node, (e.FloorDiv, e.Mod)):
            known = [node.right.value] if isinstance(node.right, e.Int) else []
            for name in contents.free(node.right):
                known += bound.get(name, ())
            for value in known:
                found = lcm(found, abs(value) or 1)
        if isinstance(node, (e.Any, e.All, e.Sum)) and not contents.free(node.domain):
            bound = {**bound, node.var: domain_values(node.domain, {})}
        for child in node.children():
            visit(child, bound)

    visit(pred, {})
    return found


def _reduced(node: e.IntExpr, divisor: e.IntExpr) -> e.IntExpr:
    """The same modulo a divisor, without what is a multiple of it: ``(k % 8192) % 4`` is ``k % 4``.

    Fewer and smaller divisions keep the sets simple and their periods small.
    """
    if not isinstance(divisor, e.Int) or divisor.value <= 0:
        return node
    match node:
        case e.Mod(left, e.Int(value)) if value > 0 and value % divisor.value == 0:
            return _reduced(left, divisor)
        case e.Add(terms):
            kept = tuple(
                _reduced(t, divisor)
                for t in terms
                if not (isinstance(t, e.Mul) and isinstance(t.left, e.Int) and t.left.value % divisor.value == 0)
            )
            return e.Add(kept) if kept else e.Int(0)
    return node


def _flatten(args: tuple[e.Pred, ...]) -> Iterator[e.Pred]:
    for arg in args:
        if isinstance(arg, e.And):
            yield from _flatten(arg.args)
        else:
            yield arg
