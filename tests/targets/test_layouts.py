"""Kernels in layouts that are forced upon the planner, against dense attention in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attnspec.codegen.layouts.residue import IDENTITY
from attnspec.runtime.attention import Attention
from tests.support.marks import slow
from tests.support.oracle import agree, close, tensors
from tests.support.pass_strategies import by_way, choosing
from tests.support.patterns import LAYOUTS
from tests.support.targets import compiled, results, same_bits, threads

Calls = tuple[tuple[int, int, int, int, int], ...]
# Threads, keys, queries, key heads and batch.
CPP = (
    *((1, 200, 200, 4, 1), (3, 333, 70, 2, 1), (1, 1, 1, 1, 1), (3, 2, 2, 4, 1)),
    *((3, 40, 150, 1, 1), (1, 17, 17, 4, 1), (3, 200, 200, 1, 1), (3, 90, 130, 2, 2)),
)
# One query has a kernel of its own.
DECODE = ((1, 130, 1, 2, 1),)
FEW, MORE = ((1, 70, 31, 4, 1),), ((1, 130, 130, 2, 1), (1, 40, 70, 1, 1))
QUICK = ("dilated",)
OFTEN = frozenset(LAYOUTS) - {"all layouts", "dilations", "strided, then local", "columns first", "windows, shifted"}
KERNELS = [
    *(("cpp", name, CPP) if name in OFTEN else slow("cpp", name, CPP) for name in LAYOUTS),
    *(("triton", name, FEW) if name in QUICK else slow("triton", name, FEW) for name in LAYOUTS),
    *(slow("triton", name, MORE) for name in LAYOUTS),
    *(slow("cpp", name, DECODE) for name in LAYOUTS),
]


def laid(name: str, target: str) -> Attention:
    clause, number, layouts = LAYOUTS[name]
    # Tiles of grids have more shapes than one; the text says which way it was compiled with.
    tile = {"tile": None} if "grid" in str(layouts) else {}
    return compiled(by_way(f"attention a(rates = [1, 2, 4, 3]) {{ {clause} }}", number), target, **tile)


@pytest.mark.parametrize(("target", "name", "calls"), KERNELS)
def test_kernels(target: str, name: str, calls: Calls) -> None:
    """Forward and all gradients at many sizes, by one thread and by more threads than there are key heads."""
    attend, (_, number, layouts) = laid(name, target), LAYOUTS[name]
    with choosing(number):
        if target == "cpp":
            found = attend.plan_for(heads=4).passes
            assert all(want in str(item.layout) for item, want in zip(found, layouts, strict=False))
        for count, n, n_q, kv_heads, batch in calls:
            with threads(count):
                agree(attend, *tensors(n, n_q, 4, kv_heads, batch))


TYPED = [
    slow("dilated", torch.bfloat16, 16, 16),
    ("columns last", torch.bfloat16, 17, 40),
    ("13 x 13", torch.float16, 24, 17),
    slow("axial, split", torch.bfloat16, 64, 64),
    slow("comb", torch.float16, 16, 24),
]


@pytest.mark.parametrize(("name", "dtype", "dim", "dim_v"), TYPED)
def test_kernels_of_other_types_and_head_sizes(name: str, dtype: torch.dtype, dim: int, dim_v: int) -> None:
    attend = laid(name, "cpp")
    with choosing(LAYOUTS[name][1]):
        for count in (1, 3):
            with threads(count):
                for n, n_q in ((200, 200), (77, 31)):
                    agree(attend, *tensors(n, n_q, 4, 2, dim=dim, dim_v=dim_v, dtype=dtype))


def test_strided_tensors_in_listed_layouts() -> None:
    """Rows of lists and residues out of transposed storage, whose elements are not side by side."""
    attend = laid("all layouts", "cpp")
    with choosing(LAYOUTS["all layouts"][1]):
        base = torch.randn(1, 120, 3, 4, 16)
        q, k, v = (base[:, :, i].transpose(1, 2).requires_grad_() for i in range(3))
        agree(attend, q, k, v)
        q, k, v = (torch.randn(1, 4, 16, 120).transpose(2, 3).requires_grad_() for _ in range(3))
        agree(attend, q, k, v)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", ["all layouts", "strided, then local"])
def test_same_bits_twice(name: str, count: int) -> None:
    with choosing(LAYOUTS[name][1]), threads(count):
        same_bits(laid(name, "cpp"), *tensors(300, heads=4, kv_heads=2), times=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "params"),
    [("sparse_strided", {"stride": 64}), ("longformer_dilated", {"width": 20, "dilations": [1, 2, 4, 3]})],
)
def test_against_the_identity_layout(name: str, params: dict[str, Any]) -> None:
    """What the compiler chooses by itself, and one pass over positions in order: the same but for rounding."""
    chosen, plain = (compiled(name, "cpp", layout=layout, params=params) for layout in ("auto", "identity"))
    layouts = [[item.layout for item in a.plan_for(heads=4).passes] for a in (chosen, plain)]
    assert any(layout != IDENTITY for layout in layouts[0])
    assert all(layout == IDENTITY for layout in layouts[1])
    for n, n_q, kv_heads in ((300, 300, 4), (210, 33, 2), (1, 1, 1)):
        given = tensors(n, n_q, heads=4, kv_heads=kv_heads)
        pairs = zip(*(results(attend, *given) for attend in (chosen, plain)), strict=True)
        for what, (a, b) in zip(("out", "lse", "dq", "dk", "dv"), pairs, strict=True):
            close(what, a, b, 3e-5)
