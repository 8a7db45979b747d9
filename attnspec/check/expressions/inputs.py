"""The reads of the entries of inputs."""

from __future__ import annotations

from collections.abc import Sequence

from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.outside import always_outside
from attnspec.check.expressions.scope import HOLE, UNKNOWN, InputRef, Scope, Value
from attnspec.errors.clauses import not_an_input_of, wrong_count
from attnspec.errors.source import Span
from attnspec.errors.values import always_outside_input, index_outside
from attnspec.language import tree as t
from attnspec.spec import expr as e
from attnspec.spec import make
from attnspec.spec.real import RealRead

_LEADING = {"batch": "b", "heads": "h"}
Index = tuple[e.IntExpr, Span]


def value_or_input(el: Elaborator, node: t.Expr, scope: Scope) -> Value:
    """An input by its name alone, and otherwise the value of an expression."""
    while isinstance(node, t.Bracket):
        node = node.inner
    if isinstance(node, t.Name):
        entry = scope.names.get(node.name)
        if isinstance(entry, InputRef):
            return entry
    return el.expr(node, scope)


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
        return el.wrong(not_an_input_of(domain.span, title, f"this is `{ref.input.kind}`"))
    if ref.input.form != "plain":
        title = f"`in` wants a plain input, and `{ref.input.name}` is `{ref.input.form}`"
        return el.wrong(not_an_input_of(domain.span, title, f"this is `{ref.input.form}`"))
    given = _indices(el, domain, scope) if isinstance(domain, t.Item) else ()
    if given is None:
        return UNKNOWN
    indices = _complete(el, ref, given, domain.span, len(ref.input.sizes) - 1)
    return UNKNOWN if indices is None else e.Among(x, ref.input.name, indices)


def run(el: Elaborator, word: str, ref: InputRef, x: Index, span: Span) -> Value:
    """``first(doc, q)`` and ``last(doc, q)``."""
    name = ref.input.name
    if ref.input.form == "plain":
        title = f"`{word}` wants an input that is `sorted` or `offsets`, and `{name}` is neither"
        help = f"declare it `{name}: int[...] sorted` if its values never decrease"
        return el.wrong(not_an_input_of(span, title, "its equal values need not stand together", help))
    indices = _complete(el, ref, [x], span, len(ref.input.sizes))
    if indices is None:
        return UNKNOWN
    place: e.IntExpr = e.Read(f"{name}.{word}", indices)
    if _by_row(ref, len(indices) - 1):
        place = make.add([place, e.Var("n"), make.negative(e.Var("n_q"))])
    return place


def read(el: Elaborator, ref: InputRef, given: Sequence[Index], span: Span) -> Value:
    """An entry of an input, at indices that may leave out the batch entry and the head."""
    if not ref.input.sizes and given:
        title = f"`{ref.input.name}` is a single number"
        return el.wrong(not_an_input_of(span, title, "takes no index", f"write `{ref.input.name}` alone"))
    indices = _complete(el, ref, given, span, len(ref.input.sizes))
    if indices is None:
        return UNKNOWN
    if ref.input.kind == "bool":
        return e.Flag(ref.input.name, indices)
    return e.Read(ref.input.name, indices) if ref.input.kind == "int" else RealRead(ref.input.name, indices)


def _indices(el: Elaborator, node: t.Item, scope: Scope) -> list[Index] | None:
    trees = (node.index, *node.more)
    indices = [(el.integer(tree, scope), tree.span) for tree in trees]
    return None if any(x == HOLE for x, _ in indices) and el.shallow is False else indices


def _leading(ref: InputRef) -> list[e.IntExpr]:
    """What is read at the sizes that an index may leave out."""
    leading: list[e.IntExpr] = []
    for size, name in zip(ref.input.sizes, ("batch", "heads"), strict=False):
        if size != e.Var(name):
            break
        leading.append(e.Var(_LEADING[name]))
    if ref.input.sizes[:1] == (e.Var("heads"),):
        leading.append(e.Var("h"))
    return leading


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
        el.wrong(wrong_count(span, ref.input.name, ref.span, dimensions, shown, len(given), counts))
        return None
    indices = leading[:missing]
    for i, (index, place) in enumerate(given, missing):
        size = ref.input.sizes[i]
        if isinstance(size, e.Int):
            cases = el.constant_cases(index, place)
            bad = next((case for case in cases if not 0 <= case[0] < size.value), None)
            if bad is not None:
                el.wrong(index_outside(place, bad[0], size.value, bad[1], "input"))
                return None
        if _by_row(ref, i):
            index = make.add([index, make.negative(e.Var("n")), e.Var("n_q")])
        if not el.has_axes:
            of_queries = size == e.Var("n_q")
            if any(always_outside(index, size, el.from_start, longer) for longer in (False, of_queries)):
                el.wrong(always_outside_input(place, ref.input.name, str(size), of_queries))
                return None
        indices.append(index)
    return tuple(indices)


def _by_row(ref: InputRef, dimension: int) -> bool:
    """Whether a dimension is indexed by position and read by row."""
    return ref.by_row and ref.input.sizes[dimension] == e.Var("n_q")
