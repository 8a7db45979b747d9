"""Mistakes about names: what they stand for, calls, and the parameters of attentions."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from attnspec.errors.catalogue import clip, diagnose, did_you_mean, nearest
from attnspec.errors.diagnostic import Diagnostic, Label
from attnspec.errors.foreign import brought
from attnspec.errors.source import Span

# Names and calls


def unknown_name(span: Span, name: str, own: Collection[str], known: Iterable[str]) -> Diagnostic:
    """A name that nothing defines: not the attention (its ``own`` names), nor what everyone knows."""
    close = nearest(name, {*own, *known})
    suggested = f"did you mean `{close}`?" if close else ""
    help = suggested if close in own else brought(name) or suggested
    if name == "_":
        help = "only a whole size of an input is `_`, as in `input top: int[batch, heads, _]`"
    return diagnose("E011", f"unknown name `{clip(name)}`", (span, "not defined"), help=help)


def attention_as_pattern(span: Span, name: str) -> Diagnostic:
    """``attend longformer``."""
    help = f"`include {name}` adds its clauses"
    return diagnose("E011", f"`{name}` is an attention, not a pattern", (span, "not a predicate"), help=help)


def unknown_field(span: Span, name: str) -> Diagnostic:
    """``q.something``."""
    help = brought(name) or "`q` and `k` are the positions; beside an order they have a `slot` and a `bucket`"
    return diagnose("E011", f"nothing has a field `{clip(name)}`", (span, "not defined"), help=help)


def reserved(span: Span, name: str) -> Diagnostic:
    """A definition of a name that has a meaning already."""
    return diagnose(
        "E012", f"the name `{name}` is reserved", (span, "cannot be defined"), help="choose another name",
        note="q k h b n n_q heads kv_heads batch and the words of expressions have a fixed meaning",
    )  # fmt: skip


def defined_twice(span: Span, what: str, first: Span) -> Diagnostic:
    """A second definition under one name."""
    return diagnose("E013", f"{what} is defined twice", (span, "defined again"), (first, "first defined here"))


def not_callable(span: Span, name: str, what: str) -> Diagnostic:
    """A call of an integer, a list, ..."""
    return diagnose("E014", f"`{clip(name)}` takes no arguments: it is {what}", (span, what))


def wrong_arguments(span: Span, title: str, label: str, *also: Label, help: str = "") -> Diagnostic:
    """Missing, surplus, repeated or misspelt arguments."""
    return diagnose("E015", title, (span, label), *also, help=help)


def recursion(names: list[str], labels: list[Label]) -> Diagnostic:
    """Patterns that use each other in a circle."""
    title = f"the pattern `{names[0]}` uses itself"
    circle = " -> ".join([*names, names[0]])
    return diagnose("E016", title, *labels, note=f"{circle}; a pattern must end in comparisons")


def circle_of_includes(names: list[str], labels: list[Label]) -> Diagnostic:
    """Attentions that include each other in a circle."""
    circle = " -> ".join([*names, names[0]])
    help = "inside the file an attention hides the shipped one of its name: call it something else to include that"
    return diagnose("E016", f"the attention `{names[0]}` includes itself", *labels, note=circle, help=help)


def unknown_attention(span: Span, name: str, known: Iterable[str], is_pattern: bool) -> Diagnostic:
    """``include name`` of what is neither in the file nor shipped."""
    help = did_you_mean(name, known) or "attentions of this file and shipped ones (`attnspec list`) can be included"
    if is_pattern:
        help = f"it is a pattern: `attend {name}`"
    return diagnose("E011", f"there is no attention `{clip(name)}`", (span, "not defined"), help=help)


def too_many_includes(span: Span, limit: int) -> Diagnostic:
    """Attentions that include attentions, too often."""
    return diagnose("E007", "attentions include each other too deeply", (span, f"the limit is {limit} levels"))


# Which attention, which parameters


def which_attention(span: Span, names: list[str], wanted: str | None) -> Diagnostic:
    """No attention of that name, none at all, or several without a choice."""
    if not names:
        return diagnose("E017", "there is no attention in this file", (span, "no `attention` here"))
    listed = ", ".join(f"`{name}`" for name in names)
    if wanted is None:
        name = span.source.name
        help = f"name one of them, as in `{clip(name)}:{names[0]}`"
        if not name.endswith(".attn"):
            help = f"write them to a file and name one of them, as in `file.attn:{names[0]}`"
        return diagnose("E017", "this file has several attentions", (span, f"it has {listed}"), help=help)
    return diagnose(
        "E017", f"there is no attention `{clip(wanted)}`", (span, f"this file has {listed}"),
        help=did_you_mean(wanted, names),
    )  # fmt: skip


def unknown_parameter(span: Span, attention: str, name: str, known: list[str]) -> Diagnostic:
    """A value given for a parameter that the attention does not have."""
    has = "its parameters are " + ", ".join(f"`{k}`" for k in known) if known else "it has no parameters"
    return diagnose(
        "E018", f"`{attention}` has no parameter `{clip(name)}`", (span, has), help=did_you_mean(name, known)
    )


def missing_parameter(span: Span, attention: str, name: str) -> Diagnostic:
    """A parameter without default and without a given value."""
    return diagnose(
        "E019", f"the parameter `{name}` of `{attention}` needs a value", (span, "has no default"),
        help=f"give one, as in `{name}=1`",
    )  # fmt: skip


def wrong_parameter_type(span: Span, name: str, wanted: str, got: str) -> Diagnostic:
    """A given value of another type than the default."""
    help = "a parameter whose default is a real number, as in `4.0`, takes any number" if got == "a real number" else ""
    title = f"the parameter `{name}` is {wanted}, but was given {got}"
    return diagnose("E020", title, (span, f"this is {wanted}"), help=help if wanted == "an integer" else "")


def unusable_parameter(span: Span, name: str, got: str) -> Diagnostic:
    """A given value that is of no type the language has."""
    return diagnose(
        "E020", f"the parameter `{name}` cannot be {got}", (span, "a number, a boolean or a list is wanted")
    )
