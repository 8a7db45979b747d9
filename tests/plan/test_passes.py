"""However a branch is cut into passes, and whatever their layouts: the same pairs, each as often as the spec says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
from attnspec.runtime.attention import Attention
from tests.support.oracle import agree, close, tensors
from tests.support.pass_strategies import candidates, choosing, forced, laid_cases, passes
from tests.support.patterns import LAYOUTS
from tests.support.strategies import Case, cases

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


@settings(max_examples=max(14, settings().max_examples // 5))
@example(Case("attention a { attend k % 5 % 4 <= 1  attend q == k }", {}, 40, 40, 1), Tile(16, 16))
@example(Case("attention a { attend |q // 8 - k // 8| <= 1 and |q % 8 - k % 8| <= 1 }", {}, 20, 50, 1), Tile(16, 16))
@given(laid_cases(), TILES)
def test_every_way_means_the_spec(case: Case, tile: Tile) -> None:
    check_ways(case, tile)


def test_loops_of_sets_with_unknown_divisions() -> None:
    """A candidate whose tiles isl gives with divisions that it has not worked out."""
    text = "attention a { align start  attend axial(16)  attend axial(24)  within causal }"
    check_ways(Case(text, {}, 70, 70, 1), Tile(16, 16))


@given(cases(), TILES)
def test_every_way_of_generated_specs(case: Case, tile: Tile) -> None:
    check_ways(case, tile)


@settings(max_examples=max(10, settings().max_examples // 10))
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
        ("longnet_branch", {}, [Residue(4)]),
        ("window", {}, [IDENTITY]),
        ("longformer", {}, [IDENTITY]),
    ],
)
def test_what_is_chosen(name: str, params: dict[str, Any], layouts: list[object]) -> None:
    made = plan(lower(attnspec.read(name, **params), 8))
    assert [item.layout for item in made.passes] == layouts
    assert all(item.proven for item in made.passes)


WASTE: dict[str, tuple[dict[str, Any], int, float]] = {
    "dilated": ({"width": 512, "rate": 16}, 8192, 1.6),
    "sparse_strided": ({"stride": 128}, 16384, 2.5),
    "neighborhood_2d": ({"width": 64, "radius": 6}, 4096, 3.0),
}


@pytest.mark.parametrize("name", WASTE)
def test_waste(name: str) -> None:
    """Computed pairs for each live one, at the bars of issue 3."""
    params, n, most = WASTE[name]
    made = plan(lower(attnspec.read(name, **params), 1))
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


# Kernels

SIZES = ((200, 200), (333, 70), (1, 1), (2, 2), (130, 1), (40, 150), (17, 17))


def attention(name: str) -> Attention:
    clause, number, _ = LAYOUTS[name]
    return attnspec.compile(f"# way {number}\nattention a(rates = [1, 2, 4, 3]) {{ {clause} }}")


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """One thread walks the key heads; more threads than key heads walk query tiles, then key tiles."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", LAYOUTS)
def test_kernels(name: str) -> None:
    """Forward and all gradients at many sizes, by one thread and by more threads than there are key heads."""
    attend, before = attention(name), torch.get_num_threads()
    with choosing(LAYOUTS[name][1]):
        made = attend.plan_for(heads=4)
        assert all(want in str(item.layout) for item, want in zip(made.passes, LAYOUTS[name][2], strict=False))
        try:
            for number, (n, n_q) in enumerate(SIZES):
                torch.set_num_threads((1, 3)[number % 2])
                agree(attend, *tensors(n, n_q, heads=4, kv_heads=(4, 2, 1)[number % 3]))
            torch.set_num_threads(3)
            agree(attend, *tensors(200, 200, heads=4, kv_heads=1))
            agree(attend, *tensors(90, 130, heads=4, kv_heads=2, batch=2))
        finally:
            torch.set_num_threads(before)


TYPED = [
    ("dilated", torch.bfloat16, 16, 16),
    ("columns last", torch.bfloat16, 17, 40),
    ("13 x 13", torch.float16, 24, 17),
    ("axial, split", torch.bfloat16, 64, 64),
    ("comb", torch.float16, 16, 24),
]


@pytest.mark.parametrize(("name", "dtype", "dim", "dim_v"), TYPED)
def test_kernels_of_other_types_and_head_sizes(name: str, dtype: torch.dtype, dim: int, dim_v: int) -> None:
    attend, before = attention(name), torch.get_num_threads()
    with choosing(LAYOUTS[name][1]):
        try:
            for threads in (1, 3):
                torch.set_num_threads(threads)
                for n, n_q in ((200, 200), (77, 31)):
                    agree(attend, *tensors(n, n_q, heads=4, kv_heads=2, dim=dim, dim_v=dim_v, dtype=dtype))
        finally:
            torch.set_num_threads(before)


def test_strided_tensors_in_listed_layouts() -> None:
    """Rows of lists and residues out of transposed storage, whose elements are not side by side."""
    attend = attention("all layouts")
    with choosing(LAYOUTS["all layouts"][1]):
        base = torch.randn(1, 120, 3, 4, 16)
        q, k, v = (base[:, :, i].transpose(1, 2).requires_grad_() for i in range(3))
        agree(attend, q, k, v)
        q, k, v = (torch.randn(1, 4, 16, 120).transpose(2, 3).requires_grad_() for _ in range(3))
        agree(attend, q, k, v)


@pytest.mark.parametrize("name", ["all layouts", "strided, then local"])
def test_same_bits_twice(name: str, threads: int) -> None:
    attend = attention(name)
    with choosing(LAYOUTS[name][1]):
        q, k, v = tensors(300, heads=4, kv_heads=2)

        def once() -> list[torch.Tensor]:
            out, lse = attend(q, k, v, return_lse=True)
            return [out, lse, *torch.autograd.grad((out * out).sum() + lse.nan_to_num(neginf=0.0).sum(), (q, k, v))]

        first = once()
        for _ in range(3):
            assert all(torch.equal(a, b) for a, b in zip(first, once(), strict=True))


@pytest.mark.parametrize(
    ("name", "params"),
    [("sparse_strided", {"stride": 64}), ("longformer_dilated", {"width": 20, "dilations": [1, 2, 4, 3]})],
)
def test_against_the_identity_layout(name: str, params: dict[str, Any]) -> None:
    """What the compiler chooses by itself, and one pass over positions in order: the same but for rounding."""
    chosen, plain = (attnspec.compile(name, layout=layout, params=params) for layout in ("auto", "identity"))
    layouts = [[item.layout for item in a.plan_for(heads=4).passes] for a in (chosen, plain)]
    assert any(layout != IDENTITY for layout in layouts[0])
    assert all(layout == IDENTITY for layout in layouts[1])
    for n, n_q, kv_heads in ((300, 300, 4), (210, 33, 2), (1, 1, 1)):
        q, k, v = tensors(n, n_q, heads=4, kv_heads=kv_heads)
        results = []
        for attend in (chosen, plain):
            out, lse = attend(q, k, v, return_lse=True)
            results.append([out, lse, *torch.autograd.grad((out * out).sum() + lse.sum(), (q, k, v))])
        for what, a, b in zip(("out", "lse", "dq", "dk", "dv"), *results, strict=True):
            close(what, a, b, 3e-5)


@pytest.mark.parametrize("name", ["columns last", "all layouts"])
def test_kernels_that_read_tables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every loop nest declared unwieldy; passes of several residues are then not chosen."""
    from attnspec.codegen.plan import tiling as module
    from attnspec.runtime.core.program import plan
    from attnspec.runtime.cpp import load as native
    from attnspec.runtime.cpp import structures as problem

    def clear() -> None:
        for cache in (native._native, plan, problem._fixed):
            cache.cache_clear()

    clear()
    monkeypatch.setattr(module, "UNWIELDY", -1)
    monkeypatch.setenv("ATTNSPEC_CACHE", str(Path(os.environ["ATTNSPEC_CACHE"]) / "tables"))
    try:
        attend = attention(name)
        with choosing(LAYOUTS[name][1]):
            made = attend.plan_for(heads=4)
            assert made.tabled
            assert all(item.layout.residues == 1 for item in made.passes)
            for n, n_q, kv_heads, batch in ((300, 300, 4, 2), (200, 70, 1, 1), (40, 150, 2, 1), (1, 1, 4, 1)):
                agree(attend, *tensors(n, n_q, 4, kv_heads, batch))
    finally:
        clear()


@settings(max_examples=max(2, settings().max_examples // 40))
@given(laid_cases(), st.integers(0, 12), st.sampled_from([1, 2, 4]), st.sampled_from([1, 3]))
def test_kernels_of_generated_specs(case: Case, number: int, kv_heads: int, threads: int) -> None:
    """Any way of any spec; each example compiles two kernels."""
    attend, before = attnspec.compile(f"# way {number}\n{case.text}"), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with choosing(number):
            for n, n_q in ((case.n, case.n_q), (case.n * 5 + 3, case.n_q * 4 + 1)):
                agree(attend, *tensors(n, n_q, 4, kv_heads, seed=n))
    finally:
        torch.set_num_threads(before)
