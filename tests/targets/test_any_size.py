"""Sizes of inputs that are whatever comes: one compiled pattern serves all of them, and what is outside is outside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.relation.sizes import Sizes
from attnspec.runtime.core.arguments import CallError
from attnspec.runtime.prepare.example import example, example_shape
from tests.support.oracle import agree, tensors
from tests.support.targets import MOSTLY_CPP, TARGETS, compiled

CHOSEN = """
attention a {
    input top: int[batch, heads, n // 16, _]
    input bias: float[heads, _]
    attend k // 16 in top[b, h, q // 16]
    within causal
    score s + bias[h, q - k]
}"""
TABLE = "attention a { input keep: bool[batch, _, _]  attend keep[b, q // 16, k // 16] }"
SORTED = "attention a { input doc: int[batch, _] sorted  attend doc[q] == doc[k]  within k - first(doc, k) < 9 }"


def chosen(n: int, most: int, near: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(most)
    top = torch.randint(-1, n // 16, (1, 2, n // 16, most), generator=generator)
    return {"top": top, "bias": torch.randn(2, near, generator=generator).requires_grad_(near > 0)}


@pytest.mark.parametrize("target", TARGETS)
def test_lists_of_any_length(target: str) -> None:
    attend = compiled(CHOSEN, target)
    for most, near in ((3, 5), (1, 64), (0, 0))[: 3 if target == "cpp" else 1]:
        agree(attend, *tensors(64, heads=2, dim=8), inputs=chosen(64, most, near))


@pytest.mark.slow
@pytest.mark.parametrize("target", MOSTLY_CPP)
def test_tables_and_documents_of_any_length(target: str) -> None:
    """Blocks and positions beyond what is given are false."""
    table, documents = compiled(TABLE, target), compiled(SORTED, target)
    for rows, columns in ((5, 5), (2, 9), (3, 0))[: 3 if target == "cpp" else 1]:
        keep = torch.rand(1, rows, columns, generator=torch.Generator().manual_seed(0)) < 0.5
        agree(table, *tensors(70, dim=8), inputs={"keep": keep})
        assert int(table.mask(n=70, keep=keep).sum()) <= 16 * 16 * int(keep.sum())
    for length in (70, 41, 90, 0)[: 4 if target == "cpp" else 2]:
        agree(documents, *tensors(70, dim=8), inputs={"doc": (torch.arange(length) // 13)[None]})


def test_one_compiled_graph_per_shape() -> None:
    attend = attnspec.compile(CHOSEN)
    torch._dynamo.reset()
    traced = torch.compile(
        lambda q, k, v, top, bias: attend(q, k, v, top=top, bias=bias), fullgraph=True, backend="eager"
    )
    q, k, v = tensors(64, heads=2, dim=8)
    for most, near in ((3, 5), (2, 5)):
        given = chosen(64, most, near)
        torch.testing.assert_close(traced(q, k, v, **given), attend(q, k, v, **given))


def test_the_other_sizes_are_checked() -> None:
    attend = attnspec.compile(CHOSEN)
    q, k, v = tensors(64, heads=2, dim=8)
    given = chosen(64, 3, 5)
    message = r"input `top` has the shape \(1, 2, 5, 3\); it is declared .*, here \(1, 2, 4, _\)"
    with pytest.raises(CallError, match=message):
        attend(q, k, v, **given | {"top": torch.zeros(1, 2, 5, 3, dtype=torch.int64)})
    with pytest.raises(CallError, match=r"is missing: .*here \(2, _\)"):
        attend(q, k, v, top=given["top"])
    with pytest.raises(CallError, match=r"one number is not enough for `input top.*give all of it"):
        attend.cost(n=64, heads=2, top=3)
    with pytest.raises(CallError, match=r"shape \(1, 2, 4, _\)"):
        attend.mask(n=64, heads=2, top=[[1, 2]], bias=given["bias"])


def test_examples_reach_as_far_as_they_are_read() -> None:
    sizes = Sizes(200, 200, 2, 2, 1)
    spec = attnspec.read(CHOSEN)
    top, bias = (example_shape(spec, declared, sizes) for declared in spec.inputs)
    assert (top, bias) == ((1, 2, 12, 16), (2, 200))
    assert example(spec, sizes, torch.Generator())["top"].shape == top
    spec = attnspec.read(TABLE)
    assert example_shape(spec, spec.inputs[0], sizes) == (1, 13, 13)
    spec = attnspec.read(SORTED)
    assert example_shape(spec, spec.inputs[0], sizes) == (1, 200)


def test_costs_and_masks_are_of_what_is_given() -> None:
    attend = attnspec.compile("attention a { input top: int[n // 64, _]  attend k // 64 in top[q // 64] }")
    for most in (1, 2):
        top = torch.arange(most).expand(16, most)
        cost = attend.cost(n=1024, top=top)
        assert cost.pairs == int(attend.mask(n=1024, top=top).sum()) == 1024 * 64 * most
