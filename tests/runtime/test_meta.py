"""Tensors without values, on the device meta or under FakeTensorMode: shapes, dtypes and devices come out."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses import FakeTensorMode

import attnspec
from attnspec.relation.sizes import Sizes
from attnspec.runtime.prepare.example import example
from attnspec.spec.axes import lengths
from tests.support.marks import slow
from tests.support.oracle import tensors
from tests.support.shipped import SOFTMAX

QUICK = ("causal", "packed", "alibi", "gpt_oss")


@pytest.mark.parametrize("name", [name if name in QUICK else slow(name) for name in sorted(SOFTMAX)])
@pytest.mark.parametrize("fake", [False, True])
def test_shapes_of_results_and_gradients(name: str, fake: bool) -> None:
    attend = attnspec.compile(name, **({"dims": 16} if name in ("longrope", "rope_2d") else {}))
    n, n_q = lengths(attend.spec.axes, 64) if attend.spec.axes else (96, 96)
    sizes = Sizes(n, n_q, 4, 2, 2, attend.spec.align == "end", attend.spec.sizes(n, n_q)["m"])
    mode = FakeTensorMode()

    def without_values(t: torch.Tensor) -> torch.Tensor:
        found = mode.from_tensor(t.detach()) if fake else t.detach().to("meta")
        return found.requires_grad_(t.is_floating_point())

    vectors = tensors(n, n_q, heads=4, kv_heads=2, batch=2, dim_v=24, dtype=torch.bfloat16)
    q, k, v = map(without_values, vectors)
    given = example(attend.spec, sizes, torch.Generator().manual_seed(0))
    inputs = {item: without_values(t) for item, t in given.items()}
    with mode if fake else nullcontext():
        out, lse = attend(q, k, v, return_lse=True, inputs=inputs)
        assert (out.shape, out.dtype) == ((2, 4, n_q, 24), torch.bfloat16)
        assert (lse.shape, lse.dtype) == ((2, 4, n_q), torch.float32)
        assert out.device == lse.device == q.device
        wanted = [q, k, v, *(t for t in inputs.values() if t.requires_grad)]
        found = torch.autograd.grad(out.float().sum() + lse.sum(), wanted, allow_unused=True)
        assert all(t is not None for t in found[:3])
        for t, gradient in zip(wanted, found, strict=True):
            assert gradient is None or (gradient.shape, gradient.dtype) == (t.shape, t.dtype)


def test_wrong_calls_are_refused_there_too() -> None:
    q, k, v = (t.detach().to("meta") for t in tensors(10))
    attend = attnspec.compile("packed")
    with pytest.raises(attnspec.CallError, match="input `doc` is missing"):
        attend(q, k, v)
    with pytest.raises(attnspec.CallError, match="has the shape"):
        attend(q, k, v, doc=torch.zeros(1, 11, dtype=torch.int64, device="meta"))
    with pytest.raises(attnspec.CallError, match="`doc` is on cpu, but q is on meta"):
        attend(q, k, v, doc=torch.zeros(1, 10, dtype=torch.int64))
    with pytest.raises(attnspec.CallError, match="q is on meta"):
        attnspec.compile("packed", target="dense")(q, k, v)
