"""Mistakes about types and values."""

from __future__ import annotations

from collections.abc import Sequence

from attnspec.errors.catalogue import diagnose, listed
from attnspec.errors.diagnostic import Diagnostic
from attnspec.errors.source import Span

MAX_INT = 2**62
MAX_RANGE = 10_000
MAX_COMBINATIONS = 100_000
MAX_NODES = 100_000
MAX_DEPTH = 150
"""Levels of elaboration (three Python frames each) and of core expressions: well below Python's own limit."""


def too_large(span: Span) -> Diagnostic:
    """An integer, written or computed, beyond what kernels can hold."""
    return diagnose("E008", "this integer is too large", (span, "its magnitude is above 2 ** 62"))


def wrong_type(span: Span, wanted: str, got: str, help: str = "") -> Diagnostic:
    """An expression of one type where another is needed."""
    return diagnose("E021", f"expected {wanted}, found {got}", (span, f"this is {got}"), help=help)


def mixed_comparison(left: Span, what_left: str, right: Span, what_right: str) -> Diagnostic:
    """A comparison between an integer and a predicate, and the like."""
    return diagnose(
        "E022", f"cannot compare {what_left} with {what_right}", (right, f"this is {what_right}"),
        (left, f"this is {what_left}"),
    )  # fmt: skip


def order_of_predicates(span: Span, op: str) -> Diagnostic:
    """``p < q`` between predicates."""
    return diagnose(
        "E022", f"predicates have no order: `{op}` compares integers", (span, "this is a predicate"),
        help="use `==` or `!=` between predicates",
    )  # fmt: skip


def divisor_not_positive(span: Span, value: int, when: str = "") -> Diagnostic:
    """A division by zero or by a negative constant."""
    return diagnose("E023", "a divisor must be positive", (span, f"this is {value}{when}"))


def divisor_not_constant(span: Span, names: Sequence[str]) -> Diagnostic:
    """A division by something that varies with the position or the length."""
    sizes = [n for n in names if n in ("n", "n_q", "m")]
    return diagnose(
        "E024", "a divisor must be constant", (span, f"depends on {listed(names)}"),
        note="the right side of `//` and `%` is a number, a parameter or an input, the same for all positions",
        help="make it a parameter, `attention name(stride = 64)`, or an input, `input stride: int`" if sizes else "",
    )  # fmt: skip


def power_not_constant(span: Span, names: Sequence[str]) -> Diagnostic:
    """A power of a position."""
    return diagnose(
        "E026", "both sides of `**` must be constant", (span, f"depends on {listed(names)}"),
        note="numbers, parameters, h, heads, kv_heads, batch and bound names are constant",
    )  # fmt: skip


def negative_exponent(span: Span, value: int, when: str = "") -> Diagnostic:
    """``2 ** -1``."""
    return diagnose("E026", "an exponent must not be negative", (span, f"this is {value}{when}"))


def index_outside(span: Span, value: int, length: int, when: str = "", what: str = "list") -> Diagnostic:
    """An index that is known and not in the list (or the dimension of an input)."""
    entries = "1 entry" if length == 1 else f"{length} entries"
    last = f"; indices go from 0 to {length - 1}" if length else ""
    return diagnose(
        "E027", f"index outside the {what}", (span, f"this is {value}{when}"), note=f"the {what} has {entries}{last}"
    )


def always_outside_input(span: Span, name: str, size: str, of_queries: bool) -> Diagnostic:
    """An index that is outside its input for every position (of queries: once there are twice as many keys)."""
    which = "every position of a call that has twice as many keys as queries" if of_queries else "every position"
    note, help = "what reads outside its input is false, or 0 in a score", ""
    if of_queries:
        note = "`q` and `k` are positions; a dimension of size `n_q` has an entry for each query, found by its position"
        help = "leave out the shift by `n - n_q`"
    return diagnose(
        "E027", "index outside the input", (span, f"outside `{name}` for {which}"),
        note=note, help=help or f"this dimension has the size `{size}`; indices go from 0 to `{size} - 1`",
    )  # fmt: skip


def not_known(span: Span, what: str, names: Sequence[str]) -> Diagnostic:
    """Something that must be a number once the parameters are known."""
    return diagnose("E028", f"{what} must be known at compile time", (span, f"depends on {listed(names)}"))


def range_too_large(span: Span, size: int) -> Diagnostic:
    """A range with too many values to go through."""
    return diagnose(
        "E029", "this range is too large", (span, f"{size:,} values; the limit is {MAX_RANGE:,}"),
        help="say it with comparisons, as in `low <= x < high`",
    )  # fmt: skip


def ranges_too_large(span: Span, size: int, limit: int = MAX_COMBINATIONS) -> Diagnostic:
    """Ranges inside each other with too many combinations to go through."""
    return diagnose(
        "E029", "these ranges are too large together", (span, f"{size:,} combinations; the limit is {limit:,}")
    )


def grows_too_large(span: Span) -> Diagnostic:
    """A pattern whose expansion goes beyond the budget."""
    return diagnose(
        "E030", "this grows too large when patterns are written out", (span, f"the limit is {MAX_NODES:,} parts")
    )


def file_grows_too_large(span: Span, limit: int) -> Diagnostic:
    """Attentions that are each within the budget, but too many of them to check at once."""
    return diagnose(
        "E030", "the attentions of this file grow too large together", (span, f"the limit is {limit:,} parts"),
        help="put some of them into a file of their own",
    )  # fmt: skip


def too_deep_inside(span: Span) -> Diagnostic:
    """Expressions inside each other beyond the limit, once patterns and names are written out."""
    return diagnose(
        "E007", "nested too deeply when patterns and names are written out",
        (span, f"the limit is {MAX_DEPTH} levels"),
    )  # fmt: skip


def mixed_list(span: Span, first: str, other: str) -> Diagnostic:
    """``[1, [2]]``."""
    return diagnose("E031", f"a list holds either numbers or lists of one kind, not {first} and {other}", (span, other))


def ragged_list(span: Span) -> Diagnostic:
    """``[[0.5], [1.0, 2.0]]``."""
    return diagnose(
        "E031", "lists of real numbers inside a list are of one length, and not empty",
        (span, "their lengths differ"), note="kernels get them as a tensor",
    )  # fmt: skip
