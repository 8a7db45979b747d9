"""What lines about weights may stand beside: each other, other lines, and the branches of a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attnspec.check.clauses.attend import Part
from attnspec.check.clauses.weights import Lines, on_top
from attnspec.check.expressions.elaborator import Elaborator
from attnspec.errors.clauses import no_meaning, weights_mistake
from attnspec.errors.source import Span

Others = Mapping[str, Span]
"""The other lines of a body, by their words."""


def beside(el: Elaborator, common: Lines, others: Others, parts: Sequence[Part]) -> None:
    """Check the lines of a body, and those of the branches of its mixture if it has one."""
    if all(part.branch.alike for part in parts):
        _together(el, common, others)
        return
    kept = {word: span for word, span in others.items() if word not in ("mix", "detached", "sink")}
    for part in parts:
        sinks = {"sink": others["sink"]} if part.share is not None and "sink" in others else {}
        lines = on_top(el, common, part.weighs)
        _together(el, lines, {**kept, **sinks, **part.first})
        if part.share is None and lines.weights.linear:
            _by_total(el, lines)


def _by_total(el: Elaborator, lines: Lines) -> None:
    """A branch that is mixed with others by the total of its weights."""
    span, help = lines.first["linear"], "or give each branch its `share`"
    if not lines.weights.divides_by_total:
        title, help = "branches are mixed by what they are divided by: their totals", f"write `divide total`, {help}"
        el.wrong(weights_mistake(span, title, "not divided by its total", help=help))
    elif not lines.weights.never_negative:
        help = f"take features that cannot be, as `elu(x) + 1` or `softmax(x)`, {help}"
        el.wrong(
            weights_mistake(span, "branches are mixed by totals, which are positive", "may be negative", help=help)
        )


def _together(el: Elaborator, lines: Lines, others: Others) -> None:
    """What may not stand beside each other; ``others`` are the other lines of the body, by their words."""
    weights, first = lines.weights, lines.first
    for side, other in (("q", "k"), ("k", "q")):
        if side in lines.features and other not in lines.features:
            span = first[f"linear {side}:"]
            help = f"write `linear {other}: ...` too, or `linear ...` for both"
            el.wrong(weights_mistake(span, f"`linear {other}:` is missing", "of one side only", help=help))
            return
    if not weights.linear:
        why = {
            "divide": "softmax divides by its total already",
            "delta": "keys recall values by products of features: add a `linear` line",
        }
        for word, help in why.items():
            if word in first:
                el.wrong(no_meaning(first[word], word, "without `linear`", help=help))
        if weights.by_channel:
            title = "beside softmax a decay has no channels"
            help = "a pair has one score; features decay by channel: add a `linear` line"
            el.wrong(weights_mistake(first["decay"], title, "reads `c`", help=help))
    else:
        _beside_linear(el, lines, others)
    if "order" in others and any(found.stable == "running" for found in weights.favors):
        order = (others["order"], "an order")
        el.wrong(no_meaning(first["linear"], "stable = running", "beside an order", order))
    if "projection" in others and weights.favors:
        title, taken = "beside `favor` the input `projection` is taken", (first["linear"], "random features")
        help = "the directions of `favor` come under this name: choose another"
        el.wrong(weights_mistake(others["projection"], title, "taken", taken, help=help))
    for word, what in (("axis", "axes"), ("order", "an order"), ("mix", "a mixture")):
        if word not in others:
            continue
        if weights.delta is not None:
            help = "write it inside a branch" if word == "mix" else ""
            el.wrong(no_meaning(first["delta"], "delta", f"beside {what}", (others[word], what), help=help))
        if weights.decay is not None and word == "axis":
            help = "positions of two axes have no steps between them"
            el.wrong(no_meaning(first["decay"], "decay", "beside axes", (others[word], "an axis"), help=help))


def _beside_linear(el: Elaborator, lines: Lines, others: Others) -> None:
    weights, linear = lines.weights, (lines.first["linear"], "weights are products of features")
    if "score" in others:
        help = "what lessens a weight with the distance is a `decay` line; what multiplies them all is `scale`"
        el.wrong(no_meaning(others["score"], "score", "beside `linear`", linear, help=help))
    if "sink" in others and not weights.divides_by_total:
        help = "a sink is one more term of the total: write `divide total`"
        el.wrong(no_meaning(others["sink"], "sink", "beside `linear` without `divide total`", linear, help=help))
    if "sink" in others and weights.delta is not None:
        help = "what a key recalls is not what a row sees"
        el.wrong(no_meaning(others["sink"], "sink", "beside `delta`", (lines.first["delta"], "`delta`"), help=help))
    if "detached" in others:
        help = "there is no log-sum-exp whose shares could be detached"
        el.wrong(no_meaning(others["detached"], "weights detached", "beside `linear`", linear, help=help))
    for word in ("rotate", "normalize"):
        if word in others and weights.constant:
            help = "the features read neither queries nor keys"
            el.wrong(no_meaning(others[word], word, "beside constant features", linear, help=help))
