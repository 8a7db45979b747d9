"""``attnspec diff``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from attnspec.cli.options import LENGTH, checked, complete_spec, input_option, json_option, params_of, read_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from attnspec.analysis.compare import Comparison, Counted, Witness
    from attnspec.analysis.weights import Difference
    from attnspec.spec.spec import Spec

_MOST_PAIRS = 1 << 28


@click.command()
@click.argument("first", shell_complete=complete_spec)
@click.argument("second", shell_complete=complete_spec)
@click.argument("params", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--heads", type=click.IntRange(1), help="Query heads, where a pattern depends on their number.")
@click.option("--pairs", "only_pairs", is_flag=True, help="Compare which pairs there are, and nothing else.")
@input_option
@click.option(
    "-n",
    "--length",
    type=LENGTH,
    help="Compare calls of this length only.  [default: every length; 1,024 with --input]",
)
@json_option
def command(
    first: str,
    second: str,
    params: tuple[str, ...],
    heads: int | None,
    only_pairs: bool,
    given: tuple[str, ...],
    length: int | None,
    as_json: bool,
) -> None:
    """Compare two patterns, exactly, for every length at once, or for one (-n); with --input in one call with these.

    Compared are which pairs there are, how often branches count them, and as they are written (names resolved,
    parameters put in) scores, sinks, rotations, scales, normalization, orders and segments. Parameters apply to both;
    with 1:name=value or 2:name=value to one of them. Status 0 if they are equal, 1 if not.
    """
    from attnspec.analysis.compare import compare, compare_counts
    from attnspec.analysis.weights import differences
    from attnspec.relation.lower import listed_heads, lower
    from attnspec.relation.relation import DependsOnInputs

    patterns = [checked(spec, params_of(i, params, 2)) for i, spec in enumerate((first, second), 1)]
    count = heads or next((c for c in map(listed_heads, patterns) if c), None)
    counted: Counted | None = None
    others: tuple[Difference, ...] = ()
    where = f"at n = {length:,}" if length else "for every length"
    if length and not given and any(pattern.axes for pattern in patterns):
        raise click.UsageError("patterns with axes are compared for every length: leave out -n")
    try:
        if given:
            result, counted, where = _in_a_call(patterns, length or 1024, count or 8, read_inputs(given))
        else:
            one, two = (lower(p, count) for p in patterns)
            try:
                result = compare(one, two, length)
                counted = compare_counts(one, two, length) if result.equal and not only_pairs else None
            except DependsOnInputs as error:
                if length is None or error.names or any(pattern.order for pattern in patterns):
                    raise
                result, counted, _ = _in_a_call(patterns, length, count or 1, {})  # the solver leaves pairs open
        others = () if only_pairs else differences(*patterns)
        if result.equal and not only_pairs and any(pattern.composed for pattern in patterns):

            def between(one: Spec, two: Spec) -> Comparison:
                if given:
                    return _in_a_call([one, two], length or 1024, count or 8, read_inputs(given))[0]
                return compare(lower(one, count), lower(two, count), length)

            others = (*others, *_pairs_of_branches(patterns, between))
        counted = counted if result.equal and not only_pairs else None
    except ValueError as error:  # the patterns are defined for different numbers of heads
        raise click.UsageError(str(error)) from None
    equal = result.equal and counted is None and not others
    if as_json:
        sides = {"first_only": result.first_only, "second_only": result.second_only, "counts": counted}
        data = {"equal": equal, **{name: side and asdict(side) for name, side in sides.items()}}
        click.echo(json.dumps({**data, "differences": [asdict(item) for item in others]}, indent=2))
    else:
        names = [f"{p.name} (the {which})" for p, which in zip(patterns, ("first", "second"), strict=True)]
        click.echo("\n".join(_said(names, result, counted, others, only_pairs, where)))
    sys.exit(0 if equal else 1)


def _pairs_of_branches(patterns: list[Spec], between: Callable[[Spec, Spec], Comparison]) -> Iterator[Difference]:
    """In which pairs branches with lines of their own differ, where all branches together see the same."""
    from attnspec.analysis.weights import Difference

    for number, (one, two) in enumerate(zip(*(pattern.alone or (pattern,) for pattern in patterns), strict=False)):
        result = between(one, two)
        if not result.equal:
            only = (result.first_only, result.second_only)
            yield Difference(
                f"pairs of branch {number}", *("" if w is None else f"only here: {_place(w)}" for w in only)
            )


def _in_a_call(
    patterns: list[Spec], length: int, heads: int, inputs: dict[str, Any]
) -> tuple[Comparison, Counted | None, str]:
    """What :func:`compare_given` finds in a call of this length."""
    from attnspec.codegen.cost.counted import TooMany
    from attnspec.relation.sizes import Sizes, resized
    from attnspec.report.given_diff import compare_given

    first, second = patterns
    if first.axes != second.axes:
        raise click.UsageError("--input compares patterns of the same axes")
    sizes = resized(first, Sizes(1, 1, heads, heads, 1, first.align == "end"), length)
    if sizes.n * sizes.n_q > _MOST_PAIRS:
        raise click.UsageError(f"{sizes.n:,} x {sizes.n_q:,} pairs are too many to look at: use a smaller -n")
    try:
        result, counted, words = compare_given(first, second, sizes, inputs)
    except TooMany as error:
        raise click.UsageError(f"{error}: use a smaller -n") from None
    return result, counted, f"at n = {sizes.n:,} with inputs: {words}"


def _said(
    names: list[str],
    result: Comparison,
    counted: Counted | None,
    others: tuple[Difference, ...],
    only_pairs: bool,
    where: str,
) -> list[str]:
    """What is printed, line by line."""
    one, two = names
    if not result.equal:
        if result.second_only is None:
            lines = [f"{one} allows all that {two} does, and more"]
        elif result.first_only is None:
            lines = [f"{two} allows all that {one} does, and more"]
        else:
            lines = ["different: each allows pairs that the other does not"]
        for name, witness in zip(names, (result.first_only, result.second_only), strict=True):
            if witness is not None:
                lines.append(f"only {name}: {_place(witness)}")
    elif counted is not None:
        lines = [
            "the same pairs, which do not count alike",
            f"{one} counts {_times(counted.first)}, {two} {_times(counted.second)}: {_place(counted.at)}",
        ]
    elif others:
        lines = ["the same pairs"]
    else:
        lines = [f"the same pairs {where}" if only_pairs else f"equal {where}"]
    if others:
        lines[0] += "; " + _listed([item.what for item in others]) + " differ"
    for item in others:
        lines += [f"{item.what}:"]
        for name, text in ((one, item.first), (two, item.second)):
            lines += [f"    {name}: {line}" for line in (text or "none").splitlines()]
    return lines


def _times(count: int) -> str:
    return {1: "a pair once", 2: "a pair twice"}.get(count, f"a pair {count} times")


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _place(w: Witness) -> str:
    inputs = "".join(f", {name} = {value}" for name, value in w.inputs)
    return (
        f"query row {w.row} sees key {w.k}, at n = {w.n}, n_q = {w.n_q}, head {w.h} of {w.heads}, "
        f"batch entry {w.b} of {w.batch}{inputs}"
    )
