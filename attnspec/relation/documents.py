"""Document-local positions made plain: where ``doc[q] == doc[k]`` holds, ``first(doc, k)`` is ``first(doc, q)``.

Then ``q - first(doc, q) - (k - first(doc, k))`` is ``q - k``, which needs no input, and a window that restarts in each
document is a window inside documents.

>>> from attnspec.check.check import check_text
>>> local = "attend doc[q] == doc[k] and q - first(doc, q) - (k - first(doc, k)) < 4"
>>> print(plain(check_text(f"attention a {{ input doc: int[n] sorted {local} }}").pred))
doc[q] == doc[k] and q - k < 4
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attnspec.spec import contents, make
from attnspec.spec import expr as e
from attnspec.spec.rewrite import replace

_DERIVED = ("first", "last")


def plain(pred: e.Pred, given: Iterable[e.Pred] = ()) -> e.Pred:
    """The same predicate with the positions of a document's edges put in terms of the query's, and cancelled.

    ``given`` are predicates that hold beside it. Where a read lies outside its input, the equality itself is false.
    """
    pred = plain(pred) if given else pred  # decided, where it can be, before the key's edges become the query's
    for fact in given:
        for part in fact.args if isinstance(fact, e.And) else (fact,):
            edges = dict(_edges(part))
            if edges:
                pred = _cancelled(replace(pred, edges))
    match pred:
        case e.And(args):
            flat = [plain(a) for a in args]
            for fact in flat:
                edges = dict(_edges(fact))
                if edges:
                    flat = [f if f == fact else _cancelled(replace(f, edges)) for f in flat]
            return make.conjunction(flat)
        case e.Or(args):
            return make.disjunction([plain(a) for a in args])
        case e.Not(arg):
            return make.negation(plain(arg))
        case e.Cmp() if _outside(pred):
            return e.Bool(False)
    return pred


def _outside(atom: e.Cmp) -> bool:
    """Whether a comparison asks for a place before a document's first position or behind its last.

    >>> from attnspec.check.check import check_text
    >>> local = "attend k - first(doc, k) < 0  attend q == k"
    >>> print(plain(check_text(f"attention a {{ input doc: int[n] sorted {local} }}").pred))
    q == k
    """
    factors = _factors(make.add([atom.left, make.negative(atom.right)]))
    constant = factors.pop(e.Int(1), 0)
    edges = [part for part in factors if isinstance(part, e.Read) and part.name.endswith((".first", ".last"))]
    if len(factors) != 2 or len(edges) != 1:
        return False
    edge = edges[0]
    sign = -factors[edge] if edge.name.endswith(".first") else factors[edge]  # of a distance that is never negative
    other = edge.indices[-1]
    if abs(sign) != 1 or factors.get(other) != -factors[edge]:
        return False
    ends = {"<": -1, "<=": 0, "==": 0} if sign > 0 else {">": -1, ">=": 0, "==": 0}
    return atom.op in ends and constant * sign > ends[atom.op]


def both_sides(pred: e.Pred) -> e.Pred:
    """The same predicate, with what it says of the edges of the query's document said of the key's document too.

    Of a tile of keys alone the one tells nothing, the other which of its keys begin a document.

    >>> from attnspec.check.check import check_text
    >>> local = "within doc[q] == doc[k]  attend k - first(doc, k) < 4"
    >>> print(both_sides(plain(check_text(f"attention a {{ input doc: int[n] sorted {local} }}").pred)))
    k - first(doc, q) < 4 and doc[q] == doc[k] and k - first(doc, k) < 4
    """
    if not isinstance(pred, e.And):
        return pred
    parts = list(_flat(pred))
    table = {query: key for part in parts for key, query in _edges(part)}
    return make.conjunction([*parts, *(other for part in parts if (other := replace(part, table)) not in parts)])


def _flat(pred: e.Pred) -> Iterator[e.Pred]:
    """What a predicate is the conjunction of."""
    for arg in pred.args if isinstance(pred, e.And) else ():
        yield from _flat(arg)
    if not isinstance(pred, e.And):
        yield pred


def _edges(fact: e.Pred) -> Iterator[tuple[e.Node, e.Node]]:
    """What may replace what because of an equality of two entries of one input."""
    match fact:
        case e.Cmp("==", e.Read(name, left), e.Read(other, right)) if name == other and left[:-1] == right[:-1]:
            if "k" in contents.free(left[-1]):
                left, right = right, left
            if "k" in contents.free(right[-1]) and "k" not in contents.free(left[-1]):
                for edge in _DERIVED:
                    yield e.Read(f"{name}.{edge}", right), e.Read(f"{name}.{edge}", left)


def _cancelled(node: e.Pred) -> e.Pred:
    """The same with sums collected: ``x + y - x`` is ``y``."""
    return collected(node)  # type: ignore[return-value]


def collected(node: e.Node) -> e.Node:
    """The same with the terms of sums of integers put together."""
    inner = node.map(collected)
    if not isinstance(inner, e.Add):
        return inner
    terms = [make.multiply(e.Int(f), part) for part, f in _factors(inner).items() if f]
    return make.add(terms) if terms else e.Int(0)


def _factors(node: e.IntExpr) -> dict[e.IntExpr, int]:
    """The terms of a sum, each with its factor; the constant stands beside 1."""
    factors: dict[e.IntExpr, int] = {}
    for factor, part in _parts(node, 1):
        factors[part] = factors.get(part, 0) + factor
    return factors


def _parts(node: e.IntExpr, factor: int) -> Iterator[tuple[int, e.IntExpr]]:
    """The terms of nested sums, each with its factor; constants as multiples of 1."""
    match node:
        case e.Add(terms):
            for term in terms:
                yield from _parts(term, factor)
        case e.Mul(e.Int(value), right):
            yield from _parts(right, factor * value)
        case e.Int(value):
            yield factor * value, e.Int(1)
        case _:
            yield factor, node
