"""The shipped specs: spec, relation and plan mean the same, and no tile is visited in vain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import attnspec
from attnspec.codegen.cost.cost import cost
from attnspec.codegen.plan.choose import plan
from attnspec.codegen.plan.visits import counts, visits
from attnspec.codegen.tiles import Tile
from attnspec.relation.lower import lower
from attnspec.relation.relation import scalars
from attnspec.relation.sizes import Sizes
from attnspec.runtime.prepare.example import example as draw
from attnspec.spec import axes
from attnspec.spec.arrays import derive
from attnspec.spec.evaluate import table as table_of
from attnspec.spec.spec import Spec
from tests.support.marks import slow
from tests.support.tiles import tile_kinds


def calls(spec: Spec, heads: int, lengths: tuple[tuple[int, int], ...]) -> Iterator[tuple[Sizes, dict[str, Any]]]:
    """Calls of a spec: their sizes, with axes of the first of each pair of lengths, and example inputs."""
    for n, n_q in lengths:
        m, (keys, queries) = None, (n, n_q if spec.order is None else n)
        if spec.axes:
            m, (keys, queries) = n, axes.lengths(spec.axes, n)
        sizes = Sizes(keys, queries, heads, heads, 1, spec.align == "end", m)
        generator = torch.Generator().manual_seed(0)
        arrays = {name: tensor.numpy() for name, tensor in draw(spec, sizes, generator).items()} if spec.inputs else {}
        yield replace(sizes, scalars=scalars(spec, arrays)), arrays


LONG = {
    *("memory_layers", "longnet", "swin", "sparse_strided", "neighborhood_2d_shifted", "axial", "bigbird_mixture"),
    *("neighborhood_2d", "logsparse", "block_diffusion", "linear_dilated", "longnet_branch", "hierarchical"),
}
"""What takes half a second and more: of these the plan and the kernels are quick tests."""


@pytest.mark.parametrize("name", [slow(name) if name in LONG else name for name in attnspec.shipped()])
def test_shipped_specs(name: str) -> None:
    """All three meanings, at lengths that divide nothing and more."""
    spec = attnspec.read(name)
    heads = 8
    relation = lower(spec, heads)
    made = plan(relation)
    for sizes, arrays in calls(spec, heads, ((1, 1), (257, 257), (300, 90), (90, 300))):
        if spec.order is not None:
            continue  # the sets are over places in the order, not over positions: see test_order
        want = spec.mask(sizes.n, sizes.n_q, heads, inputs=arrays)
        named = derive(spec, arrays, spec.sizes(sizes.n, sizes.n_q, heads))
        given = {table_of(name): array for name, array in named.items()}
        assert (counts(made, sizes, inputs=given) == want).all()
        assert (counts(made, sizes, transposed=True, inputs=given) == want).all()
        if relation.exact:
            assert (relation.mask(sizes) == want).all()
            assert cost(made, sizes, 64, 64, 4).pairs == want.sum()
        else:
            assert (relation.bound(sizes, "sure") <= want).all()
            assert (relation.bound(sizes, "pairs") >= want).all()


def is_tight(name: str) -> bool:
    """Whether the spec alone decides which pairs there are. LongNet is left to the tests of mixtures: it takes long."""
    spec = attnspec.read(name)
    return not spec.inputs and name != "longnet" and lower(spec, 8).exact


TIGHT = [name for name in attnspec.shipped() if is_tight(name)]


@pytest.mark.parametrize("name", [slow(name) if name in LONG else name for name in TIGHT])
def test_tiles_of_shipped_specs_are_tight(name: str) -> None:
    """No tile is visited in vain and none that is full is called partial."""
    spec = attnspec.read(name)
    relation = lower(spec, 8)
    made = plan(relation, Tile(16, 16))
    ((sizes, _),) = calls(spec, 8, ((192, 192),))
    for h in {next(h for h in range(8) if relation.of_head(h) is c) for c in relation.classes}:
        for item in made.of_head(h).passes:
            assert item.cut.proven
            for c in range(item.layout.residues):
                kinds = tile_kinds(item, sizes, h, c, whole=Sizes(1 << 16, 1 << 16))
                there = {j for _, j in kinds if len(item.layout.key_positions(j, sizes, c, item.tile.columns))}
                kinds = {ij: kind for ij, kind in kinds.items() if ij[1] in there}
                visited = {(i, j): full for i, j, full in visits(item, sizes, h, 0, c)}
                assert set(visited) == {ij for ij, (some, _) in kinds.items() if some}
                assert {ij for ij, full in visited.items() if full} == {ij for ij, (_, every) in kinds.items() if every}
