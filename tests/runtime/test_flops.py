"""FlopCounterMode counts the pairs of a pattern by the formulas that PyTorch has for SDPA."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

import attnspec
from attnspec.codegen.cost import counted
from tests.support.marks import slow
from tests.support.oracle import tensors
from tests.support.targets import compiled


def operations(function: Callable[[], Any]) -> dict[str, int]:
    with FlopCounterMode(display=False) as counter:
        function()
    found = counter.get_flop_counts().get("Global", {})
    return {str(operator).removeprefix("attnspec."): count for operator, count in found.items()}


@pytest.mark.parametrize("target", ["cpp", "triton"])
def test_all_pairs_are_counted_as_those_of_sdpa(target: str) -> None:
    q, k, v = tensors(13, 10, heads=4, batch=2, dim=16, dim_v=8)
    attend = compiled("dense", target)
    assert operations(lambda: attend(q, k, v).sum().backward()) == {
        "attend_bare": sdpa_flop_count(q.shape, k.shape, v.shape),
        "attend_bare_backward": sdpa_backward_flop_count((*q.shape[:3], 8), q.shape, k.shape, v.shape),
    }


def test_square_heads_and_grouped_ones() -> None:
    """Backward is 2.5 times forward where dim and dim_v are one size; grouped heads count as if keys were repeated."""
    q, k, v = tensors(30, heads=4, kv_heads=2)
    assert operations(lambda: attnspec.compile("causal")(q, k, v).sum().backward()) == {
        "attend_bare": 4 * 16 * 4 * 465,
        "attend_bare_backward": 10 * 16 * 4 * 465,
    }


LSH = "attention a { order by lsh(buckets = 4, rounds = 2)  attend q.slot // 4 - k.slot // 4 in 0..2 }"
DOC = torch.tensor([[0, 0, 1, 1, 1, 1, 4, 4, 5, 5], [0] * 10])


@pytest.mark.parametrize(
    ("text", "inputs"),
    [
        *(slow("window", {}), slow("longnet", {})),
        slow("attention a(rates = [1, 2]) { attend (q - k) % rates[h] == 0 and k <= q + b }", {}),
        ("packed", {"doc": DOC}),
        slow("packed_offsets", {"cu_seqlens": torch.tensor([0, 3, 10])}),
        slow("padded", {"length": torch.tensor([3, 7])}),
        ("block_topk", {"top": torch.zeros((2, 2, 1, 32), dtype=torch.int64)}),
        slow(
            "attention a { input bias: float[n_q, n]  attend causal  score s + bias[q, k] }",
            {"bias": torch.ones(10, 10)},
        ),
        (
            "attention a { input w: int[batch]  attend q // w[b] == k // w[b] and k <= q }",
            {"w": torch.tensor([4, 7])},
        ),
        slow(
            "attention a { input keep: bool[batch, n_q // 2, n // 2]  attend keep[b, q // 2, k // 2] }",
            {"keep": torch.eye(5, dtype=torch.bool).expand(2, 5, 5)},
        ),
        (LSH, {"buckets": torch.arange(80).view(2, 2, 2, 10) % 4}),
    ],
)
def test_pairs_are_those_of_the_call(text: str, inputs: dict[str, torch.Tensor]) -> None:
    q, k, v = tensors(10, heads=2, batch=2)
    attend = attnspec.compile(text)
    with torch.no_grad():
        (found,) = operations(lambda: attend(q, k, v, **inputs)).values()
    assert found == 64 * attend.mask(10, heads=2, batch=2, inputs=inputs).sum()


def test_rotations_in_the_kernel_are_counted_alike() -> None:
    q, k, v = tensors(10)
    attend = attnspec.compile("rope")
    with torch.no_grad():
        assert operations(lambda: attend(q, k, v)) == {"attend_turning": 64 * 2 * 55}
    assert operations(lambda: attend(q, k, v)) == {"attend_bare": 64 * 2 * 55}


def test_without_values_what_is_possible_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (t.detach().to("meta") for t in tensors(10, batch=2))
    assert operations(lambda: attnspec.compile("packed")(q, k, v, doc=DOC.to("meta"))) == {"attend": 64 * 4 * 55}
    length = torch.ones(2, device="meta", dtype=torch.int64)
    assert operations(lambda: attnspec.compile("padded")(q, k, v, length=length)) == {"attend": 64 * 4 * 100}
    monkeypatch.setattr(counted, "_MOST_TILES", 0)
    with pytest.warns(UserWarning, match="FlopCounterMode counts what is possible"):
        found = operations(lambda: attnspec.compile("packed")(*(t.detach() for t in tensors(10, batch=2)), doc=DOC))
    assert found == {"attend": 64 * 4 * 55}


@pytest.mark.slow
def test_a_counter_made_before_or_imported_late_counts() -> None:
    """Its module takes half a second to import: it is told when somebody has imported it."""
    lines = """
        import sys, torch, attnspec
        q = torch.randn(1, 1, 10, 8, requires_grad=True)
        attend = attnspec.compile("causal")
        out = attend(q, q, q)
        assert "torch.utils.flop_counter" not in sys.modules
        from torch.utils.flop_counter import FlopCounterMode
        with FlopCounterMode(display=False) as counter:
            out.sum().backward()
        assert counter.get_total_flops() == 10 * 8 * 55, counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            attend(q, q, q)
        assert counter.get_total_flops() == 4 * 8 * 55, counter.get_total_flops()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(lines)], check=True)


@pytest.mark.slow
def test_weights_by_features_are_counted_as_their_kernels_compute_them() -> None:
    """States included; where inputs say which documents there are, those of the call."""
    q, k, v = tensors(700, heads=2)
    attend = attnspec.compile("linear")
    found = attend.cost(n=700, heads=2, dim=16)
    assert operations(lambda: attend(q, k, v).sum().backward()) == {
        "attend_linear": found.flops,
        "attend_linear_backward": found.backward_flops,
    }
    documents, doc = attnspec.compile("linear_documents"), torch.arange(700)[None] // 100
    want = documents.cost(n=700, heads=2, dim=16, doc=doc).flops
    assert operations(lambda: documents(q, k, v, doc=doc)) == {"attend_linear": want}
