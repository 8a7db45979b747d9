"""Mistakes in clauses: their place, inputs, mixtures, axes, orders and scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attnspec.errors.catalogue import diagnose, did_you_mean, listed
from attnspec.errors.diagnostic import Diagnostic
from attnspec.errors.foreign import OPTIONS
from attnspec.errors.source import Span

MAX_BRANCHES = 64
MAX_TIMES = 2**31
MAX_DIMENSIONS = 8

NO_REALS = "real numbers are for lines about scores, rotations and weights; whole division is `//`"


def misplaced(span: Span, title: str, label: str, help: str = "") -> Diagnostic:
    """A clause that means nothing where it stands."""
    return diagnose("E032", title, (span, label), help=help)


# Inputs


def size_reads(span: Span, what: str, names: Sequence[str]) -> Diagnostic:
    """A size of an input that depends on more than the sizes of the call."""
    return diagnose(
        "E041", f"{what} must follow from the sizes of the call", (span, f"depends on {listed(names)}"),
        help="it may read numbers, parameters, batch, heads, kv_heads, n, n_q, dim, dim_v and features",
    )  # fmt: skip


def bad_input(span: Span, title: str, label: str, help: str = "") -> Diagnostic:
    """Another mistake in the declaration of an input."""
    return diagnose("E041", title, (span, label), help=help)


def wrong_count(
    span: Span, name: str, declared: Span, dimensions: int, sizes: list[str], given: int, wanted: list[str]
) -> Diagnostic:
    """Too few or too many indices; ``sizes`` is an example of right ones."""
    counts = f"{', '.join(wanted[:-1])}{' or ' if wanted[:-1] else ''}{wanted[-1]}"
    takes = f"{counts} {'index' if wanted == ['1'] else 'indices'}"
    return diagnose(
        "E042", f"`{name}` takes {takes} here, not {given or 'none'}", (span, f"{given or 'no'} given"),
        (declared, f"declared with {dimensions} size{'' if dimensions == 1 else 's'}"),
        help=f"write `{name}[{', '.join(sizes)}]`" if sizes else f"write `{name}` alone",
    )  # fmt: skip


def not_an_input_of(span: Span, title: str, label: str, help: str = "") -> Diagnostic:
    """``first(doc, q)`` of an input that has no runs, ``x in flags[q]`` of one that holds no integers, and the like."""
    return diagnose("E042", title, (span, label), help=help)


# Scores


def not_finite(span: Span) -> Diagnostic:
    """``1 / 0``, ``log(0)``, ``1e999``."""
    return diagnose(
        "E043", "this is not a finite number", (span, "infinite, or no number at all"),
        note="a score line may change scores, but not remove pairs",
        help="to remove pairs write `within`",
    )  # fmt: skip


def no_infinity(span: Span, name: str) -> Diagnostic:
    """``if causal then s else -inf``."""
    return diagnose(
        "E043", f"there is no `{name}`: a score line may not remove pairs", (span, "not a number of the language"),
        note="what a query may see is said by `attend` and `within`, so that tiles can be skipped",
        help="write `within` and the condition under which the pair stays",
    )  # fmt: skip


def may_not_read(span: Span, what: str, names: Sequence[str], help: str = "") -> Diagnostic:
    """A sink that depends on positions, a rotation of queries that depends on keys."""
    return diagnose("E044", f"{what} may not read {listed(names)}", (span, f"depends on {listed(names)}"), help=help)


def name_taken(span: Span, name: str, what: str, first: Span | None) -> Diagnostic:
    """``s`` as the name of a parameter beside a score line that reads the score, ``pair`` beside a rotation."""
    return diagnose(
        "E012", f"`{name}` is {what} here, but the attention also has a name `{name}`", (span, "which one?"),
        *([(first, "rename this")] if first else []),
    )  # fmt: skip


def same_dimensions(span: Span, first: Span) -> Diagnostic:
    """Two rotations of one dimension."""
    return diagnose(
        "E045", "two `rotate` lines turn the same dimensions", (span, "turns some of them again"),
        (first, "turns them already"), note="a line without `dims` turns all dimensions from its `start` on",
        help="give each line its own part of a head: `rope(dims = 32)` and `rope(start = 32, dims = 32)`",
    )  # fmt: skip


def unknown_option(span: Span, of: str, name: str, known: Iterable[str]) -> Diagnostic:
    """A misspelt option, or a misspelt thing that has options."""
    known = list(known)
    here = OPTIONS.get(name)
    help = f"it is called `{here}` here" if here in known else did_you_mean(name, known)
    return diagnose("E045", f"{of} `{name}`", (span, f"known: {', '.join(known)}"), help=help)


def bad_option(span: Span, name: str, wanted: str) -> Diagnostic:
    """An option with a value that makes no sense."""
    return diagnose("E045", f"`{name}` must be {wanted}", (span, "this is not"))


# Mixtures


def beside_mixture(span: Span, mix: Span, word: str) -> Diagnostic:
    """``attend`` and ``mix`` in one body."""
    return diagnose(
        "E046", "a body has either clauses or one mixture", (span, f"this `{word}` belongs to no branch"),
        (mix, "the mixture"), help="move it into a branch of the mixture",
    )  # fmt: skip


def second_mixture(span: Span, first: Span) -> Diagnostic:
    """Two ``mix`` in one body."""
    return diagnose(
        "E046", "a body has one mixture", (span, "the second one"), (first, "the first one"),
        help="a branch for each softmax of both: `mix { branch { ... } branch { ... } }`",
    )  # fmt: skip


def bad_mixture(span: Span, title: str, label: str, help: str = "") -> Diagnostic:
    """No branches, too many, entries that do not fit the names."""
    return diagnose("E046", title, (span, label), help=help)


def no_share(span: Span, first: Span) -> Diagnostic:
    """A branch without a share beside branches that have one."""
    return diagnose(
        "E046", "either all branches of a mixture have a share, or none has", (span, "this one has none"),
        (first, "this one has"), help="without shares branches are mixed by their denominators; write `share 1.0`",
    )  # fmt: skip


def share_beside(span: Span, what: str, label: str, share: Span) -> Diagnostic:
    """``times`` or ``weights detached`` where branches have shares."""
    return diagnose(
        "E046", f"{what} has no meaning beside `share`", (span, label), (share, "the share"),
        note="branches with shares are not mixed by their denominators",
        help="write the factor into the share: `share 2 * x`" if what == "`times`" else "a share without a gradient is "
        "an input that is detached before the call",
    )  # fmt: skip


# Axes


def unknown_axis(span: Span, name: str, known: list[str]) -> Diagnostic:
    """An arrow from or to nowhere."""
    has = "the axes are " + ", ".join(f"`{k}`" for k in known) if known else "no axis is declared before this line"
    return diagnose("E047", f"there is no axis `{name}`", (span, has), help=did_you_mean(name, known))


def one_sided_axis(span: Span, name: str, side: str, declared: Span) -> Diagnostic:
    """An arrow from an axis that has no queries, or to one that has no keys."""
    other = "queries" if side == "keys" else "keys"
    return diagnose(
        "E047", f"the axis `{name}` has no {other}", (span, f"needs {other}"), (declared, f"{side} only"),
        help=f"take `{side}` away from the axis if it also has {other}",
    )  # fmt: skip


def axes_mistake(
    span: Span, title: str, label: str, *also: tuple[Span, str], note: str = "", help: str = ""
) -> Diagnostic:
    """Any other mistake about axes."""
    return diagnose("E047", title, (span, label), *also, note=note, help=help)


# Orders


def order_mistake(span: Span, title: str, label: str, *also: tuple[Span, str], help: str = "") -> Diagnostic:
    """A slot without an order, an order beside axes or a mixture, ..."""
    return diagnose("E048", title, (span, label), *also, help=help)


# Segments


def segments_mistake(
    span: Span, title: str, label: str, *also: tuple[Span, str], note: str = "", help: str = ""
) -> Diagnostic:
    """A mistake about what is carried from segment to segment."""
    return diagnose("E050", title, (span, label), *also, note=note, help=help)


def unknown_carried(span: Span, name: str, known: Sequence[str], help: str = "") -> Diagnostic:
    """A carry or a recall from or to an axis that there is not."""
    has = f"the axes are {', '.join(f'`{k}`' for k in known)}" if known else "there are no axes"
    help = "; ".join(filter(None, (did_you_mean(name, known), help)))
    return diagnose("E050", f"there is no axis `{name}`", (span, has), help=help)


# Weights


def no_meaning(span: Span, word: str, beside: str, *also: tuple[Span, str], help: str = "") -> Diagnostic:
    """A line about weights that has no meaning beside another, or without it."""
    return diagnose("E049", f"`{word}` has no meaning {beside}", (span, f"this `{word}`"), *also, help=help)


def weights_mistake(span: Span, title: str, label: str, *also: tuple[Span, str], help: str = "") -> Diagnostic:
    """Any other mistake about features, divisors, decay and correction."""
    return diagnose("E049", title, (span, label), *also, help=help)
