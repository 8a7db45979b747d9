"""Inputs: their declarations, and the reads of their entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnspec.check.expressions.patterns import define
from attnspec.check.expressions.scope import HOLE, UNKNOWN, InputRef, Scope, Value
from attnspec.errors import clauses as clause
from attnspec.errors import values as wrong
from attnspec.errors.source import Span
from attnspec.language import tree as t
from attnspec.spec import expr as e
from attnspec.spec import make as s
from attnspec.spec.real import RealRead
from attnspec.spec.spec import Input, Random

if TYPE_CHECKING:
    from attnspec.check.expressions.rules import Elaborator

_OF_SIZES = frozenset({"batch", "heads", "kv_heads", "n", "n_q", "m", "?"})
_LEADING = {"batch": "b", "heads": "h"}
Index = tuple[e.IntExpr, Span]


def declare(el: Elaborator, node: t.Input, scope: Scope, seen: dict[str, Span]) -> Input:
    """The input that a line declares."""
    name = node.name.name
    define(node.name, f"`{name}`", seen, el.report)
    sizes = [_of_sizes(el, tree, scope, "the size of an input") for tree in node.sizes]
    for size, tree in zip(sizes, node.sizes, strict=True):
        if isinstance(size, e.Int) and size.value < 1:
            el.wrong(clause.bad_input(tree.span, "the size of an input must be positive", f"this is {size.value}"))
        if size == e.Var("n_q") and el.length == "m":
            title = "beside axes an input cannot have one entry for each query row"
            el.wrong(clause.bad_input(tree.span, title, "the rows of all axes", "give it the size of one axis"))
    if len(sizes) > clause.MAX_DIMENSIONS:
        span = node.sizes[clause.MAX_DIMENSIONS].span
        el.wrong(clause.bad_input(span, "an input has too many sizes", f"the limit is {clause.MAX_DIMENSIONS}"))
    form, random = "plain", None
    if isinstance(node.form, t.Random):
        random = _random(el, node.form, scope)
    elif node.form is not None:
        form = node.form.name
    if node.form is not None:
        word = "random" if isinstance(node.form, t.Random) else form
        if node.kind.name != "int":
            title = f"only an `int` input can be `{word}`"
            el.wrong(clause.bad_input(node.kind.span, title, f"this is `{node.kind.name}`"))
        elif not sizes and word != "random":
            el.wrong(clause.bad_input(node.form.span, f"a single number cannot be `{word}`", "the input has no sizes"))
        elif form == "offsets" and sizes[-1] not in (e.Var(el.length), HOLE):
            title = "the last size of an input of offsets must be `n`"
            help = "it is read by position; the call gives it as (..., documents + 1)"
            el.wrong(clause.bad_input(node.sizes[-1].span, title, "read as one number for each position", help))
    if name == "buckets" and el.ordered:
        help = "the order's buckets come under this name: choose another"
        el.wrong(clause.bad_input(node.name.span, "beside an order the input `buckets` is taken", "taken", help))
    return Input(name, node.kind.name, tuple(sizes), form, random)


def _random(el: Elaborator, node: t.Random, scope: Scope) -> Random:
    low = _of_sizes(el, node.domain.low, scope, "the range of a random input")
    high = _of_sizes(el, node.domain.high, scope, "the range of a random input")
    if isinstance(low, e.Int) and isinstance(high, e.Int) and low.value >= high.value:
        el.wrong(clause.bad_input(node.domain.span, "this range is empty", "there is nothing to draw from"))
    seed = el.constant(node.seed, scope, "a seed")
    if seed is not None and seed < 0:
        el.wrong(clause.bad_input(node.seed.span, "a seed must not be negative", f"this is {seed}"))
    return Random(low, high, seed or 0)


def _of_sizes(el: Elaborator, tree: t.Expr, scope: Scope, what: str) -> e.IntExpr:
    """An expression over the sizes of the call."""
    found = el.integer(tree, scope)
    if names := sorted((s.varies(found) | s.variables(found)) - _OF_SIZES):
        el.wrong(clause.size_reads(tree.span, what, names))
        return HOLE
    return found


def bare(el: Elaborator, ref: InputRef, span: Span) -> Value:
    """The name of an input alone: its entry if the batch entry and the head are all it takes, or the input itself."""
    leading = _leading(ref)
    return read(el, ref, (), span) if len(leading) == len(ref.input.sizes) else ref


def item(el: Elaborator, ref: InputRef, node: t.Item, scope: Scope) -> Value:
    """``doc[q]``, ``bias[h, q - k]``."""
    indices = _indices(el, node, scope)
    return UNKNOWN if indices is None else read(el, ref, indices, node.span)


def among(el: Elaborator, ref: InputRef, x: e.IntExpr, domain: t.Expr, scope: Scope) -> Value:
    """``x in top[b, h, q // 64]``, ``x in globals``."""
    if ref.input.kind != "int":
        title = f"`in` wants an input of integers, and `{ref.input.name}` is `{ref.input.kind}`"
        return el.wrong(clause.not_an_input_of(domain.span, title, f"this is `{ref.input.kind}`"))
    if ref.input.form != "plain":
        title = f"`in` wants a plain input, and `{ref.input.name}` is `{ref.input.form}`"
        return el.wrong(clause.not_an_input_of(domain.span, title, f"this is `{ref.input.form}`"))
    given = _indices(el, domain, scope) if isinstance(domain, t.Item) else ()
    if given is None:
        return UNKNOWN
    found = _complete(el, ref, given, domain.span, len(ref.input.sizes) - 1)
    return UNKNOWN if found is None else e.Among(x, ref.input.name, found)


def run(el: Elaborator, word: str, ref: InputRef, x: Index, span: Span) -> Value:
    """``first(doc, q)`` and ``last(doc, q)``."""
    name = ref.input.name
    if ref.input.form == "plain":
        title = f"`{word}` wants an input that is `sorted` or `offsets`, and `{name}` is neither"
        help = f"declare it `{name}: int[...] sorted` if its values never decrease"
        return el.wrong(clause.not_an_input_of(span, title, "its equal values need not stand together", help))
    found = _complete(el, ref, [x], span, len(ref.input.sizes))
    if found is None:
        return UNKNOWN
    place: e.IntExpr = e.Read(f"{name}.{word}", found)
    if _by_row(ref, len(found) - 1):
        place = s.add([place, e.Var("n"), s.negative(e.Var("n_q"))])
    return place


def read(el: Elaborator, ref: InputRef, given: Sequence[Index], span: Span) -> Value:
    """An entry of an input, at indices that may leave out the batch entry and the head."""
    if not ref.input.sizes and given:
        title = f"`{ref.input.name}` is a single number"
        return el.wrong(clause.not_an_input_of(span, title, "takes no index", f"write `{ref.input.name}` alone"))
    found = _complete(el, ref, given, span, len(ref.input.sizes))
    if found is None:
        return UNKNOWN
    if ref.input.kind == "bool":
        return e.Flag(ref.input.name, found)
    return e.Read(ref.input.name, found) if ref.input.kind == "int" else RealRead(ref.input.name, found)


def _indices(el: Elaborator, node: t.Item, scope: Scope) -> list[Index] | None:
    trees = (node.index, *node.more)
    found = [(el.integer(tree, scope), tree.span) for tree in trees]
    return None if any(x == HOLE for x, _ in found) and el.shallow is False else found


def _leading(ref: InputRef) -> list[e.IntExpr]:
    """What is read at the sizes that an index may leave out."""
    found: list[e.IntExpr] = []
    for size, name in zip(ref.input.sizes, ("batch", "heads"), strict=False):
        if size != e.Var(name):
            break
        found.append(e.Var(_LEADING[name]))
    if ref.input.sizes[:1] == (e.Var("heads"),):
        found.append(e.Var("h"))
    return found


def _complete(
    el: Elaborator, ref: InputRef, given: Sequence[Index], span: Span, wanted: int
) -> tuple[e.IntExpr, ...] | None:
    """All indices of a read, or None after a mistake."""
    leading = _leading(ref)[:wanted]
    missing = wanted - len(given)
    if not 0 <= missing <= len(leading):
        counts = [str(c) for c in range(wanted - len(leading), wanted + 1)]
        sizes = [str(size) for size in ref.input.sizes[:wanted]]
        shown = ["b" if x == "batch" else "h" if x == "heads" else "q" if x in ("n", "n_q") else "..." for x in sizes]
        dimensions = len(ref.input.sizes)
        el.wrong(clause.wrong_count(span, ref.input.name, ref.span, dimensions, shown, len(given), counts))
        return None
    indices = leading[:missing]
    for i, (index, place) in enumerate(given, missing):
        size = ref.input.sizes[i]
        if isinstance(size, e.Int):
            cases = el.constant_cases(index, place)
            bad = next((case for case in cases if not 0 <= case[0] < size.value), None)
            if bad is not None:
                el.wrong(wrong.index_outside(place, bad[0], size.value, bad[1], "input"))
                return None
        if _by_row(ref, i):
            index = s.add([index, s.negative(e.Var("n")), e.Var("n_q")])
        indices.append(index)
    return tuple(indices)


def _by_row(ref: InputRef, dimension: int) -> bool:
    """Whether a dimension is indexed by position and read by row."""
    return ref.by_row and ref.input.sizes[dimension] == e.Var("n_q")
