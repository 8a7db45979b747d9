"""Divisors that come with the call: one compiled pattern serves every chunk and stride, and tiles are skipped."""

from __future__ import annotations

import pytest
import torch

import attnspec
from attnspec.runtime.core.arguments import CallError
from tests.support.marks import slow
from tests.support.oracle import agree, tensors
from tests.support.targets import compiled

BODIES = {
    "chunks": "attend q // chunk == k // chunk  within causal",
    "blocks": "attend k // chunk <= q // chunk",
    "neighbours": "attend q // chunk - k // chunk in 0..2  within causal",
    "stride": "attend (q - k) % chunk == 0  within causal",
    "sinks": "attend k < 5  attend (q + 3) // (chunk + 1) == (k + 3) // (chunk + 1)",
    "residues": "attend (q - k) % 3 == 0 and q // chunk == k // chunk",
    "outside": "attend not (q // chunk == k // chunk)  score s + (q // chunk - k % chunk)",
    "products": "attend k < (q // chunk + 1) * chunk  attend (q // chunk == k // chunk) == (k % 5 == 0)",
    "slots": "order by lsh(buckets = 8, rounds = 2)  attend q.slot // chunk == k.slot // chunk  within causal",
}
QUICK = ("residues", "products", "slots")
CASES = [("cpp", name) if name in QUICK else slow("cpp", name) for name in BODIES]
CASES += [("triton", "chunks"), *(slow("triton", name) for name in BODIES if name != "chunks")]  # type: ignore[misc]


@pytest.mark.parametrize(("target", "name"), CASES)
def test_divisors(target: str, name: str) -> None:
    cpp = target == "cpp"
    attend = compiled(f"attention a {{ input chunk: int[batch, heads]  {BODIES[name]} }}", target)
    for chunks in ((1, 7), (40, 64), (200, 1 << 29)) if cpp else ((7, 64),):
        for n, n_q in ((200, 200), (90, 130), (190, 30)) if cpp and name != "slots" else ((100, 100),):
            agree(attend, *tensors(n, n_q, dim=8), inputs={"chunk": torch.tensor([chunks])})


@pytest.mark.parametrize("dtype", [torch.bfloat16, slow(torch.float16)])
def test_in_16_bits(dtype: torch.dtype) -> None:
    attend = attnspec.compile(f"attention a {{ input chunk: int  {BODIES['neighbours']} }}")
    agree(attend, *tensors(300, kv_heads=1, dtype=dtype), inputs={"chunk": torch.tensor(50)})


def test_every_processor_divides_alike() -> None:
    """Of vectors of 32 bits, by doubles: large numbers, both signs."""
    attend = attnspec.compile("attention a { input far: int  input by: int  attend (far + q) % by == (far + k) % by }")
    for far, by in ((1 << 29, 7), (-(1 << 29), 7), ((1 << 29) + 5, (1 << 29) - 3), (-(1 << 29), 1 << 29), (0, 1)):
        inputs = {"far": torch.tensor(far), "by": torch.tensor(by)}
        agree(attend, *tensors(70, dim=8), inputs=inputs)


@pytest.mark.parametrize("chunk", [0, -3])
def test_a_divisor_must_be_positive(chunk: int) -> None:
    attend = attnspec.compile(f"attention a {{ input chunk: int  {BODIES['chunks']} }}")
    given = tensors(64, dim=8)
    message = f"`chunk` divides, so it must be at least 1, but input `chunk` makes it {chunk}"
    with pytest.raises(CallError, match=message):
        attend(*given, chunk=torch.tensor(chunk))
    traced = torch.compile(lambda q, k, v, chunk: attend(q, k, v, chunk=chunk), fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(*given, torch.tensor(9)), attend(*given, chunk=torch.tensor(9)))
    with pytest.raises(CallError, match=message):
        traced(*given, torch.tensor(chunk))
