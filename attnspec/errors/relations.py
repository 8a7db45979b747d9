"""Mistakes that show on the way to a relation or a kernel, and questions that have no answer."""

from __future__ import annotations

from textwrap import shorten

from attnspec.errors.catalogue import diagnose
from attnspec.errors.diagnostic import Diagnostic
from attnspec.errors.source import Span


def unknown_size(span: Span, name: str) -> Diagnostic:
    """The relation depends on a number of heads or batch entries that was not given."""
    return diagnose(
        "E401",
        f"the pattern depends on `{name}`",
        (span, f"`{name}` is a factor, a divisor or an index in this pattern"),
        note="such a pattern has one relation for each class of heads",
        help=f"say how many: {name}=... in Python, --{name.replace('_', '-')} on the command line",
    )


def bad_divisor(span: Span, value: int, head: int | None) -> Diagnostic:
    """A divisor that depends on the head or on the sizes of a call is zero or negative."""
    where = "" if head is None else f" for head {head}"
    return diagnose(
        "E023",
        f"a divisor is {value}{where}",
        (span, "divided here"),
        note="`//` and `%` need a positive divisor, for every head of the call",
        help="for instance, write `h + 1` for `h`",
    )


def list_too_short(span: Span, at: int, length: int, head: int | None, heads: int | None) -> Diagnostic:
    """A list is read outside its entries for some head of the call."""
    where = "" if heads is None else f" for head {head} of {heads}"
    return diagnose(
        "E402",
        f"a list of {length} is read at {at}{where}",
        (span, f"the list covers {length}"),
        note="a list that is indexed by h must cover all heads of the call",
        help="give a list in which every head of the call finds its entry",
    )


def not_affine(span: Span, what: str, why: str) -> Diagnostic:
    """A clause has no affine form."""
    return diagnose(
        "E403",
        "this line is not affine",
        (span, f"`{what}` is {why}"),
        note="tiles are proved from sums of positions with constant factors, floor divisions and remainders",
        help="make one side a parameter, or `h`",
    )


def too_irregular(span: Span, what: str) -> Diagnostic:
    """The solver's operation limit was reached."""
    return diagnose(
        "E404",
        "the pattern is too irregular for the solver",
        (span, "the operation limit was reached here"),
        note=f"the set of pairs of `{shorten(what, 200)}` has too many pieces to be computed in bounded time",
        help="use fewer or more closely related divisors, split the pattern over heads, or join lines with `and`: what "
        "is too hard in a single line is decided pair by pair, in all tiles that other lines leave",
    )


def real_too_large(span: Span, value: float) -> Diagnostic:
    """A number of a score, a sink or the scale that float32 has not."""
    return diagnose(
        "E405", f"the number {value:g} is too large for a kernel", (span, "computed in float32, up to 3.4e38"),
        help='divide what it is multiplied with, or use target="dense" with float64 tensors',
    )  # fmt: skip


def too_large_for_kernels(span: Span, bits: int) -> Diagnostic:
    """A value of the predicate would overflow 64 bits in a kernel."""
    return diagnose(
        "E405",
        "the numbers in this pattern are too large for a kernel",
        (span, "computed in 64 bits"),
        note=f"some value exceeds 2 ** 63 at a length of 2 ** {bits}",
        help="use smaller factors and constants",
    )


def long_list(span: Span, most: int) -> Diagnostic:
    """A list that positions choose from, too long for the comparisons that a Triton kernel makes of it."""
    return diagnose(
        "E408",
        "a list in this pattern is too long for a Triton kernel",
        (span, f"positions choose from a list with more than {most:,} runs of equal entries"),
        help="declare it as an input: `input list: int[...]`, read as `list[k % ...]`",
    )


def several_axes(span: Span, name: str, what: str) -> Diagnostic:
    """A question that supposes one sequence, asked of a pattern with several axes."""
    return diagnose("E407", f"{what} is not defined for a pattern with axes", (span, f"`{name}` has axes"))


def counted_anew(span: Span, name: str) -> Diagnostic:
    """What a sequence leaves to its continuation, asked of a pattern in which every call begins at position 0."""
    title = "what is to be remembered is not defined under `align start`"
    return diagnose("E407", title, (span, f"`{name}` counts the queries of each call from 0"))


def depends_on_inputs(span: Span, name: str, inputs: tuple[str, ...], atoms: tuple[str, ...]) -> Diagnostic:
    """A question about the pairs of a pattern that only the contents of inputs, or a computed order, can answer."""
    named = ", ".join(f"`{i}`" for i in inputs)
    word = "input" if len(inputs) == 1 else "inputs"
    what = f"the {word} {named}" if inputs else "values that are computed in the call"
    open_ = f"the sets of pairs leave open: {'; '.join(atoms)}" if atoms else ""
    help = f"give values for {named}, where this question can take them" if inputs else ""
    title = f"the answer depends on {what}"
    return diagnose("E406", title, (span, f"`{name}` is decided by what a call holds"), note=open_, help=help)


def no_kernels(span: Span, lines: str, whole: str = "", target: str = "") -> Diagnostic:
    """Weights beyond softmax, for a ``target`` that has no kernels for them, or (``whole``) those of whole calls only.

    ``whole`` is then ``"linear"``, or ``"softmax"`` that decays.
    """
    who = "there are no" if target in ("", "auto") else f'target="{target}" has no'
    title, help = f"{who} kernels for these weights", 'compile it with target="dense"'
    if whole:
        title = "parts, pages and sums of columns have no kernels for these weights"
        help = 'a sequence in pieces hands on its state: `return_state=True` and `state=`; for the sums, target="dense"'
    if whole == "softmax":
        title = "parts, pages, caches and sums of columns have no kernels for these weights"
        help = (
            "give sums over the steps as an input: `input c: float[batch, heads, n]  score c[b, h, q] - c[b, h, k] + s`"
        )
    return diagnose("E409", title, (span, shorten(lines.replace("\n", ", "), 80)), help=help)


def looks_ahead(span: Span, what: str, pair: str) -> Diagnostic:
    """A correction, or a running maximum, over keys that do not all lie in the past."""
    return diagnose(
        "E410", f"{what} wants keys of the past only", (span, f"not shown to be so: {pair}"),
        help="restrict the pattern: `within k <= q`",
    )  # fmt: skip


def not_exported(span: Span, what: str, label: str, help: str) -> Diagnostic:
    """A pattern that is more than a mask and a score of one softmax."""
    title = f"FlexAttention has no place for {what}"
    return diagnose("E411", title, (span, shorten(label.replace("\n", ", "), 80)), help=help)
