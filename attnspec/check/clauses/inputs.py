"""The inputs that lines declare."""

from __future__ import annotations

from attnspec.check.expressions.elaborator import Elaborator
from attnspec.check.expressions.patterns import define
from attnspec.check.expressions.scope import HOLE, Bound, Scope
from attnspec.errors.clauses import MAX_DIMENSIONS, bad_input, size_reads
from attnspec.errors.source import Span
from attnspec.language import tree as t
from attnspec.spec import contents
from attnspec.spec import expr as e
from attnspec.spec.parts import ANY_SIZE, VECTOR_SIZES, Input, Random

_OF_SIZES = frozenset({"batch", "heads", "kv_heads", "n", "n_q", "m", "?"}) | VECTOR_SIZES


def declare(el: Elaborator, node: t.Input, scope: Scope, seen: dict[str, Span]) -> Input:
    """The input that a line declares."""
    name = node.name.name
    define(node.name, f"`{name}`", seen, el.report)
    free = {x: Bound(e.Var(x), 1, 1) for x in VECTOR_SIZES if x not in scope.names}
    inner = scope if isinstance(node.form, t.Random) else scope.bind(free)
    sizes = [
        ANY_SIZE if _is_any(tree, scope) else _of_sizes(el, tree, inner, "the size of an input") for tree in node.sizes
    ]
    for size, tree in zip(sizes, node.sizes, strict=True):
        if size == ANY_SIZE and isinstance(node.form, t.Random):
            help = "a call need not give it: write how many there are"
            el.wrong(bad_input(tree.span, "a size of what is drawn must be known", "this is whatever comes", help))
        if isinstance(size, e.Int) and size.value < 1:
            el.wrong(bad_input(tree.span, "the size of an input must be positive", f"this is {size.value}"))
        if size == e.Var("n_q") and el.length == "m":
            title = "beside axes an input cannot have one entry for each query row"
            el.wrong(bad_input(tree.span, title, "the rows of all axes", "give it the size of one axis"))
    if len(sizes) > MAX_DIMENSIONS:
        span = node.sizes[MAX_DIMENSIONS].span
        el.wrong(bad_input(span, "an input has too many sizes", f"the limit is {MAX_DIMENSIONS}"))
    form, random = "plain", None
    if isinstance(node.form, t.Random):
        random = _random(el, node.form, scope)
    elif node.form is not None:
        form = node.form.name
    if node.form is not None:
        word = "random" if isinstance(node.form, t.Random) else form
        if node.kind.name != "int":
            title = f"only an `int` input can be `{word}`"
            el.wrong(bad_input(node.kind.span, title, f"this is `{node.kind.name}`"))
        elif not sizes and word != "random":
            el.wrong(bad_input(node.form.span, f"a single number cannot be `{word}`", "the input has no sizes"))
        elif form == "offsets" and sizes[-1] not in (e.Var(el.length), HOLE):
            title = "the last size of an input of offsets must be `n`"
            help = "it is read by position; the call gives it as (..., documents + 1)"
            el.wrong(bad_input(node.sizes[-1].span, title, "read as one number for each position", help))
    if name == "buckets" and el.ordered:
        help = "the order's buckets come under this name: choose another"
        el.wrong(bad_input(node.name.span, "beside an order the input `buckets` is taken", "taken", help))
    return Input(name, node.kind.name, tuple(sizes), form, random)


def _random(el: Elaborator, node: t.Random, scope: Scope) -> Random:
    low = _of_sizes(el, node.domain.low, scope, "the range of a random input")
    high = _of_sizes(el, node.domain.high, scope, "the range of a random input")
    if isinstance(low, e.Int) and isinstance(high, e.Int) and low.value >= high.value:
        el.wrong(bad_input(node.domain.span, "this range is empty", "there is nothing to draw from"))
    seed = el.constant(node.seed, scope, "a seed")
    if seed is not None and seed < 0:
        el.wrong(bad_input(node.seed.span, "a seed must not be negative", f"this is {seed}"))
    return Random(low, high, seed or 0)


def _is_any(tree: t.Expr, scope: Scope) -> bool:
    """Whether a size is ``_``, whatever comes: unless the attention has given something that name."""
    return isinstance(tree, t.Name) and e.Var(tree.name) == ANY_SIZE and tree.name not in scope.names


def _of_sizes(el: Elaborator, tree: t.Expr, scope: Scope, what: str) -> e.IntExpr:
    """An expression over the sizes of the call."""
    size = el.integer(tree, scope)
    if names := sorted(set(contents.names(size)) - _OF_SIZES):
        el.wrong(size_reads(tree.span, what, names))
        return HOLE
    return size
