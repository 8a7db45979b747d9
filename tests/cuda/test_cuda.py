"""Triton kernels on a GPU, under the rest of PyTorch.

To be run by itself: ``TRITON_INTERPRET=0 pytest tests/cuda``. Not run on a GPU yet by those who wrote it.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

import attnspec
from attnspec.relation.sizes import Sizes
from attnspec.runtime.bench import kernel_checks as checks
from attnspec.runtime.bench.kernel_checks import BASE
from attnspec.runtime.bench.race import bench
from attnspec.runtime.bench.setup import Setup
from attnspec.runtime.core.arguments import CallError
from tests.support.oracle import TOLERANCE, agree, tensors
from tests.support.pages import InPages, agree_in_pages, in_pages
from tests.support.parts import Cuts, agree_in_parts
from tests.support.shipped import SMALL, SOFTMAX
from tests.support.shipped import call_of as shipped_call

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1",
        reason="Triton kernels are interpreted in this process: run with TRITON_INTERPRET=0",
    ),
]

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def on_gpu(*given: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.detach().cuda().requires_grad_(t.requires_grad) for t in given)


def call_of(
    name: str, dtype: torch.dtype, n: int = 97, dim: int = 64
) -> tuple[attnspec.Attention, tuple[Tensor, ...], dict[str, Tensor]]:
    """A shipped spec with tensors and example inputs on the GPU."""
    attend = attnspec.compile(name, params=SMALL.get(name, {}))
    given, inputs = shipped_call(attend, n, dim, dtype)
    return attend, on_gpu(*given), dict(zip(inputs, on_gpu(*inputs.values()), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SOFTMAX)
def test_shipped_spec(name: str, dtype: torch.dtype) -> None:
    attend, (q, k, v), inputs = call_of(name, dtype, n=397)
    agree(attend, q, k, v, inputs=inputs)


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("dim", checks.DIMS)
def test_every_schedule(dim: int, dtype: str) -> None:
    first, _ = checks.checks()
    for check in (one for one in first if one.case is BASE and (one.dim, one.dtype) == (dim, dtype)):
        assert checks.run(check).fine, str(check)


GRAPHS = [
    "causal", "window", "longformer", "alibi", "t5_bias", "gpt_oss", "rope", "packed", "packed_window", "reformer",
    "longnet", "memory", "block_topk", "sparse_strided", "packed_offsets", "xpos",
]  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_a_cuda_graph_captures_forward_and_backward(name: str) -> None:
    """After one call, as is usual: kernels are compiled, schedules measured and tables made then."""
    attend, (q, k, v), inputs = call_of(name, torch.bfloat16)
    call: Any = attend
    gradient = torch.randn_like(q)

    def step() -> tuple[Tensor, ...]:
        out = call(q, k, v, **inputs)
        return out, *torch.autograd.grad(out, (q, k, v), gradient)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for t in (q, k, v):
            t.copy_(torch.randn_like(t))
    graph.replay()
    torch.cuda.synchronize()
    for got, want in zip(captured, step(), strict=True):
        torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)  # orders may differ in ties


@pytest.mark.parametrize("name", GRAPHS)
def test_torch_compile_without_graph_breaks(name: str) -> None:
    torch.compiler.reset()
    attend, (q, k, v), inputs = call_of(name, torch.float32)
    call: Any = attend
    whole = torch.compile(lambda q, k, v, given: call(q * 2, k, v, **given) + 1, fullgraph=True)
    got, want = whole(q, k, v, inputs), call(q * 2, k, v, **inputs) + 1
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    found = [torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (got, want)]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype: torch.dtype) -> None:
    attend, (q, k, v), _ = call_of("window", torch.float32)
    with torch.autocast("cuda", dtype=dtype):
        out = attend(q, k, v)
    assert out.dtype == dtype
    gradients = torch.autograd.grad(out.float().sum(), (q, k, v))
    assert all(g.dtype == torch.float32 for g in gradients)
    error = (out.float() - attend(q, k, v)).abs().max()
    assert float(error.detach()) < TOLERANCE[dtype]


def test_the_same_bits_twice() -> None:
    attend, (q, k, v), _ = call_of("longformer", torch.bfloat16, n=1000)

    def once() -> list[Tensor]:
        out, lse = attend(q, k, v, return_lse=True)
        return [out, lse, *torch.autograd.grad((out.float() ** 2).sum() + lse.sum(), (q, k, v))]

    assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))


def test_decoding_with_keys_shared_out() -> None:
    attend = attnspec.compile("causal")
    agree(attend, *on_gpu(*tensors(5000, 1, 8, 2, 2, 64, dtype=torch.float16)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["causal", "window", "dilated", "longformer", "alibi", "t5_bias", "gpt_oss"])
def test_parts(name: str, dtype: torch.dtype) -> None:
    """Merged, and added in the kernel, at the head size where registers are scarcest."""
    attend, given, inputs = call_of(name, dtype, n=397, dim=128)
    agree_in_parts(attend, *given, Cuts((0.3,), (0.0, 0.4), (0.5,)), inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_q", [1, 3, 20])
def test_pages(n_q: int, dtype: torch.dtype) -> None:
    held = in_pages((370, 0, 1, 700), 16, dim=64, dtype=dtype)
    pages = InPages(*([t.cuda() for t in part] if isinstance(part, list) else part.cuda() for part in held))
    q = torch.randn(4, 4, n_q, 64, device="cuda", dtype=dtype)
    agree_in_pages(attnspec.compile("window", width=128), q, pages)


def test_inputs_on_another_device_are_refused() -> None:
    attend, (q, k, v), inputs = call_of("packed", torch.float16)
    call: Any = attend
    with pytest.raises(CallError, match="is on cpu, but q is on cuda:0"):
        call(q, k, v, doc=inputs["doc"].cpu())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_second_device() -> None:
    attend, (q, k, v), _ = call_of("window", torch.float16)
    other = [t.detach().to("cuda:1") for t in (q, k, v)]
    out = attend(*other)
    assert out.device == torch.device("cuda:1")
    assert torch.equal(out.cpu(), attend(q, k, v).detach().cpu())


def test_more_than_two_to_the_31_elements() -> None:
    n, dim = (1 << 25) + 4097, 64
    free, _ = torch.cuda.mem_get_info()
    if free < 16 * n * dim * 2:
        pytest.skip(f"needs {16 * n * dim * 2 >> 30} GiB of free GPU memory; {free >> 30} GiB are free")
    attend = attnspec.compile("window", width=200)
    q, k, v, dout = (torch.randn(1, 1, n, dim, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    leaves = [t.requires_grad_() for t in (q, k, v)]
    out = attend(q, k, v)
    dq, dk, dv = torch.autograd.grad(out, leaves, dout)
    tail = 1024
    ends = [t[:, :, -tail:].detach().clone().requires_grad_() for t in (q, k, v)]
    want = attend(*ends)
    grads = torch.autograd.grad(want, ends, dout[:, :, -tail:])
    for got, exact in ((out, want), (dq, grads[0])):
        assert torch.equal(got[:, :, 200 - tail :], exact[:, :, 200 - tail :])
    for got, exact in ((dk, grads[1]), (dv, grads[2])):
        torch.testing.assert_close(got[:, :, 300 - tail :], exact[:, :, 300 - tail :], atol=3e-2, rtol=3e-2)


def test_a_benchmark() -> None:
    setup = Setup(Sizes(1024, 1024, 4, 4), 64, torch.bfloat16, False, 3, torch.device("cuda", 0))
    found = bench(attnspec.compile("window", width=128), setup, flex=False)
    assert {"attnspec", "SDPA causal", "SDPA mask", "attnspec causal"} <= found.timings.keys()
    assert found.notes["SDPA causal"] in ("flash", "cudnn", "efficient")
    assert found.predicted is not None
    assert found.predicted.times is not None
    assert 0 < found.predicted.times.forward < found.timings["attnspec"].median
