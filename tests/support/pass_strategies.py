"""Hypothesis strategies for specs that lie denser in another layout, and plans with a way of choice.

``laid_cases()`` gives a :class:`Case` whose clauses are dilated, strided, on a grid, in gathered columns, or unions of
these, as a single softmax or as a mixture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import strategies as st

from attnspec.codegen.plan import choose
from attnspec.codegen.plan.candidates import Way, ways
from attnspec.codegen.plan.plan import ClassPlan, Pass, Plan
from attnspec.codegen.plan.tiling import make_pass
from attnspec.codegen.tiles import Tile
from attnspec.relation.relation import HeadClass, Relation
from tests.support.strategies import HEADS, Case

Draw = Callable[[st.SearchStrategy[Any]], Any]


def _clause(draw: Draw) -> str:
    def number(low: int, high: int) -> int:
        return int(draw(st.integers(low, high)))

    rate = draw(st.sampled_from(["2", "3", "4", "7", "(h + 1)", "rates[h]"]))
    width = draw(st.sampled_from([8, 16, 24]))
    match draw(st.sampled_from(["near", "dilated", "strided", "taken", "grid", "axial", "columns", "segment"])):
        case "dilated":
            return f"{-number(0, 12)} <= q - k <= {number(0, 40)} and (q - k) % {rate} == {number(0, 1) * number(0, 2)}"
        case "strided":
            return str(draw(st.sampled_from([f"(q - k) % {rate} == 0", f"q % {rate} == k % {rate} and k <= q"])))
        case "taken":
            size = number(6, 20)
            return f"q // {size} == k // {size} and q % {size} % {rate} == 0 and k % {size} % {rate} == 0"
        case "grid":
            return f"|q // {width} - k // {width}| <= {number(0, 2)} and |q % {width} - k % {width}| <= {number(0, 5)}"
        case "axial":
            return f"axial({width})"
        case "columns":
            period = number(4, 20)
            some = [f"k % {period} >= {number(1, period - 1)}", f"k % {period} % {number(2, 4)} <= {number(0, 1)}"]
            return f"{draw(st.sampled_from(some))}{draw(st.sampled_from(['', ' and k <= q']))}"
        case "segment":
            return f"segment({number(3, 30)})"
    return f"{-number(0, 9)} <= q - k <= {number(0, 30)}"


def lines_of_pairs(draw: Draw, most: int) -> list[str]:
    """Lines that say which pairs there are: a union, perhaps restricted."""
    lines = [f"attend {_clause(draw)}" for _ in range(draw(st.integers(1, most)))]
    if draw(st.sampled_from([True, False, False])):
        lines.append("within causal")
    if draw(st.sampled_from([True, False, False, False])):
        lines.append(f"for h in {draw(st.sampled_from(['0..2', '1..3', '[2]']))} {{ attend {_clause(draw)} }}")
    return lines


@st.composite
def laid_cases(draw: Draw, mixtures: bool = True) -> Case:
    """A valid spec and sizes to try it at."""
    lines = ["align start"] if draw(st.sampled_from([True, False, False])) else []
    if mixtures and draw(st.booleans()):
        branches = [
            f"branch times {draw(st.integers(1, 3))} {{ {'  '.join(lines_of_pairs(draw, 2))} }}"
            for _ in range(draw(st.integers(1, 3)))
        ]
        lines.append(f"mix {{ {'  '.join(branches)} }}")
    else:
        lines += lines_of_pairs(draw, 3)
    body = "\n".join(f"    {line}" for line in lines)
    text = f"attention laid(rates = [1, 2, 4, 3]) {{\n{body}\n}}\n"
    n = draw(st.integers(1, 90))
    n_q = draw(st.sampled_from([n, n, draw(st.integers(1, 90))]))
    return Case(text, {}, n, n_q, draw(st.integers(1, HEADS)))


def candidates(relation: Relation, tile: Tile) -> int:
    """How many ways the branch with the most ways has."""
    return max(
        len(list(ways(relation, part, branch, tile)))
        for item in relation.classes
        for branch, part in enumerate(item.parts)
    )


def forced(relation: Relation, tile: Tile, number: int) -> Plan:
    """The plan that takes the way of a number in each branch (counted from the start again where there are fewer)."""
    return Plan(relation, tuple(_class(relation, item, tile, number) for item in relation.classes))


def _class(relation: Relation, item: HeadClass, tile: Tile, number: int) -> ClassPlan:
    found: list[Pass] = []
    for branch, part in enumerate(item.parts):
        every = list(ways(relation, part, branch, tile))
        found += passes(relation, every[number % len(every)])
    return ClassPlan(item.heads, tuple(found), (None,) * len(item.parts))


def passes(relation: Relation, way: Way) -> list[Pass]:
    """The passes of a way."""
    return [make_pass(step.region, step.layout, step.tile, step.cut, relation.spec.align) for step in way]


def by_way(text: str, number: int) -> str:
    """A spec with the number of a way in its name: kernels are found by what a spec says, not by its comments."""
    return re.sub(r"\battention (\w+)", rf"attention \1_way_{number % 1000}", text, count=1)


@contextmanager
def choosing(number: int) -> Iterator[None]:
    """Inside, plans take the way of a number in each branch: of specs that are named :func:`by_way`."""

    def take(_relation: Relation, _item: HeadClass, _part: Any, found: list[Way], _scalars: Any) -> tuple[Way, None]:
        return found[number % len(found)], None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "_choose", take)
        yield
