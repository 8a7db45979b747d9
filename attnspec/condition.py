"""A predicate as a condition in isl's syntax, over ``x`` (query position), ``y`` (key position) and parameters."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from math import lcm

from attnspec import expr as e
from attnspec.bind import bind
from attnspec.evaluate import domain_values
from attnspec.presburger import TooHard
from attnspec.rewrite import cases, replace

_MAX_CASES = 4096


class NotAffine(Exception):
    """A node that has no affine form, and why."""

    def __init__(self, node: e.Node, why: str) -> None:
        super().__init__(f"{node} is {why}")
        self.node, self.why = node, why


def head_constants(node: e.Node) -> frozenset[str]:
    """Which of h, heads, kv_heads, batch stand where a number is needed: factor, divisor, exponent, index, range."""
    found: set[str] = set()
    moving = e.POSITIONS | e.SIZES | e.CONSTANTS

    def visit(item: e.Node) -> None:
        places: tuple[e.Node, ...] = ()
        match item:
            case e.Mul(left, right) if e.free(left) and e.free(right):
                places = tuple(side for side in (left, right) if e.free(side) & moving <= e.CONSTANTS)
            case e.FloorDiv(_, right) | e.Mod(_, right):
                places = (right,)
            case e.Pow(base, exponent):
                places = (base, exponent)
            case e.Index(_, indices):
                places = tuple(i for i in indices if e.free(i) & moving <= e.CONSTANTS)
            case e.Any(_, domain, _) | e.All(_, domain, _) | e.Sum(_, domain, _):
                places = (domain,)
        for place in places:
            found.update(e.free(place) & e.CONSTANTS)
        for child in item.children():
            visit(child)

    visit(node)
    return frozenset(found)


def condition(pred: e.Pred) -> str:
    """The condition. Raises NotAffine where there is none."""
    return _Translation().pred(pred)


class _Translation:
    """One translation: hands out names for existential variables and bounds the case distinctions."""

    def __init__(self) -> None:
        self._fresh = count()
        self._cases = 0

    def pred(self, pred: e.Pred) -> str:
        match pred:
            case e.Bool(value):
                return "true" if value else "false"
            case e.And(args):
                return self._join("and", (self.pred(a) for a in _share_segments(args)), "true")
            case e.Or(args):
                return self._join("or", (self.pred(a) for a in args), "false")
            case e.Not(arg):
                return f"not ({self.pred(arg)})"
            case e.Iff(left, right):
                a, b = self.pred(left), self.pred(right)
                return f"((({a}) and ({b})) or (not ({a}) and not ({b})))"
            case e.Any(var, domain, body):
                return self._some(var, domain, body, pred)
            case e.All(var, domain, body):
                return f"not ({self._some(var, domain, e.Not(body), pred)})"
            case e.Cmp():
                return self._join("or", (self._case(c, cmp) for c, cmp in cases(pred)), "false")
        raise TypeError(f"not a predicate: {type(pred).__name__}")

    def _join(self, word: str, parts: Iterator[str], empty: str) -> str:
        texts = []
        for part in parts:
            self._cases += word == "or"
            if self._cases > _MAX_CASES:
                raise TooHard(f"a distinction of more than {_MAX_CASES:,} cases")
            texts.append(f"({part})")
        return f" {word} ".join(texts) or empty

    def _case(self, conditions: tuple[e.Pred, ...], cmp: e.Cmp) -> str:
        return " and ".join([*(f"({self.pred(c)})" for c in conditions), self._compare(cmp)])

    def _compare(self, cmp: e.Cmp) -> str:
        return f"{self.term(cmp.left)} {'=' if cmp.op == '==' else cmp.op} {self.term(cmp.right)}"

    def _some(self, var: str, domain: e.Domain, body: e.Pred, whole: e.Pred) -> str:
        if e.free(domain):
            raise NotAffine(whole, "a choice from a range that is not constant")
        if isinstance(domain, e.Range):
            fresh = f"v{next(self._fresh)}"
            low, high = (self.term(end) for end in (domain.low, domain.high))
            before = self._cases
            try:
                inner = self.pred(replace(body, {e.Var(var): e.Var(fresh)}))  # type: ignore[arg-type]
                return f"exists {fresh} : {low} <= {fresh} < {high} and ({inner})"
            except NotAffine:  # the name stands where only a number is affine: take its values one by one
                self._cases = before
        return self._join("or", (self.pred(bind(body, {var: v})) for v in domain_values(domain, {})), "false")

    def term(self, node: e.IntExpr) -> str:
        match node:
            case e.Int(value):
                return str(value)
            case e.Var(name):
                return {"q": "x", "k": "y"}.get(name, name)
            case e.Add(terms):
                return "(" + " + ".join(self.term(t) for t in terms) + ")"
            case e.Mul(left, right):
                if not isinstance(left, e.Int) and not isinstance(right, e.Int):
                    raise NotAffine(node, "a product of two values that are not constant")
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
            case e.Sum(var, domain, body):
                if e.free(domain):
                    raise NotAffine(node, "a sum over a range that is not constant")
                parts = [self.term(bind(body, {var: v})) for v in domain_values(domain, {})]
                return f"({' + '.join(parts)})" if parts else "0"
            case e.Pow():
                raise NotAffine(node, "a power that is too large, or not constant")
        raise NotAffine(node, "not affine")

    def _divisor(self, node: e.IntExpr, right: e.IntExpr) -> int:
        if not isinstance(right, e.Int) or right.value <= 0:
            raise NotAffine(node, "a division by something that is not a positive constant")
        return right.value


def common_divisor(pred: e.Node) -> int:
    """The least common multiple of all divisors of a predicate, those that a bound name stands for included."""
    found = 1

    def visit(node: e.Node, bound: dict[str, tuple[int, ...]]) -> None:
        nonlocal found
        if isinstance(node, (e.FloorDiv, e.Mod)):
            known = [node.right.value] if isinstance(node.right, e.Int) else []
            for name in e.free(node.right):
                known += bound.get(name, ())
            for value in known:
                found = lcm(found, abs(value) or 1)
        if isinstance(node, (e.Any, e.All, e.Sum)) and not e.free(node.domain):
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


def _share_segments(args: tuple[e.Pred, ...]) -> tuple[e.Pred, ...]:
    """Where ``q // c == k // c`` holds, write ``q // c`` for ``k // c`` beside it.

    Remainders within a segment then need one division and not two, which keeps the sets and their periods small.
    """
    flat = tuple(_flatten(args))
    for fact in flat:
        match fact:
            case e.Cmp("==", e.FloorDiv(a, e.Int(c)), e.FloorDiv(b, e.Int(d))) if c == d:
                if "k" in e.free(a) and "q" in e.free(b):
                    a, b = b, a
                if "k" not in e.free(b) or "k" in e.free(a):
                    continue
                base = e.FloorDiv(a, e.Int(c))
                rest = e.Add((b, e.Mul(e.Int(-c), base)))
                table: dict[e.Node, e.Node] = {e.FloorDiv(b, e.Int(c)): base, e.Mod(b, e.Int(c)): rest}
                return tuple(f if f is fact else replace(f, table) for f in flat)  # type: ignore[misc]
    return flat


def _flatten(args: tuple[e.Pred, ...]) -> Iterator[e.Pred]:
    for arg in args:
        if isinstance(arg, e.And):
            yield from _flatten(arg.args)
        else:
            yield arg
