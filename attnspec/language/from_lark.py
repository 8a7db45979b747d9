"""Turn lark's parse tree into our own, without recursion, so that depth is an error and not a crash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from attnspec.errors.diagnostic import Diagnostic
from attnspec.errors.source import Source, Span
from attnspec.errors.syntax import MAX_NESTING, nested_bars, no_branch, stray_branch, stray_doc
from attnspec.language import tree as t

_MARGIN = 4  # levels that a file, an attention and a clause add around an expression

Piece = Any
"""A node of our tree or a token of lark; which one stands where is fixed by the grammar."""


class TooDeep(Exception):
    """Raised at the first node beyond the nesting limit."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(start, end)
        self.start, self.end = start, end


def build(root: Piece, source: Source) -> tuple[Piece, list[Diagnostic]]:
    """Our tree for lark's tree, with the mistakes that only show when the parts are put together."""
    problems: list[Diagnostic] = []
    values: list[Piece] = []
    work: list[tuple[Piece, int, bool]] = [(root, 0, False)]
    while work:
        node, depth, ready = work.pop()
        if not hasattr(node, "children"):
            values.append(node)
            continue
        if not ready:
            if depth > MAX_NESTING + _MARGIN:
                raise TooDeep(node.meta.start_pos, node.meta.end_pos)
            work.append((node, depth, True))
            work.extend((child, depth + 1, False) for child in reversed(node.children))
            continue
        cut = len(values) - len(node.children)
        parts = values[cut:]
        del values[cut:]
        start, end = (0, 0) if node.meta.empty else (node.meta.start_pos, node.meta.end_pos)
        end = min(end, len(source.text))  # a brace added in recovery may stand behind the end
        values.append(_RULES[str(node.data)](_Context(Span(source, start, end), problems), parts))
    return values[0], problems


@dataclass(frozen=True)
class _Context:
    span: Span
    problems: list[Diagnostic]

    def name(self, token: Piece) -> t.Name:
        """The name that a token spells."""
        return t.Name(self.of(token), str(token))

    def of(self, token: Piece) -> Span:
        """The place of a token."""
        return Span(self.span.source, token.start_pos, token.end_pos)


Rule = Callable[[_Context, list[Piece]], Piece]


def _file(at: _Context, parts: list[Piece]) -> t.File:
    doc: t.Doc | None = None
    pending: list[t.Doc] = []
    items: list[t.Pattern | t.Attention] = []
    for part in parts:
        if not isinstance(part, t.Node):
            pending.append(t.Doc(at.of(part)))
            continue
        assert isinstance(part, (t.Pattern, t.Attention))
        if not items and len(pending) == 2:
            doc = pending.pop(0)
        at.problems.extend(stray_doc(d.span) for d in pending[:-1])
        items.append(replace(part, docs=(*pending[-1:], *part.docs)))
        pending = []
    if not items and len(pending) == 1:
        doc = pending.pop()
    at.problems.extend(stray_doc(d.span) for d in pending)
    return t.File(at.span.source, doc, tuple(items))


def _split(at: _Context, parts: list[Piece]) -> tuple[tuple[t.Parameter, ...], tuple[t.Doc, ...], list[Piece]]:
    """The parameters, the docstring and the remaining parts of a definition."""
    parameters: tuple[t.Parameter, ...] = ()
    docs: list[t.Doc] = []
    rest: list[Piece] = []
    for part in parts:
        if isinstance(part, tuple):
            parameters = part
        elif isinstance(part, t.Node):
            rest.append(part)
        else:
            docs.append(t.Doc(at.of(part)))
    return parameters, tuple(docs), rest


def _pattern(at: _Context, parts: list[Piece]) -> t.Pattern:
    parameters, docs, (body,) = _split(at, parts[2:])
    return t.Pattern(at.span, at.name(parts[1]), parameters, body, docs)


def _attention(at: _Context, parts: list[Piece]) -> t.Attention:
    parameters, docs, clauses = _split(at, parts[2:])
    return t.Attention(at.span, at.name(parts[1]), parameters, _without_branches(at, clauses), docs)


def _parameter(at: _Context, parts: list[Piece]) -> t.Parameter:
    return t.Parameter(at.span, at.name(parts[0]), parts[1] if len(parts) > 1 else None)


def _let(at: _Context, parts: list[Piece]) -> t.Let:
    parameters = parts[2] if len(parts) == 4 else None
    return t.Let(at.span, at.name(parts[1]), parameters, parts[-1])


def _heads(at: _Context, parts: list[Piece]) -> t.Heads:
    span, name, domain = parts[0]
    _, docs, clauses = _split(at, parts[1:])
    return t.Heads(at.span, name, domain, docs[0] if docs else None, _without_branches(at, clauses), span)


def _mix(at: _Context, parts: list[Piece]) -> t.Mix:
    span, names, domain, detached = parts[0]
    _, docs, inner = _split(at, parts[1:])
    clauses = _without_branches(at, inner) if domain else _branches(at, inner)
    return t.Mix(at.span, names, domain, detached, docs[0] if docs else None, clauses, span)


def _mix_heading(at: _Context, parts: list[Piece]) -> tuple[Span, tuple[t.Name, ...], t.Domain | None, bool]:
    detached = parts[-1] == "detached"
    names, domain = (parts[1], parts[3]) if len(parts) > 2 else ((), None)
    return at.span, names, domain, detached


def _branch(at: _Context, parts: list[Piece]) -> t.Branch:
    span, names, domain, weight = parts[0]
    _, docs, clauses = _split(at, parts[1:])
    inner, doc = _without_branches(at, clauses), docs[0] if docs else None
    return t.Branch(at.span, names, domain, weight.get("times"), weight.get("share"), doc, inner, span)


def _branch_heading(
    at: _Context, parts: list[Piece]
) -> tuple[Span, tuple[t.Name, ...], t.Domain | None, dict[str, t.Expr]]:
    weight: dict[str, t.Expr] = {}
    while isinstance(parts[-1], dict):
        weight |= parts.pop()
    names, domain = (parts[2], parts[4]) if len(parts) > 1 else ((), None)
    return at.span, names, domain, weight


def _branches(at: _Context, clauses: list[Piece]) -> tuple[t.Clause, ...]:
    """The clauses of a mixture that is written as branches, without what means nothing there."""
    allowed = (t.Branch, t.Let, t.Within)
    at.problems.extend(no_branch(t.heading(c)) for c in clauses if not isinstance(c, allowed))
    return tuple(c for c in clauses if isinstance(c, allowed))


def _without_branches(at: _Context, clauses: list[Piece]) -> tuple[t.Clause, ...]:
    """The clauses of any other body, where a branch means nothing."""
    at.problems.extend(stray_branch(c.heading) for c in clauses if isinstance(c, t.Branch))
    return tuple(c for c in clauses if not isinstance(c, t.Branch))


def _axis(at: _Context, parts: list[Piece]) -> t.Axis:
    return t.Axis(at.span, at.name(parts[1]), parts[2], at.name(parts[3]) if len(parts) > 3 else None)


def _input(at: _Context, parts: list[Piece]) -> t.Input:
    _, name, kind, *rest = parts
    sizes = rest.pop(0) if rest and isinstance(rest[0], tuple) else ()
    return t.Input(at.span, at.name(name), at.name(kind), sizes, rest[0] if rest else None)


def _chain(parts: list[Piece]) -> tuple[t.Expr, tuple[tuple[str, t.Expr], ...]]:
    return parts[0], tuple((str(parts[i]), parts[i + 1]) for i in range(1, len(parts), 2))


def _linear(at: _Context, parts: list[Piece]) -> t.Linear:
    return t.Linear(at.span, parts[1] if len(parts) > 2 else None, parts[-1])


def _recur(at: _Context, parts: list[Piece]) -> t.Recur:
    return t.Recur(at.span, at.name(parts[1]), parts[3], parts[4] if len(parts) > 4 else None)


def _carry(at: _Context, parts: list[Piece]) -> t.Carry:
    options = {key: value for part in parts[3:] for key, value in part.items()}
    layered, detached = "layer" in options, "detached" in options
    return t.Carry(at.span, at.name(parts[1]), parts[2], options.get("last"), layered, detached)


def _recall(at: _Context, parts: list[Piece]) -> t.Recall:
    return t.Recall(at.span, parts[1], at.name(parts[3]), parts[5])


def _bars(at: _Context, parts: list[Piece]) -> t.Bars:
    work: list[Piece] = [parts[0]]
    while work:  # stop at anything that has brackets of its own
        node = work.pop()
        match node:
            case t.Bars(span):
                at.problems.append(nested_bars(span, at.span))
            case t.Arithmetic(_, first, rest) | t.Compare(_, first, rest):
                work += [first, *(x for _, x in rest)]
            case t.Negative(_, inner) | t.Not(_, inner):
                work.append(inner)
            case t.Power(_, base, exponent):
                work += [base, exponent]
            case t.If(_, cond, then, other):
                work += [cond, then, other]
            case t.Bind(_, _, _, t.Range(_, low, high), body):
                work += [low, high, body]
            case t.Bind(_, _, _, _, body):
                work.append(body)
            case t.And(_, args) | t.Or(_, args):
                work += args
    return t.Bars(at.span, parts[0])


def _call(at: _Context, parts: list[Piece]) -> t.Call:
    return t.Call(at.span, at.name(parts[0]), tuple(parts[1:]))


def _argument(at: _Context, parts: list[Piece]) -> t.Argument:
    return t.Argument(at.span, at.name(parts[0]) if len(parts) == 2 else None, parts[-1])


def _bind(at: _Context, parts: list[Piece]) -> t.Bind:
    word, var, _, domain, body = parts
    return t.Bind(at.span, str(word), at.name(var), domain, body)


_RULES: dict[str, Rule] = {
    "file": _file,
    "value": lambda at, p: p[0],
    "pattern": _pattern,
    "attention": _attention,
    "parameters": lambda at, p: tuple(p),
    "parameter": _parameter,
    "attend": lambda at, p: t.Attend(at.span, p[1]),
    "within": lambda at, p: t.Within(at.span, p[1]),
    "let": _let,
    "align": lambda at, p: t.Align(at.span, at.name(p[1])),
    "heads": _heads,
    "heading": lambda at, p: (at.span, at.name(p[1]), p[3]),
    "mix": _mix,
    "mix_heading": _mix_heading,
    "names": lambda at, p: tuple(at.name(x) for x in p),
    "detached": lambda at, p: "detached",
    "branch": _branch,
    "branch_heading": _branch_heading,
    "multiple": lambda at, p: {"times": p[1]},
    "share": lambda at, p: {"share": p[1]},
    "axis": _axis,
    "arrow": lambda at, p: t.Arrow(at.span, at.name(p[0]), at.name(p[1]), p[2]),
    "input": _input,
    "kept": lambda at, p: at.name(p[0]),
    "sizes": lambda at, p: tuple(p),
    "random": lambda at, p: t.Random(at.span, p[1], p[2]),
    "order": lambda at, p: t.Order(at.span, p[2]),
    "score": lambda at, p: t.Score(at.span, p[1]),
    "rotate": lambda at, p: t.Rotate(at.span, p[1]),
    "moved": lambda at, p: t.At(at.span, p[0], p[2], p[3]),
    "sink": lambda at, p: t.Sink(at.span, p[1]),
    "scale": lambda at, p: t.Scale(at.span, p[1]),
    "normalize": lambda at, p: t.Normalize(at.span, at.name(p[1])),
    "include": lambda at, p: t.Include(at.span, at.name(p[1]), tuple(p[2:])),
    "linear": _linear,
    "side": lambda at, p: at.name(p[0]),
    "divide": lambda at, p: t.Divide(at.span, len(p) > 2, p[-1]),
    "decay": lambda at, p: t.Decay(at.span, p[1]),
    "delta": lambda at, p: t.Delta(at.span, p[1]),
    "recur": _recur,
    "ragged": lambda at, p: at.name(p[1]),
    "carry": _carry,
    "targets": lambda at, p: tuple(at.name(x) for x in p),
    "last": lambda at, p: {"last": p[1]},
    "layered": lambda at, p: {"layer": True},
    "cut": lambda at, p: {"detached": True},
    "recall": _recall,
    "horizon": lambda at, p: t.Horizon(at.span, p[1]),
    "if_": lambda at, p: t.If(at.span, p[1], p[3], p[5]),
    "or_": lambda at, p: t.Or(at.span, tuple(p[::2])),
    "and_": lambda at, p: t.And(at.span, tuple(p[::2])),
    "negation": lambda at, p: t.Not(at.span, p[1]),
    "bind": _bind,
    "bind_sum": _bind,
    "compare": lambda at, p: t.Compare(at.span, *_chain(p)),
    "member": lambda at, p: t.Member(at.span, p[0], p[2], False),
    "not_member": lambda at, p: t.Member(at.span, p[0], p[3], True),
    "sum_": lambda at, p: t.Arithmetic(at.span, *_chain(p)),
    "product": lambda at, p: t.Arithmetic(at.span, *_chain(p)),
    "negative": lambda at, p: t.Negative(at.span, p[1]),
    "power": lambda at, p: t.Power(at.span, p[0], p[1]),
    "item": lambda at, p: t.Item(at.span, p[0], p[1], tuple(p[2:])),
    "field": lambda at, p: t.Field(at.span, p[0], at.name(p[1])),
    "at": lambda at, p: t.At(at.span, p[0], p[2], p[3]),
    "number": lambda at, p: t.Number(at.span),
    "decimal": lambda at, p: t.Decimal(at.span),
    "truth": lambda at, p: t.Truth(at.span, str(p[0]) == "true"),
    "name": lambda at, p: t.Name(at.span, str(p[0])),
    "call": _call,
    "argument": _argument,
    "every": lambda at, p: t.Argument(at.span, at.name(p[0]), at.name(p[1])),
    "bracket": lambda at, p: t.Bracket(at.span, p[0]),
    "tuple": lambda at, p: t.TupleOf(at.span, tuple(p)),
    "bars": _bars,
    "list": lambda at, p: t.ListOf(at.span, tuple(p)),
    "range": lambda at, p: t.Range(at.span, p[0], p[1]),
}
