"""Tree to spec: names resolved, parameters bound, patterns written out, everything wrong reported at once.

>>> spec = check_text("attention local(width = 4) { attend 0 <= q - k < width }", params={"width": 2})
>>> print(spec)
attention local {
    attend 0 <= q - k and q - k < 2
}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnspec.check.body import body
from attnspec.check.expressions.collect import Report
from attnspec.check.expressions.elaborator import Elaborator, Stop
from attnspec.check.expressions.patterns import define, module
from attnspec.check.expressions.rules import elaborator
from attnspec.check.expressions.scope import UNKNOWN, Module, Scope, as_entry
from attnspec.check.parameters import bind_parameters, default_of, holes, write
from attnspec.errors.diagnostic import Diagnostic, SpecError
from attnspec.errors.names import defined_twice, which_attention
from attnspec.errors.source import Source, Span
from attnspec.errors.values import file_grows_too_large
from attnspec.language import tree as t
from attnspec.language.parse import Parsed, parse_all
from attnspec.spec.parts import Value
from attnspec.spec.spec import Spec

_MAX_SPENT = 300_000  # for all attentions of a file together


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an attention; ``default`` is None where a value must be given."""

    name: str
    default: Value | None


@dataclass(frozen=True, slots=True)
class Signature:
    """What an attention is called with."""

    name: str
    parameters: tuple[Parameter, ...]
    doc: str

    def __str__(self) -> str:
        given = (p.name if p.default is None else f"{p.name}={write(p.default)}" for p in self.parameters)
        return f"{self.name}({', '.join(given)})"


def check_text(
    text: str, name: str | None = None, params: Mapping[str, object] | None = None, filename: str = "<text>"
) -> Spec:
    """Check source text: the spec of its attention (or of the one named), or a SpecError with all mistakes."""
    source = Source(filename, text)
    parsed = parse_all(source)
    report = Report(source)
    patterns = module(parsed.file, report, parsed.lost)
    chosen: t.Attention | None = None
    try:
        chosen = attention_of(parsed.file, name)
    except SpecError as error:
        if parsed.complete:  # otherwise it may be in a part that did not parse
            report.add(error.diagnostics[0])
    _check_all(parsed.file, report, patterns, chosen)
    spec = _attention(elaborator(report), parsed.file, chosen, patterns, params or {}) if chosen else None
    if problems := _in_order(parsed, report):
        raise SpecError(problems)
    assert spec is not None
    return spec


def problems_of(source: Source) -> tuple[Diagnostic, ...]:
    """Every mistake in a file, whichever attention is meant and whatever its parameters will be."""
    try:
        parsed = parse_all(source)
    except SpecError as error:
        return error.diagnostics
    report = Report(source)
    _check_all(parsed.file, report, module(parsed.file, report, parsed.lost), None)
    if not parsed.file.items and not parsed.problems:
        report.add(which_attention(Span(source, 0, 0), [], None))
    return _in_order(parsed, report)


def _in_order(parsed: Parsed, report: Report) -> tuple[Diagnostic, ...]:
    """All mistakes, those of the syntax among the others, in the order of the source."""
    return tuple(sorted((*parsed.problems, *report.diagnostics()), key=lambda d: d.span.start))


def attention_of(file: t.File, name: str | None = None) -> t.Attention:
    """The attention that is meant: the one named, or the only one of a file."""
    named = [a for a in file.attentions if name is None or a.name.name == name]
    if len({a.name.name for a in named}) == 1:
        return named[0]
    names = list(dict.fromkeys(a.name.name for a in file.attentions))
    span = file.attentions[0].name.span if file.attentions else Span(file.source, 0, 0)
    raise SpecError([which_attention(span, names, name)])


def signature(file: t.File, name: str | None = None) -> Signature:
    """The parameters of an attention and their defaults.

    >>> from attnspec.language.parse import parse
    >>> text = "attention local(width = 4 * 2, rates = [1, 2], stride) { attend q == k }"
    >>> str(signature(parse(Source("demo", text))))
    'local(width=8, rates=[1, 2], stride)'
    """
    attention = attention_of(file, name)
    report = Report(file.source)
    el = elaborator(report)
    scope = Scope(module(file, report))
    parameters = []
    for parameter in attention.parameters:
        default = default_of(el, parameter, scope)
        scope = scope.bind(
            {parameter.name.name: UNKNOWN if default is None else as_entry(default, parameter.name.name)}
        )
        parameters.append(Parameter(parameter.name.name, default))
    report.check()
    return Signature(attention.name.name, tuple(parameters), _doc(file, attention))


def _check_all(file: t.File, report: Report, patterns: Module, chosen: t.Attention | None) -> None:
    """Check the names, arguments and types of everything, and the values of all attentions with default parameters."""
    seen: dict[str, Span] = {}
    spent = 0
    for item in file.items:
        el = elaborator(report, shallow=True)
        if isinstance(item, t.Attention):
            name = item.name.name
            if name in seen:  # any name will do: no expression refers to it
                report.add(defined_twice(item.name.span, f"the attention `{name}`", seen[name]))
            seen.setdefault(name, item.name.span)
        names: dict[str, Span] = {}
        for parameter in item.parameters:
            define(parameter.name, f"the parameter `{parameter.name.name}`", names, report)
        try:
            scope = holes(el, item, Scope(patterns))
            if isinstance(item, t.Pattern):
                el.pred(item.body, scope)
            else:
                body(el, item.clauses, scope, names)
        except Stop as stop:
            report.add(stop.diagnostic)
    for attention in file.attentions:
        if attention is chosen or any(p.default is None for p in attention.parameters):
            continue
        if spent > _MAX_SPENT:
            report.add(file_grows_too_large(attention.name.span, _MAX_SPENT))
            break
        el = elaborator(report)
        _attention(el, file, attention, patterns, {})
        spent += el.spent


def _attention(
    el: Elaborator, file: t.File, tree: t.Attention, patterns: Module, params: Mapping[str, object]
) -> Spec | None:
    before = len(el.report.mistakes)
    try:
        values = bind_parameters(el, tree, Scope(patterns), params)
        names = [p.name.name for p in tree.parameters]
        entries = {name: as_entry(values[name], name) if name in values else UNKNOWN for name in names}
        seen = {p.name.name: p.name.span for p in tree.parameters}
        parts = body(el, tree.clauses, Scope(patterns).bind(entries), seen)
    except Stop as stop:
        el.report.add(stop.diagnostic)
        return None
    if len(el.report.mistakes) > before:
        return None
    return Spec(
        name=tree.name.name,
        params=tuple(values.items()),
        attend=tuple(parts.attend),
        within=tuple(parts.within),
        align=parts.align,
        doc=_doc(file, tree),
        span=tree.span,
        mixture=tuple(part.branch for part in parts.mixture),
        detached=parts.detached,
        axes=tuple(axis for axis, _ in parts.axes),
        inputs=tuple(parts.inputs),
        order=parts.order,
        score=parts.lines.score,
        sink=parts.sink,
        scale=parts.lines.scale,
        rotations=tuple(rotation for rotation, _ in parts.lines.rotations),
        normalized=parts.lines.normalized,
        weights=parts.weights,
        recurrence=parts.recurrence,
    )


def _doc(file: t.File, tree: t.Attention) -> str:
    """What documents an attention; the string that opens the file where it has none of its own."""
    docs = [d.text for d in tree.docs] or ([file.doc.text] if file.doc else [])
    return "\n\n".join(docs)
