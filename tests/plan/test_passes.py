"""However a branch is cut into passes, and whatever their layouts: the same pairs, each as often as the spec says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import attnspec
from attnspec.codegen.cost.cost import cost
from attnspec.codegen.layouts.columns import Columns
from attnspec.codegen.layouts.grid import Grid
from attnspec.codegen.layouts.residue import IDENTITY, Residue
from attnspec.codegen.plan.candidates import ways
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.plan.visits import counts, visits
from attnspec.codegen.tiles import Tile
from attnspec.relation.count import TooIrregular
from attnspec.relation.lower import lower
from attnspec.relation.sizes import Sizes
from tests.support.pass_strategies import candidates, forced, laid_cases, passes
from tests.support.strategies import Case, cases
from tests.support.targets import slow

TILES = st.sampled_from([Tile(16, 16), Tile(4, 8), Tile(8, 3), Tile(64, 32)])


def check_ways(case: Case, tile: Tile) -> None:
    """Every way counts each pair as often as the spec, by the loops of both directions."""
    spec, sizes = case.spec(), case.sizes()
    relation = lower(spec, 4)
    want = spec.mask(case.n, case.n_q, case.heads).astype(np.int64)
    for number in range(candidates(relation, tile)):
        made = forced(relation, tile, number)
        if any(item.tabled and item.layout.residues > 1 for item in made.passes):
            continue  # never chosen
        for transposed in (False, True):
            assert (counts(made, sizes, transposed) == want).all(), f"way {number}, transposed {transposed}"


@settings(max_examples=max(3, settings().max_examples // 10))
@example(Case("attention a { attend k % 5 % 4 <= 1  attend q == k }", {}, 40, 40, 1), Tile(16, 16))
@example(Case("attention a { attend |q // 8 - k // 8| <= 1 and |q % 8 - k % 8| <= 1 }", {}, 20, 50, 1), Tile(16, 16))
@given(laid_cases(), TILES)
def test_every_way_means_the_spec(case: Case, tile: Tile) -> None:
    check_ways(case, tile)


@pytest.mark.slow
def test_loops_of_sets_with_unknown_divisions() -> None:
    """A candidate whose tiles isl gives with divisions that it has not worked out."""
    text = "attention a { align start  attend axial(16)  attend axial(24)  within causal }"
    check_ways(Case(text, {}, 70, 70, 1), Tile(16, 16))


@given(cases(), TILES)
def test_every_way_of_generated_specs(case: Case, tile: Tile) -> None:
    check_ways(case, tile)


@settings(max_examples=max(6, settings().max_examples // 10))
@given(laid_cases(), TILES)
def test_the_chosen_way_means_the_spec_and_costs_what_it_computes(case: Case, tile: Tile) -> None:
    spec, sizes = case.spec(), case.sizes()
    made = plan(lower(spec, 4), tile)
    want = spec.mask(case.n, case.n_q, case.heads)
    assert (counts(made, sizes) == want).all()
    assert (counts(made, sizes, transposed=True) == want).all()
    try:
        found = cost(made, sizes, 8, 8, 4)
    except TooIrregular:
        return
    assert found.pairs == want.sum()
    computed = visited = 0
    for h in range(case.heads):
        for item in made.of_head(h).passes:
            for c in range(item.layout.residues):
                for i, j, _ in visits(item, sizes, h, 0, c):
                    q = item.layout.query_positions(i, sizes, c, item.tile.rows)
                    k = item.layout.key_positions(j, sizes, c, item.tile.columns)
                    computed += len(q) * len(k)
                    visited += bool(len(q) and len(k))
    assert (found.computed, found.full + found.partial) == (computed, visited)


@pytest.mark.parametrize(
    ("name", "params", "layouts"),
    [
        ("dilated", {"width": 512, "rate": 16}, [Residue(16)]),
        ("sparse_strided", {}, [IDENTITY, Residue(128)]),
        ("sparse_fixed", {}, [IDENTITY, Columns(128, 96, 32)]),
        ("axial", {}, [Residue(64), IDENTITY]),
        ("neighborhood_2d", {"radius": 6}, [Grid(64, (4, 8), (2, 8))]),
        slow("swin", {}, [Grid(56, (7, 7), (7, 7), (64, 64))]),
        slow("swin", {"shift": 3}, [Grid(56, (7, 7), (7, 7), (64, 64), (4, 4))]),
        ("longnet_branch", {}, [Residue(4)]),
        ("window", {}, [IDENTITY]),
        ("longformer", {}, [IDENTITY]),
    ],
)
def test_what_is_chosen(name: str, params: dict[str, Any], layouts: list[object]) -> None:
    made = plan(lower(attnspec.read(name, **params), 8))
    assert [item.layout for item in made.passes] == layouts
    assert all(item.cut.proven for item in made.passes)


WASTE: dict[str, tuple[dict[str, Any], int, float]] = {
    "dilated": ({"width": 512, "rate": 16}, 8192, 1.6),
    "sparse_strided": ({"stride": 128}, 16384, 2.5),
    "neighborhood_2d": ({"width": 64, "radius": 6}, 4096, 3.0),
    "swin": ({}, 3136, 1.0),
    "swin shifted": ({"shift": 3}, 3136, 1.0),
}


@pytest.mark.parametrize("name", [slow(name) if "swin" in name else name for name in WASTE])
def test_waste(name: str) -> None:
    """Computed pairs for each live one."""
    params, n, most = WASTE[name]
    made = plan(lower(attnspec.read(name.split()[0], **params), 1))
    assert cost(made, Sizes(n, n), 64, 64, 4).waste <= most


@pytest.mark.parametrize("name", ["sparse_strided", "sparse_fixed", "axial"])
def test_passes_are_disjoint_and_complete(name: str) -> None:
    """As sets, for every length at once."""
    relation = lower(attnspec.read(name), 1)
    (part,) = relation.classes[0].parts
    for way in ways(relation, part, 0, Tile(128, 64)):
        found = passes(relation, way)
        together = found[0].pairs
        for item in found[1:]:
            assert together.intersection(item.pairs).is_empty()
            together = together.union(item.pairs)
        assert together.equals(part.pairs)


def test_the_plan_says_why() -> None:
    text = str(plan(lower(attnspec.read("sparse_strided"))))
    assert "chosen at n = 8,192, by estimated time:" in text
    assert "-> identity with tiles of 128 x 64; then residue(128) with tiles of 128 x 64: waste" in text
    assert "layout residue(128)" in text
    assert "for each residue c in 0 .. 127" in text


def test_identity_on_request() -> None:
    made = plan(lower(attnspec.read("sparse_strided")), layout="identity")
    assert [item.layout for item in made.passes] == [IDENTITY]
